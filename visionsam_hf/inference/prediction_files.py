"""What `visionsam predict` reads and writes.

It is asked by prompts for many photographs, from a list or from a COCO file, and answers with masks, overlays, a JSON
line a mask, and a COCO file for any annotation tool:

    DIR/
    ├── coco.json            run-length masks with scores; empty masks are left out
    ├── predictions.jsonl    a line a prompt, empty masks too
    ├── masks/<name>-1.png   1-bit, at the photograph's size
    └── overlays/<name>.jpg
"""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from datasets_builders.photographs import image_files, path_inside
from visionsam_hf.data.errors import UserError, writing
from visionsam_hf.data.files import names_in, written_directory
from visionsam_hf.data.masks import decode_rle, encode_mask, encode_rle, mask_box
from visionsam_hf.data.overlays import PREDICTION, Overlay, draw
from visionsam_hf.data.records import looks_local

CATEGORY = "defect"  # of a prompt that names none
_KEYS = {"image", "box", "point", "category"}


@dataclass(frozen=True)
class Prompt:
    """A box [x1, y1, x2, y2) or a point (x, y) in pixels of the photograph; neither asks for everything in it."""

    box: tuple[float, ...] = ()
    point: tuple[float, ...] = ()
    category: str = CATEGORY

    @property
    def kind(self) -> str:
        """ "box", "point" or "everything"."""
        return "box" if self.box else "point" if self.point else "everything"

    def check(self, size: tuple[int, int], where: str) -> None:
        """Refuse what is not inside a photograph of (width, height); `where` names the place of the prompt."""
        width, height = size
        if self.box:
            x1, y1, x2, y2 = self.box
            if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
                wrong = f"{list(self.box)} is not a box inside the {width} x {height} image"
                raise UserError(f"{where}: {wrong}; give X1 < X2 and Y1 < Y2")
        elif self.point and not (0 <= self.point[0] < width and 0 <= self.point[1] < height):
            raise UserError(f"{where}: {list(self.point)} is outside the {width} x {height} image")


@dataclass
class Asked:
    """The prompts of one photograph.

    Attributes:
        name: the file as the list names it. path: where it lies.
        prompts: with the place each came from, for messages.
        coco_id: of the photograph in the COCO file that it came from.
    """

    name: str
    path: Path
    prompts: list[tuple[Prompt, str]] = field(default_factory=list)
    coco_id: int | None = None


def same_prompt(image: Path, prompt: Prompt, where: str) -> list[Asked]:
    """One prompt for a photograph, or for every photograph in a folder."""
    if image.is_file():
        return [Asked(image.name, image, [(prompt, where)])]
    if not image.is_dir():
        raise UserError(f"{image}: no such image or folder")
    paths = image_files(image)
    if not paths:
        raise UserError(f"{image}: holds no images; give a photograph or a folder of them")
    return [Asked(path.relative_to(image).as_posix(), path, [(prompt, where)]) for path in paths]


def read_prompts(file: Path, folder: Path) -> tuple[list[Asked], dict[str, int]]:
    """The prompts in a file, by photograph in the order of their first mention.

    Args:
        file: `.jsonl`, with a line each such as {"image": "a.png", "box": [10, 20, 60, 80], "category": "scratch"}, or
            with "point": [x, y]; or `.json` in COCO's format, whose boxes are the prompts.
        folder: that image names are relative to.

    Returns:
        What is asked, and category name to its id: the COCO file's own, or numbers from 1.

    Raises:
        UserError: a damaged line or file, a missing photograph, nothing asked.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file; give a list of prompts (.jsonl) or a COCO file (.json)")
    if not folder.is_dir():
        raise UserError(f"{folder}: is not a folder; --prompts needs the folder that image names are relative to")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error}); save it as UTF-8 text") from None
    asked, categories = (_read_coco if file.suffix == ".json" else _read_lines)(file, text, folder)
    if not asked:
        raise UserError(f"{file}: asks for nothing; it needs at least one box or point")
    return asked, categories


def _read_lines(file: Path, text: str, folder: Path) -> tuple[list[Asked], dict[str, int]]:
    asked: dict[str, Asked] = {}
    categories: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        where = f"{file}:{number}"
        try:
            values = json.loads(line)
        except ValueError as error:
            raise UserError(f"{where}: is not JSON ({error}); write one object a line") from None
        if not isinstance(values, dict) or not isinstance(values.get("image"), str) or set(values) - _KEYS:
            raise UserError(f"{where}: must be an object with 'image', 'box' or 'point', and maybe 'category'")
        box, point = (_numbers(values, key, count, where) for key, count in (("box", 4), ("point", 2)))
        if bool(box) == bool(point):
            raise UserError(f"{where}: give one prompt, 'box': [x1, y1, x2, y2] or 'point': [x, y]")
        category = str(values.get("category", CATEGORY))
        categories.setdefault(category, len(categories) + 1)
        name = values["image"]
        if name not in asked:
            asked[name] = Asked(name, _photograph(folder, name, where))
        asked[name].prompts.append((Prompt(box, point, category), where))
    return list(asked.values()), categories


def _numbers(values: Mapping[str, Any], key: str, count: int, where: str) -> tuple[float, ...]:
    given = values.get(key)
    if given is None:
        return ()
    if (
        not isinstance(given, list)
        or len(given) != count
        or not all(isinstance(value, (int, float)) and math.isfinite(value) for value in given)
    ):
        raise UserError(f"{where}: '{key}' must be {count} numbers, not {given!r}")
    return tuple(float(value) for value in given)


def _read_coco(file: Path, text: str, folder: Path) -> tuple[list[Asked], dict[str, int]]:
    try:
        values = json.loads(text)
        names = {int(entry["id"]): str(entry["name"]) for entry in values["categories"]}
        asked = {
            int(entry["id"]): Asked(entry["file_name"], folder / entry["file_name"], coco_id=int(entry["id"]))
            for entry in values["images"]
        }
        for number, entry in enumerate(values["annotations"]):
            where = f"{file}: annotation {entry.get('id', number)}"
            x, y, width, height = _numbers(entry, "bbox", 4, where)
            prompt = Prompt((x, y, x + width, y + height), (), names[int(entry["category_id"])])
            asked[int(entry["image_id"])].prompts.append((prompt, where))
    except (ValueError, KeyError, TypeError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise UserError(f"{file}: is no COCO file with boxes ({problem}); mend or export it again") from None
    found = [entry for entry in asked.values() if entry.prompts]
    for entry in found:
        entry.path = _photograph(folder, entry.name, str(file))
    return found, {name: identifier for identifier, name in names.items()}


def _photograph(folder: Path, name: str, where: str) -> Path:
    path = path_inside(folder, name, where)
    if not path.is_file():
        raise UserError(f"{where}: no image '{name}' in {folder}; name files relative to that folder")
    return path


def checked(asked: list[Asked]) -> Iterator[Asked]:
    """What is asked, each prompt checked against its photograph's size, of which only the header is read."""
    for entry in asked:
        try:
            with Image.open(entry.path) as image:
                width, height = image.size
                turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"{entry.path}: is not an image ({error}); replace or remove it") from None
        for prompt, where in entry.prompts:
            prompt.check((height, width) if turned else (width, height), where)
        yield entry


COCO = "coco.json"
LINES = "predictions.jsonl"


@dataclass(frozen=True)
class Predicted:
    """One mask as its run-length code, with the model's score, and the prompt that gave it."""

    prompt: Prompt
    rle: dict[str, Any]
    score: float

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool, decoded anew: many masks of a large photograph would take gigabytes."""
        return decode_rle(self.rle)


def predicted(prompt: Prompt, mask: np.ndarray, score: float) -> Predicted:
    """What `Predicted` keeps of an (H, W) bool mask."""
    return Predicted(prompt, encode_rle(mask), score)


@contextlib.contextmanager
def replaced_directory(output: Path) -> Iterator[Path]:
    """A directory beside `output` that takes its place when the work is done, and goes when it fails.

    Raises:
        UserError: `output` holds something else than earlier predictions, or cannot be written.
    """
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: is a file; choose another --output")
    names = names_in(output)
    if names and COCO not in names:
        raise UserError(f"{output}: holds files that predict did not write; choose another --output")
    with writing(output.parent), written_directory(output) as work, writing(work):
        yield work


class PredictionWriter:
    """Writes predictions photograph by photograph; memory holds no pixels of those before.

    Args:
        directory: takes the files.
        categories: name to id, as in the COCO file that the prompts came from.
        short_names: for one mask of one photograph: `mask.png` and `overlay.png`.
        model: whose masks they are; its name, not its path, goes into the COCO file.
    """

    def __init__(
        self, directory: Path, categories: Mapping[str, int], *, model: str, short_names: bool = False
    ) -> None:
        self.model = Path(model).name if looks_local(model) else model
        self.directory, self.categories, self.short_names = directory, dict(categories), short_names
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.empty = 0
        self._stems: set[str] = set()
        self._lines = (directory / LINES).open("w", encoding="utf-8")

    def __enter__(self) -> "PredictionWriter":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self._lines.close()
        if kind is None:
            self._write_coco()

    def add(self, asked: Asked, image: np.ndarray, predicted: Sequence[Predicted]) -> None:
        """Write the masks of one photograph, (H, W, 3) uint8; all masks are of its size."""
        stem = self._stem(asked.name)
        image_id = len(self.images) + 1 if asked.coco_id is None else asked.coco_id
        height, width = image.shape[:2]
        self.images.append({"id": image_id, "file_name": asked.name, "width": width, "height": height})
        # Boxes below outlines, as if drawn at once.
        thickness = max(1, round(max(height, width) / 400))
        boxes = [Overlay(box=found.prompt.box) for found in predicted if found.prompt.box]
        drawn = draw(image, boxes, thickness=thickness)
        for number, found in enumerate(predicted, 1):
            path = self.directory / ("mask.png" if self.short_names else f"masks/{stem}-{number}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            mask = found.mask
            encode_mask(mask).save(path)
            drawn = draw(drawn, [Overlay(mask, PREDICTION)], thickness=thickness)
            area = int(mask.sum())
            line = {
                "image": asked.name,
                "prompt": prompt_words(found.prompt),
                "category": found.prompt.category,
                "score": round(float(found.score), 4),
                "area": area,
                "box": mask_box(mask) if area else None,
                "mask": path.relative_to(self.directory).as_posix(),
            }
            self._lines.write(json.dumps(line) + "\n")
            if area:
                self._annotate(image_id, found, line)
            else:
                self.empty += 1
        overlay = self.directory / ("overlay.png" if self.short_names else f"overlays/{stem}.jpg")
        overlay.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn).save(overlay, quality=90)

    def _stem(self, name: str) -> str:
        """The name without its suffix, unless another photograph has that one too (`a.png`, `a.jpg`)."""
        stem = Path(name).with_suffix("").as_posix()
        stem = stem if stem not in self._stems else name.replace(".", "_")
        self._stems.add(stem)
        return stem

    def _annotate(self, image_id: int, found: Predicted, line: Mapping[str, Any]) -> None:
        x1, y1, x2, y2 = line["box"]
        self.annotations.append(
            {
                "id": len(self.annotations) + 1,
                "image_id": image_id,
                "category_id": self.categories.setdefault(
                    found.prompt.category, max(self.categories.values(), default=0) + 1
                ),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": line["area"],
                "segmentation": found.rle,
                "iscrowd": 0,
                "score": line["score"],
            }
        )

    def _write_coco(self) -> None:
        coco = {
            "info": {"description": "Masks predicted by visionsam_hf", "model": self.model},
            "images": self.images,
            "annotations": self.annotations,
            "categories": [{"id": identifier, "name": name} for name, identifier in self.categories.items()],
        }
        (self.directory / COCO).write_text(json.dumps(coco) + "\n", encoding="utf-8")


def prompt_words(prompt: Prompt) -> dict[str, Any]:
    """The prompt as it is written in JSON."""
    if prompt.kind == "everything":
        return {"everything": True}
    return {prompt.kind: list(prompt.box or prompt.point)}
