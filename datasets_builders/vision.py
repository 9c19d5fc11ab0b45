"""The VISION data set: 14 industrial products, 44 kinds of defects, COCO polygons."""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets

from datasets_builders.coco import CocoImage, annotated_objects, read_coco
from datasets_builders.photographs import path_inside, read_photograph, unpack
from datasets_builders.planned import Plan, PlannedBuilder, PlannedConfig, Remark, assign_splits, files_digest
from visionsam_hf.data.errors import UserError

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
        try:
            objects, mask, dropped = annotated_objects(record.entry)
        except ValueError as error:
            raise UserError(f"{record.path}: {error}; mend {ANNOTATIONS} beside it") from None
        remarks += [Remark("dropped", record.image_id, what) for what in dropped]
        if not objects:
            raise UserError(f"{record.path}: none of its annotations covers a pixel; mend {ANNOTATIONS} beside it")
        row = photograph.row(
            mask, objects, image_id=record.image_id, source="VISION", category=record.category
        )
        return row, remarks


def _is_category_folder(path: Path) -> bool:
    return path.is_dir() and any((path / part / ANNOTATIONS).is_file() for part in ("train", "val"))
