"""Anyone's own photographs with a COCO file, or one a split, as annotation tools export them."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from datasets_builders.coco import CocoImage, annotated_objects, is_coco, read_coco
from datasets_builders.photographs import image_files, read_photograph
from datasets_builders.planned import Plan, PlannedBuilder, PlannedConfig, Remark, assign_splits, files_digest
from visionsam_hf.data.errors import UserError

# A word in a file's name or folder -> the split that it holds.
_SPLIT_WORDS = {"val": "validation", "valid": "validation", "validation": "validation", "test": "test", "train": "train"}
_UPLOAD_HASH = re.compile(r"^[0-9a-f]{8}-")  # Label Studio puts it before the name of an uploaded file


@dataclass(frozen=True)
class CocoRecord:
    """An annotated image on disk; `listing` is the COCO file that names it."""

    image_id: str
    path: Path
    category: str
    entry: CocoImage
    listing: Path


@dataclass
class CocoFolderConfig(PlannedConfig):
    """Settings of `CocoFolder`.

    Attributes:
        data_dir: folder with the images, at any depth.
        annotations: COCO files; default: every one below `data_dir`.
        category: of every image; default: the class that most of an image's annotations have.
        heldout_categories: categories that go to `heldout`, whole.
        validation, test: shares of the images that no file assigns to a split by its name.
        keep_good: keep images without an annotation (`defective` False, no objects).
        min_score: of predicted annotations; an image that has one with a lower score is left out. 0 keeps all.
    """

    annotations: list[str] = field(default_factory=list)
    category: str = ""
    heldout_categories: list[str] = field(default_factory=list)
    validation: float = 0.1
    test: float = 0.2
    keep_good: bool = False
    min_score: float = 0.0

    def source_manifest(self) -> str:
        """By content of every COCO file, by name, size and time of every image."""
        listed = hashlib.sha256(b"".join(path.read_bytes() for path in self.listings())).hexdigest()[:16]
        return files_digest(self.root(), image_files(self.root()), lambda path: False) + listed

    def listings(self) -> list[Path]:
        """The COCO files to read; a `UserError` where there is none."""
        if self.annotations:
            missing = [name for name in self.annotations if not Path(name).is_file()]
            if missing:
                raise UserError(f"{missing[0]}: no such file; set annotations to the COCO files, or leave it out")
            return [Path(name) for name in self.annotations]
        found = sorted(path for path in self.root().rglob("*.json") if not path.name.startswith(".") and is_coco(path))
        if not found:
            raise UserError(f"{self.data_dir}: holds no COCO file (.json); set annotations to it")
        return found


class CocoFolder(PlannedBuilder):
    """Photographs and COCO annotations as a segmentation data set.

        DATA_DIR/
        ├── annotations/instances_default.json     one file: its images are divided by `validation` and `test`
        └── images/[any folders/]part_01.jpg

        DATA_DIR/
        ├── train/_annotations.coco.json           or one a split: "train", "val", "valid" or "test" in the file's
        └── test/_annotations.coco.json, ...       name or folder says which

    Polygons, several an object too, and run-length codes, compressed or not, are masks; a box alone is none, and is
    counted. Images are found by as much of `file_name` as is true below DATA_DIR: what a tool put before it (a URL, its
    own folders, an upload's hash) does no harm.

    Example:
        builder = CocoFolder(data_dir="export")
        builder.download_and_prepare()
        train = builder.as_dataset("train")
    """

    BUILDER_CONFIG_CLASS = CocoFolderConfig

    def plan(self) -> Plan:
        """Read the COCO files, find the images, draw the splits that no file fixes."""
        config, found = self.config, _Images(self.config.root())
        problems: list[Remark] = []
        records: dict[str, CocoRecord] = {}
        fixed: dict[str, str | None] = {}
        for listing in config.listings():
            split = _split_of(listing, config.root())
            entries, messages = read_coco(listing)
            for message in messages:
                self.leave_out(problems, listing.name, message)
            for entry in entries:
                if not entry.objects and not config.keep_good:
                    message = f"{listing}: '{entry.file_name}' has no annotation; --keep_good true keeps it"
                    problems.append(Remark("skipped", entry.file_name, message))
                    continue
                score = entry.lowest_score
                if config.min_score and score is not None and score < config.min_score:
                    message = f"{listing}: '{entry.file_name}' has a mask of score {score:.2f}, below min_score"
                    problems.append(Remark("skipped", entry.file_name, message))
                    continue
                try:
                    record = _record(found.path(entry.file_name, listing), entry, listing, config)
                    if record.image_id in records:
                        raise UserError(f"{listing}: '{entry.file_name}' is listed twice ({record.path}); remove one entry")
                except UserError as error:
                    self.leave_out(problems, entry.file_name, str(error))
                    continue
                records[record.image_id], fixed[record.image_id] = record, split
        splits = _drawn(list(records.values()), fixed, config)
        return Plan(sorted({record.category for record in records.values()}), splits, tuple(problems))

    def image_id(self, record: CocoRecord) -> str:
        """The path below `data_dir`, without suffix."""
        return record.image_id

    def row(self, record: CocoRecord) -> tuple[dict[str, Any], list[Remark]]:
        """Read the photograph and draw its masks."""
        photograph, entry = read_photograph(record.path), record.entry
        remarks = [Remark("changed", record.image_id, change) for change in photograph.changes]
        if photograph.size != (entry.width, entry.height):
            sizes = "{}x{} pixels, its annotations are for {}x{}".format(*photograph.size, entry.width, entry.height)
            raise UserError(f"{record.path}: the image (upright) has {sizes}; mend {record.listing}")
        try:
            objects, mask, dropped = annotated_objects(entry)
        except ValueError as error:
            raise UserError(f"{record.listing}: image '{entry.file_name}', {error}; mend it, or pass --on_error skip") from None
        remarks += [Remark("dropped", record.image_id, what) for what in dropped]
        if entry.objects and not objects:
            message = "none of its annotations is a mask (boxes alone?); export masks or polygons, or pass --on_error skip"
            raise UserError(f"{record.listing}: image '{entry.file_name}': {message}")
        source = self.config.root().name
        if (score := entry.lowest_score) is not None:
            told = f"predicted by {entry.model or 'a model'}"
            source = f"{source} ({told})"
            count = sum(item.score is not None for item in entry.objects)
            remarks.append(Remark("predicted", record.image_id, f"{told}, score {score:.2f} or more", count))
        row = photograph.row(mask, objects, image_id=record.image_id, source=source, category=record.category)
        return row, remarks


def _record(path: Path, entry: CocoImage, listing: Path, config: CocoFolderConfig) -> CocoRecord:
    classes = Counter(item.defect for item in entry.objects)
    category = config.category or (min(classes, key=lambda name: (-classes[name], name)) if classes else config.root().name)
    image_id = path.relative_to(config.root()).with_suffix("").as_posix()
    return CocoRecord(image_id, path, category, entry, listing)


def _split_of(listing: Path, root: Path) -> str | None:
    """The split that a file's name, else its folder below the root, speaks of."""
    folders = listing.parent.relative_to(root).parts if root in listing.parents else ()
    for name in (listing.stem, *reversed(folders)):
        for word in re.findall("[a-z]+", name.lower()):
            if word in _SPLIT_WORDS:
                return _SPLIT_WORDS[word]
    return None


def _drawn(records: Sequence[CocoRecord], fixed: dict[str, str | None], config: CocoFolderConfig) -> dict[str, list[Any]]:
    """Records by split. What is called validation and test stays; the rest gives whatever of the two has no file."""
    pairs = [(record.category, record.image_id) for record in records]
    assign_splits(pairs, heldout=config.heldout_categories)  # for its checks, on all of them
    named = set(fixed.values())
    free = [
        record
        for record in records
        if fixed[record.image_id] in (None, "train") and record.category not in config.heldout_categories
    ]
    drawn = assign_splits(
        [(record.category, record.image_id) for record in free],
        validation=0.0 if "validation" in named else config.validation,
        test=0.0 if "test" in named else config.test,
        seed=config.seed,
    )
    split_of = {record.image_id: split for record, split in zip(free, drawn)}
    splits: dict[str, list[Any]] = defaultdict(list)
    for record in records:
        held = record.category in config.heldout_categories
        split = "heldout" if held else split_of.get(record.image_id) or fixed[record.image_id]
        splits[str(split)].append(record)
    return dict(splits)


class _Images:
    """The image files below a folder, by the ends of their paths."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        for path in image_files(root):
            self._by_name[path.name].append(path)

    def path(self, file_name: str, listing: Path) -> Path:
        """The file that a COCO entry means; none, or several that could be meant, is a `UserError`."""
        name = unquote(file_name).replace("\\", "/")
        # "/data/local-files/?d=folder/a.png", "https://host/a.png?token=..."
        name = name.partition("?d=")[2] or name.partition("?")[0]
        parts = [part for part in PurePosixPath(name).parts if part not in ("..", ".", "/")]
        last = parts[-1] if parts else ""
        for wanted in dict.fromkeys((last, _UPLOAD_HASH.sub("", last), last.replace(" ", "_"))):
            found = self._best(self._by_name.get(wanted, []), [*parts[:-1], wanted], listing)
            if len(found) == 1:
                return found[0]
            if found:
                several = " and ".join(str(path.relative_to(self._root)) for path in found[:2])
                raise UserError(f"{listing}: '{file_name}' could be {several} below {self._root}; name it with its folder")
        raise UserError(
            f"{listing}: no image '{file_name}' anywhere below {self._root}; copy the images there, or pass --on_error skip"
        )

    def _best(self, paths: list[Path], parts: list[str], listing: Path) -> list[Path]:
        """Of files with one name those whose folders agree with the most of the named ones; among them those near the list."""

        def agreeing(path: Path) -> tuple[int, bool]:
            own = path.relative_to(self._root).parts
            count = 0
            while count < min(len(own), len(parts)) and own[-1 - count] == parts[-1 - count]:
                count += 1
            return count, listing.parent in path.parents

        most = max(map(agreeing, paths), default=(0, False))
        return [path for path in paths if agreeing(path) == most]
