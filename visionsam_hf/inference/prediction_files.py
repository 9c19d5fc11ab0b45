"""What `visionsam predict` writes: masks, overlays, a JSON line a mask, and a COCO file for any annotation tool.

    DIR/
    ├── coco.json            run-length masks with scores; empty masks are left out
    ├── predictions.jsonl    a line a prompt, empty masks too
    ├── masks/<name>-1.png   1-bit, at the photograph's size
    └── overlays/<name>.jpg
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from visionsam_hf.data.errors import UserError, writing
from visionsam_hf.data.files import written_directory
from visionsam_hf.data.masks import encode_mask, encode_rle, mask_box
from visionsam_hf.data.overlays import PREDICTION, Overlay, draw
from visionsam_hf.inference.prompt_files import Asked, Prompt

COCO = "coco.json"
LINES = "predictions.jsonl"


@dataclass(frozen=True)
class Predicted:
    """One mask (H, W) bool with the model's score, and the prompt that gave it."""

    prompt: Prompt
    mask: np.ndarray
    score: float


@contextlib.contextmanager
def replaced_directory(output: Path) -> Iterator[Path]:
    """A directory beside `output` that takes its place when the work is done, and goes when it fails.

    Raises:
        UserError: `output` holds something else than earlier predictions, or cannot be written.
    """
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: is a file; choose another --output")
    if output.is_dir() and any(output.iterdir()) and not (output / COCO).is_file():
        raise UserError(f"{output}: holds files that predict did not write; choose another --output")
    with writing(output.parent), written_directory(output) as work, writing(work):
        yield work


class PredictionWriter:
    """Writes predictions photograph by photograph; memory holds no pixels of those before.

    Args:
        directory: takes the files.
        categories: name to id, as in the COCO file that the prompts came from.
        short_names: for one mask of one photograph: `mask.png` and `overlay.png`.
    """

    def __init__(self, directory: Path, categories: Mapping[str, int], *, short_names: bool = False) -> None:
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
        for number, found in enumerate(predicted, 1):
            path = self.directory / ("mask.png" if self.short_names else f"masks/{stem}-{number}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            encode_mask(found.mask).save(path)
            area = int(found.mask.sum())
            line = {
                "image": asked.name,
                "prompt": prompt_words(found.prompt),
                "category": found.prompt.category,
                "score": round(float(found.score), 4),
                "area": area,
                "box": mask_box(found.mask) if area else None,
                "mask": path.relative_to(self.directory).as_posix(),
            }
            self._lines.write(json.dumps(line) + "\n")
            if area:
                self._annotate(image_id, found, line)
            else:
                self.empty += 1
        overlay = self.directory / ("overlay.png" if self.short_names else f"overlays/{stem}.jpg")
        overlay.parent.mkdir(parents=True, exist_ok=True)
        shown = [Overlay(found.mask, PREDICTION, found.prompt.box or None) for found in predicted]
        drawn = draw(image, shown, thickness=max(1, round(max(height, width) / 400)))
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
                "segmentation": encode_rle(found.mask),
                "iscrowd": 0,
                "score": line["score"],
            }
        )

    def _write_coco(self) -> None:
        coco = {
            "info": {"description": "Masks predicted by visionsam_hf"},
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
