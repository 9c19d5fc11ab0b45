"""The VISION data set: 14 industrial products, 44 kinds of defects, COCO polygons."""

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from pycocotools import mask as coco_mask

from datasets_builders.coco import CocoImage, object_rle, read_coco
from datasets_builders.photographs import path_inside, read_photograph, unpack
from datasets_builders.planned import Plan, PlannedBuilder, PlannedConfig, Remark, assign_splits
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.masks import encode_mask

CATEGORIES = (
    *("Cable", "Capacitor", "Casting", "Console", "Cylinder", "Electronics", "Groove"),
    *("Hemisphere", "Lens", "PCB_1", "PCB_2", "Ring", "Screw", "Wood"),
)
ANNOTATIONS = "_annotations.coco.json"
_ARCHIVES = ("*.tar.gz", "*.tgz", "*.tar")


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

    categories: list[str] = field(default_factory=list)
    heldout_categories: list[str] = field(default_factory=list)
    validation: float = 0.1

    def root(self) -> Path:
        """The folder; a missing one is a `UserError`."""
        if not self.data_dir or not Path(self.data_dir).is_dir():
            raise UserError(f"{self.data_dir or 'data_dir'}: no such folder; set data_dir to VISION's download")
        return Path(self.data_dir)

    def source_manifest(self) -> str:
        """The content of every annotation file; name, size and time of every archive and image."""
        root, digest = self.root(), hashlib.sha256()
        for path in sorted(item for item in root.rglob("*") if item.is_file() and not item.name.startswith(".")):
            status = path.stat()
            content = path.read_bytes() if path.name == ANNOTATIONS else b""
            line = f"{path.relative_to(root)}\0{status.st_size}\0{status.st_mtime_ns}\0"
            digest.update(line.encode() + hashlib.sha256(content).digest())
        return digest.hexdigest()[:32]


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
        config = self.config
        folders = self._folders()
        for name in config.categories:
            if name not in folders:
                raise UserError(f"categories: {config.data_dir} has no '{name}'; it has {', '.join(folders) or 'none'}")
        problems: list[Remark] = []
        found: dict[str, list[VisionImage]] = {"train": [], "val": []}
        for category, folder in folders.items():
            if config.categories and category not in config.categories:
                continue
            if category not in CATEGORIES:
                message = f"{folder}: unknown category '{category}'; VISION's are {', '.join(CATEGORIES)}"
                self._problem(problems, category, message)
                continue
            for part, images in found.items():
                images += self._annotated(folder, category, part, problems)
        splits = self._drawn(found)
        names = sorted({image.category for images in found.values() for image in images})
        return Plan(names, splits, tuple(problems))

    def _problem(self, problems: list[Remark], image: str, message: str) -> None:
        if self.config.on_error == "stop":
            raise UserError(message)
        problems.append(Remark("skipped", image, message))

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
            self._problem(problems, f"{category}/{part}", str(error))
            return []
        for message in messages:
            self._problem(problems, f"{category}/{part}", message)
        images = []
        for entry in entries:
            image_id = f"{category}/{part}/{Path(entry.file_name).with_suffix('').as_posix()}"
            try:
                path = path_inside(folder / part, entry.file_name, listing)
                if not path.is_file():
                    raise UserError(f"{path}: the image is missing, though {ANNOTATIONS} lists it; unpack it again")
            except UserError as error:
                self._problem(problems, image_id, str(error))
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
