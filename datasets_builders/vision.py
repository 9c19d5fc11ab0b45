"""The VISION data set: 14 industrial products, 44 kinds of defects, COCO polygons.

Its annotation files come encoded twice, with scraps of polygons, over the edge: the second half reads them as they are.
"""

import json
import math
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from pycocotools import mask as coco_mask

from datasets_builders.photographs import path_inside, read_photograph, unpack
from datasets_builders.planned import Plan, PlannedBuilder, PlannedConfig, Remark, assign_splits, files_digest
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.masks import encode_mask

CATEGORIES = (
    *("Cable", "Capacitor", "Casting", "Console", "Cylinder", "Electronics", "Groove"),
    *("Hemisphere", "Lens", "PCB_1", "PCB_2", "Ring", "Screw", "Wood"),
)
ANNOTATIONS = "_annotations.coco.json"
_ARCHIVES = ("*.tar.gz", "*.tgz", "*.tar")


@dataclass(frozen=True)
class CocoObject:
    """An annotation: its class name and its segmentation as the file has it, decoded."""

    defect: str
    segmentation: Any


@dataclass(frozen=True)
class CocoImage:
    """An entry of the `images` list with its annotations."""

    file_name: str
    width: int
    height: int
    objects: tuple[CocoObject, ...]


@dataclass(frozen=True)
class VisionImage:
    """An annotated image on disk."""

    image_id: str
    path: Path
    category: str
    entry: CocoImage


@dataclass
class VisionConfig(PlannedConfig):
    """Settings of `Vision`.

    Attributes:
        data_dir: folder with `<Category>.tar.gz` archives, unpacked `<Category>` folders, or both.
        categories: those to take (default: all that are there).
        heldout_categories: categories that go to `heldout`, whole.
        validation: share of VISION's own `train` images for `validation`; its `val` images are the `test` split.
    """

    DATA = "VISION's download"

    categories: list[str] = field(default_factory=list)
    heldout_categories: list[str] = field(default_factory=list)
    validation: float = 0.1

    def source_manifest(self) -> str:
        """The content of every annotation file; name, size and time of every archive and image."""
        root = self.root()
        files = sorted(item for item in root.rglob("*") if item.is_file() and not item.name.startswith("."))
        return files_digest(root, files, lambda path: path.name == ANNOTATIONS)


class Vision(PlannedBuilder):
    """VISION as a segmentation data set, from its archives or from unpacked folders.

        DATA_DIR/
        ├── Cable.tar.gz                             either this ...
        └── Capacitor/                               ... or this, per category
            ├── train/_annotations.coco.json
            ├── train/000000.jpg
            ├── val/...
            └── inference/...                        no annotations: not used

    Archives are unpacked under `cache_dir`, once. Images are taken from the annotation files' lists, so stray files
    do no harm. Images of `train` and `val` without an annotation are left out and counted: nothing says they are good.

    Example:
        builder = Vision(data_dir="VISION-Datasets", heldout_categories=["Lens", "Ring", "Wood"])
        builder.download_and_prepare(num_proc=2)
        heldout = builder.as_dataset("heldout")
    """

    BUILDER_CONFIG_CLASS = VisionConfig

    def __init__(self, *args: Any, cache_dir: str | None = None, **kwargs: Any) -> None:
        self._unpacked = Path(cache_dir or datasets.config.HF_DATASETS_CACHE) / "vision-unpacked"
        super().__init__(*args, cache_dir=cache_dir, **kwargs)

    def plan(self) -> Plan:
        """Unpack what is packed, read the annotation files, draw the splits."""
        problems: list[Remark] = []
        found: dict[str, list[VisionImage]] = {"train": [], "val": []}
        for category, folder in self.chosen(self._folders()).items():
            if category not in CATEGORIES:
                message = f"{folder}: unknown category '{category}'; VISION's are {', '.join(CATEGORIES)}"
                self.leave_out(problems, category, message)
                continue
            for part, images in found.items():
                images += self._annotated(folder, category, part, problems)
        splits = self._drawn(found)
        names = sorted({image.category for images in found.values() for image in images})
        return Plan(names, splits, tuple(problems))

    def _folders(self) -> dict[str, Path]:
        root = self.config.root()
        folders = {path.name: path for path in sorted(root.iterdir()) if _is_category_folder(path)}
        for archive in sorted(path for pattern in _ARCHIVES for path in root.glob(pattern)):
            name = archive.name.split(".")[0]
            wanted = not self.config.categories or name in self.config.categories
            if name in folders or archive.name.startswith(".") or not wanted:
                continue
            unpacked = unpack(archive, self._unpacked)
            candidates = [unpacked, unpacked / name, *sorted(unpacked.iterdir())]
            folder = next((path for path in candidates if _is_category_folder(path)), None)
            if folder is None:
                raise UserError(f"{archive}: holds no train/{ANNOTATIONS}; download VISION's archive again")
            folders[name] = folder
        return dict(sorted(folders.items()))

    def _annotated(self, folder: Path, category: str, part: str, problems: list[Remark]) -> list[VisionImage]:
        listing = folder / part / ANNOTATIONS
        if not listing.is_file():
            return []
        try:
            entries, messages = read_coco(listing)
        except UserError as error:
            self.leave_out(problems, f"{category}/{part}", str(error))
            return []
        for message in messages:
            self.leave_out(problems, f"{category}/{part}", message)
        images = []
        for entry in entries:
            image_id = f"{category}/{part}/{Path(entry.file_name).with_suffix('').as_posix()}"
            try:
                path = path_inside(folder / part, entry.file_name, listing)
                if not path.is_file():
                    raise UserError(f"{path}: the image is missing, though {ANNOTATIONS} lists it; unpack it again")
            except UserError as error:
                self.leave_out(problems, image_id, str(error))
                continue
            if not entry.objects:
                problems.append(Remark("skipped", image_id, f"{path}: has no annotation, and may not be a good part"))
                continue
            images.append(VisionImage(image_id, path, category, entry))
        return images

    def _drawn(self, found: dict[str, list[VisionImage]]) -> dict[str, list[Any]]:
        config = self.config
        images = found["train"] + found["val"]
        # Its own division stands: only `validation` is drawn, from `train`.
        whole = [(image.category, image.image_id) for image in images]
        assign_splits(whole, heldout=config.heldout_categories)  # for its checks, on all of them
        drawn = assign_splits(
            [pair for pair in whole[: len(found["train"])] if pair[0] not in config.heldout_categories],
            validation=config.validation,
            seed=config.seed,
        )
        validation = iter(drawn)
        splits: dict[str, list[Any]] = defaultdict(list)
        for place, image in enumerate(images):
            is_train = place < len(found["train"])
            if image.category in config.heldout_categories:
                splits["heldout"].append(image)
            else:
                splits[str(next(validation)) if is_train else "test"].append(image)
        return dict(splits)

    def image_id(self, record: VisionImage) -> str:
        """Category, part and file name without suffix."""
        return record.image_id

    def row(self, record: VisionImage) -> tuple[dict[str, Any], list[Remark]]:
        """Read the photograph and draw its masks."""
        photograph = read_photograph(record.path)
        remarks = [Remark("changed", record.image_id, change) for change in photograph.changes]
        width, height = photograph.size
        if (width, height) != (record.entry.width, record.entry.height):
            raise UserError(
                f"{record.path}: the image (upright) has {width}x{height} pixels, its annotations are for"
                f" {record.entry.width}x{record.entry.height}; mend {ANNOTATIONS}, or pass --on_error skip"
            )
        objects, codes = [], []
        for place, item in enumerate(record.entry.objects):
            try:
                rle, dropped = object_rle(item.segmentation, width=width, height=height)
            except ValueError as error:
                raise UserError(
                    f"{record.path}: annotation {place} ('{item.defect}'): {error}; mend {ANNOTATIONS} beside it"
                ) from None
            remarks += [Remark("dropped", record.image_id, what) for what in dropped]
            if rle is None:
                remarks.append(Remark("dropped", record.image_id, "a region that covers no pixel"))
                continue
            codes.append(rle)
            objects.append(_object_row(rle, item.defect))
        if not objects:
            raise UserError(f"{record.path}: none of its annotations covers a pixel; mend {ANNOTATIONS} beside it")
        row = {
            "image": photograph.stored,
            "mask": encode_mask(np.asarray(coco_mask.decode(coco_mask.merge(codes)), bool)),
            "image_id": record.image_id,
            "source": "VISION",
            "category": record.category,
            "defective": True,
            "objects": objects,
        }
        return row, remarks


def _is_category_folder(path: Path) -> bool:
    return path.is_dir() and any((path / part / ANNOTATIONS).is_file() for part in ("train", "val"))


def _object_row(rle: dict[str, Any], defect: str) -> dict[str, Any]:
    """As `schema.object_row`, without decoding: a photograph of 10 megapixels can have a hundred objects."""
    x, y, width, height = (float(number) for number in coco_mask.toBbox(rle))
    code = {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}
    return {"box": [x, y, x + width, y + height], "defect": defect, "area": int(coco_mask.area(rle)), "rle": code}


# COCO annotation files


def read_coco(path: Path) -> tuple[list[CocoImage], list[str]]:
    """The images of an annotation file in its order, and a line about each entry that cannot be used.

    Fields that were JSON-encoded a second time (a segmentation or an id as a string) are decoded.

    Raises:
        UserError: the file is no whole JSON, or lacks `images`, `annotations` or `categories`.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{error.lineno}: the JSON stops or breaks at column {error.colno} ({error.msg}); download it again"
        ) from None
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error}); download it again") from None
    lists = {}
    for key in ("images", "annotations", "categories"):
        value = _decoded(content.get(key)) if isinstance(content, dict) else None
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise UserError(f"{path}: has no list '{key}', so it is not a COCO file; download it again")
        lists[key] = value
    if not lists["annotations"]:
        raise UserError(f"{path}: the list of annotations is empty; download it again, or pass --on_error skip")
    return _join(path, lists["images"], lists["annotations"], lists["categories"])


def _join(path: Path, images: list[dict], annotations: list[dict], categories: list[dict]) -> tuple[list, list[str]]:
    problems: list[str] = []
    names = {_key(item.get("id")): str(item.get("name")) for item in categories}
    objects: dict[str, list[CocoObject]] = {}
    sizes: dict[str, tuple[str, int, int]] = {}
    seen_files: set[str] = set()
    for place, item in enumerate(images):
        key, name = _key(item.get("id")), item.get("file_name")
        try:
            entry = (str(name), int(item["width"]), int(item["height"]))
        except (KeyError, TypeError, ValueError):
            problems.append(f"{path}: images[{place}] has no usable file_name, width and height; mend the entry")
            continue
        if key in sizes or str(name) in seen_files:
            problems.append(f"{path}: images[{place}] repeats id {key} or file {name}; remove one of the two")
            continue
        sizes[key] = entry
        seen_files.add(str(name))
        objects[key] = []
    for place, item in enumerate(annotations):
        key, category = _key(item.get("image_id")), _key(item.get("category_id"))
        where = f"{path}: annotations[{place}]"
        if key not in objects:
            problems.append(f"{where} is for image {key}, which the list of images lacks; remove it")
        elif category not in names:
            problems.append(f"{where} has the unknown category {category}; add it to 'categories'")
        else:
            objects[key].append(CocoObject(names[category], _decoded(item.get("segmentation"))))
    return [CocoImage(*sizes[key], tuple(objects[key])) for key in sizes], problems


def _decoded(value: Any) -> Any:
    while isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return value
    return value


def _key(value: Any) -> str:
    return str(_decoded(value))


def object_rle(segmentation: Any, *, width: int, height: int) -> tuple[dict[str, Any] | None, list[str]]:
    """A segmentation as COCO compressed run-length code {"size", "counts": bytes}, and what was dropped of it.

    Polygons are united; what lies over the edge is cut off. None when no pixel is left, for a region
    thinner than the grid.

    Args:
        segmentation: flat polygons [[x1, y1, x2, y2, ...], ...], or a run-length code, compressed or not.
        width, height: of the image in pixels.

    Raises:
        ValueError: neither of the two, or outside the image, or a code for another size.
    """
    if isinstance(segmentation, dict):
        rle = _checked_rle(segmentation, width, height)
        return (rle if coco_mask.area(rle) else None), []
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("the segmentation is neither polygons nor a run-length code")
    if not isinstance(segmentation[0], list):
        segmentation = [segmentation]  # one bare polygon
    whole, dropped = [], []
    for polygon in segmentation:
        if not isinstance(polygon, list) or not all(_is_number(number) for number in polygon):
            raise ValueError("a polygon holds something that is not a number")
        if len(polygon) < 6:
            dropped.append(f"a polygon of {len(polygon)} numbers")
        elif len(polygon) % 2:
            raise ValueError(f"a polygon has an odd number of coordinates ({len(polygon)})")
        else:
            whole.append([float(number) for number in polygon])
    if not whole:
        return None, dropped
    xs = [x for polygon in whole for x in polygon[0::2]]
    ys = [y for polygon in whole for y in polygon[1::2]]
    if min(xs) >= width or max(xs) <= 0 or min(ys) >= height or max(ys) <= 0:
        raise ValueError(f"the polygon lies outside the image ({width}x{height})")
    rle = coco_mask.merge(coco_mask.frPyObjects(whole, height, width))
    return (rle if coco_mask.area(rle) else None), dropped


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _checked_rle(code: dict[str, Any], width: int, height: int) -> dict[str, Any]:
    size, counts = _decoded(code.get("size")), code.get("counts")
    if size != [height, width]:
        raise ValueError(f"the run-length code is for {size} (height, width), the image has {[height, width]}")
    runs = _runs(counts) if isinstance(counts, str) and not counts.startswith("[") else _decoded(counts)
    if not isinstance(runs, list) or not all(isinstance(run, int) and run >= 0 for run in runs):
        raise ValueError("the run-length code is damaged")
    if sum(runs) != width * height:
        raise ValueError(f"the run-length code covers {sum(runs)} pixels, the image has {width * height}")
    return coco_mask.frPyObjects({"size": size, "counts": runs}, height, width)


def _runs(counts: str) -> list[int]:
    """The run lengths in COCO's compressed string (five bits a character, differences to the run before the last).

    Decoded here, because the C code trusts the string and writes where it says.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise ValueError("the run-length code is damaged")
        value |= (code & 0x1F) << shift
        shift += 5
        if not code & 0x20:
            if code & 0x10:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("the run-length code stops half-way")
    return runs
