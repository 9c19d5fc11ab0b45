"""Anyone's own photographs with masks, in one of three layouts."""

import json
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from datasets_builders.lookalikes import group_lookalikes
from datasets_builders.photographs import image_files, mask_objects, path_inside, read_mask, read_photograph
from datasets_builders.planned import Plan, PlannedBuilder, PlannedConfig, Remark, assign_splits, files_digest
from visionsam_hf.data.errors import UserError

METADATA = "metadata.jsonl"
# Worth a word, and no reason to stop.
JPEG_MASK = "the mask is a JPEG, whose edges are smeared; save masks as PNG"
MOSTLY_WHITE = "more than half of the mask is defect; if black is the defect, set invert_masks true"


@dataclass(frozen=True)
class Pair:
    """A photograph and its mask; without a mask file the photograph is a good one."""

    image_id: str
    image: Path
    mask: Path | None
    category: str
    defect: str


@dataclass
class MaskFolderConfig(PlannedConfig):
    """Settings of `MaskFolder`.

    Attributes:
        data_dir: the folder.
        category: of images that lie in no class folder; default: the folder's name.
        heldout_categories: categories that go to `heldout`, whole.
        validation, test: shares of the other images.
        group_pattern: a regular expression searched in each image's stem; its first group says which piece the image
            shows, and a piece never crosses splits. Empty: every image is its own piece.
        group_similar: images that look alike (lookalikes.py) show one piece too; every image is read for it.
        mask_threshold: mask values above it are defect.
        invert_masks: mask values above it are background.
        objects: "components" makes each connected region an object, "image" the whole mask.
        min_area: regions of fewer pixels are dropped and counted.
        max_objects: the largest ones of an image are kept.
        keep_good: keep images whose mask is empty (`defective` False, no objects).
    """

    category: str = ""
    heldout_categories: list[str] = field(default_factory=list)
    validation: float = 0.1
    test: float = 0.2
    group_pattern: str = ""
    group_similar: bool = False
    mask_threshold: int = 127
    invert_masks: bool = False
    objects: str = "components"
    min_area: int = 10
    max_objects: int = 32
    keep_good: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.objects not in ("components", "image"):
            raise UserError(f"objects: {self.objects!r} is not a choice; choose components or image")
        try:
            groups = re.compile(self.group_pattern).groups
        except re.error as error:
            raise UserError(f"group_pattern: not a regular expression ({error}): {self.group_pattern!r}") from None
        if self.group_pattern and not groups:
            raise UserError(f"group_pattern: {self.group_pattern!r} has no group; put ( ) round what names the piece")

    def source_manifest(self) -> str:
        """By name, size and time of every image, and by content of every PNG (masks are small) and of the list."""
        root = self.root()
        files = [*image_files(root), *root.glob(METADATA)]
        return files_digest(root, files, lambda path: path.suffix.lower() in (".png", ".jsonl"))


class MaskFolder(PlannedBuilder):
    """A folder of photographs and masks as a segmentation data set.

    Side by side, one folder a class (the mask is the PNG beside the JPEG, or NAME_mask.*):

        DATA_DIR/
        ├── scratch/[any folders/]part_01.jpg      category and defect: scratch
        └── scratch/[any folders/]part_01.png

    Two folders, paired by stem; folders inside them, if any, are classes:

        DATA_DIR/
        ├── images/[class/]part_01.jpg
        └── masks/[class/]part_01.png              or part_01_mask.png

    A list, as `imagefolder` data sets have it; a null mask means a good image:

        DATA_DIR/metadata.jsonl
        {"image_file_name": "a/1.jpg", "mask_file_name": "b/1.png", "category": "lens", "defect": "scratch"}

    Example:
        builder = MaskFolder(data_dir="parts", group_pattern=r"num_(\\d+)")
        builder.download_and_prepare(num_proc=2)
        train = builder.as_dataset("train")
    """

    BUILDER_CONFIG_CLASS = MaskFolderConfig

    def plan(self) -> Plan:
        """Pair the files and draw the splits."""
        config, root = self.config, self.config.root()
        if (root / METADATA).is_file():
            pairs, problems = _listed_pairs(root, config.category)
        elif (root / "images").is_dir() and (root / "masks").is_dir():
            pairs, problems = _two_folder_pairs(root, config.category)
        else:
            pairs, problems = _side_by_side_pairs(root, config.category)
        if problems and config.on_error == "stop":
            raise UserError(problems[0].message)
        splits = assign_splits(
            list(zip((pair.category for pair in pairs), _pieces(pairs, config.group_pattern, config.group_similar))),
            heldout=config.heldout_categories,
            validation=config.validation,
            test=config.test,
            seed=config.seed,
        )
        planned: dict[str, list[Pair]] = defaultdict(list)
        for pair, split in zip(pairs, splits):
            if split is None:
                message = f"{pair.image}: left out, because a held-out image shows the same piece"
                problems.append(Remark("skipped", pair.image_id, message))
            else:
                planned[split].append(pair)
        return Plan(sorted({pair.category for pair in pairs}), dict(planned), tuple(problems))

    def image_id(self, record: Pair) -> str:
        """The path in the folder, without suffix."""
        return record.image_id

    def row(self, record: Pair) -> tuple[dict[str, Any] | None, list[Remark]]:
        """Read one pair."""
        photograph = read_photograph(record.image)
        remarks = [Remark("changed", record.image_id, change) for change in photograph.changes]
        width, height = photograph.size
        mask = np.zeros((height, width), bool)
        if record.mask is not None:
            mask = read_mask(record.mask, size=photograph.size, threshold=self.config.mask_threshold)
            mask = ~mask if self.config.invert_masks else mask
            if record.mask.suffix.lower() in (".jpg", ".jpeg"):
                remarks.append(Remark("warned", record.image_id, JPEG_MASK))
            if mask.mean() > 0.5:
                remarks.append(Remark("warned", record.image_id, MOSTLY_WHITE))
        objects, union, dropped = mask_objects(
            mask,
            record.defect,
            objects=self.config.objects,
            min_area=self.config.min_area,
            max_objects=self.config.max_objects,
        )
        if dropped:
            remarks.append(Remark("dropped", record.image_id, "regions under min_area or over max_objects", dropped))
        if not objects and not self.config.keep_good:
            return None, [Remark("skipped", record.image_id, f"{record.image}: a good image (keep_good is off)")]
        row = photograph.row(
            union, objects, image_id=record.image_id, source=self.config.root().name, category=record.category
        )
        return row, remarks


def _pieces(pairs: list[Pair], pattern: str, by_looks: bool) -> list[str]:
    """Which piece each image shows; one that the pattern does not know, and that looks like no other, is its own."""
    pieces = []
    for pair in pairs:
        match = re.search(pattern, pair.image.stem) if pattern else None
        pieces.append(f"piece {match[1]}" if match and match[1] is not None else f"image {pair.image_id}")
    if not by_looks:
        return pieces
    # Looks join what names have not: the smallest place among all images of the same name or the same looks.
    groups = group_lookalikes(_content(pair.image) for pair in pairs)
    joined = list(range(len(pairs)))
    while True:
        before = list(joined)
        for keys in (pieces, groups):
            lowest: dict[Any, int] = {}
            for place, key in enumerate(keys):
                lowest[key] = min(lowest.get(key, joined[place]), joined[place])
            joined = [lowest[key] for key in keys]
        if joined == before:
            return [f"group {place}" for place in joined]


def _content(path: Path) -> bytes:
    """An image's bytes; none for a bad one, which `row` complains about in its turn."""
    try:
        return read_photograph(path).stored["bytes"]
    except UserError:
        return b""


def _stem(path: Path, root: Path) -> str:
    return path.relative_to(root).with_suffix("").as_posix()


def _bare(stem: str) -> str:
    return stem.removesuffix("_mask")


def _category(root: Path, path: Path, default: str) -> str:
    parts = path.relative_to(root).parts
    return parts[0] if len(parts) > 1 else default


def _side_by_side_pairs(root: Path, default: str) -> tuple[list[Pair], list[Remark]]:
    files: dict[str, list[Path]] = defaultdict(list)
    for path in image_files(root):
        files[_bare(_stem(path, root))].append(path)
    pairs, problems = [], []
    for stem, group in files.items():
        masks = [path for path in group if path.stem.endswith("_mask")] or [
            path for path in group if path.suffix.lower() == ".png"
        ]
        images = [path for path in group if path not in masks]
        if len(group) == 1:
            role, other = ("mask", "image (NAME.jpg)") if masks else ("image", "mask (NAME.png)")
            problem = f"{group[0]}: a {role} without its {other}; add it beside, or pass --on_error skip"
            if not masks:
                problem = problem.replace("a image", "an image")
            problems.append(Remark("skipped", stem, problem))
        elif len(images) != 1 or len(masks) != 1:
            names = ", ".join(path.name for path in group)
            message = f"{group[0].parent}: cannot tell image from mask among {names}; name the mask NAME_mask"
            problems.append(Remark("skipped", stem, message))
        else:
            category = _category(root, images[0], default or root.name)
            pairs.append(Pair(stem, images[0], masks[0], category, category))
    return pairs, problems


def _two_folder_pairs(root: Path, default: str) -> tuple[list[Pair], list[Remark]]:
    problems = []
    found: dict[str, dict[str, Path]] = {}
    for folder in ("images", "masks"):
        found[folder] = {}
        for path in image_files(root / folder):
            stem = _stem(path, root / folder)
            stem = _bare(stem) if folder == "masks" else stem
            if stem in found[folder]:
                first = found[folder][stem].name
                problems.append(Remark("skipped", stem, f"{path}: the same id as {first} ({stem}); rename one of them"))
            else:
                found[folder][stem] = path
    images, masks = found["images"], found["masks"]
    for stem in sorted(images.keys() ^ masks.keys()):
        path, other = (images[stem], "mask in masks/") if stem in images else (masks[stem], "image in images/")
        message = f"{path}: has no {other} of the same name; add it, or pass --on_error skip"
        problems.append(Remark("skipped", stem, message))
    pairs = []
    for stem in sorted(images.keys() & masks.keys()):
        category = _category(root / "images", images[stem], default or root.name)
        pairs.append(Pair(stem, images[stem], masks[stem], category, category))
    return pairs, problems


def _listed_pairs(root: Path, default: str) -> tuple[list[Pair], list[Remark]]:
    listing = root / METADATA
    pairs: dict[str, Pair] = {}
    problems = []
    for number, line in enumerate(listing.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{listing}:{number}"
        try:
            pair = _listed_pair(root, line, where, default or root.name)
        except UserError as error:
            problems.append(Remark("skipped", where, str(error)))
            continue
        if pair.image_id in pairs:
            message = f"{where}: the image '{pair.image_id}' is listed twice; remove one line"
            problems.append(Remark("skipped", pair.image_id, message))
        else:
            pairs[pair.image_id] = pair
    return list(pairs.values()), problems


def _listed_pair(root: Path, line: str, where: str, default: str) -> Pair:
    try:
        entry = json.loads(line)
        name = entry.get("image_file_name") or entry["file_name"]
    except (ValueError, AttributeError) as error:
        raise UserError(f"{where}: not a JSON object ({error}); mend the line") from None
    except KeyError:
        raise UserError(f"{where}: has no 'image_file_name'; add it") from None
    image = path_inside(root, str(name), where)
    mask = path_inside(root, str(entry["mask_file_name"]), where) if entry.get("mask_file_name") else None
    for path, role in ((image, "image"), (mask, "mask")):
        if path is not None and not path.is_file():
            raise UserError(f"{where}: the {role} {path} is missing; add the file, or remove the line")
    category = str(entry.get("category") or default)
    return Pair(_stem(root / name, root), image, mask, category, str(entry.get("defect") or category))
