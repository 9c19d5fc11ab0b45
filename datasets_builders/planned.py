"""What every builder shares: a plan of rows made before any image is read, and a log of what was not taken."""

import dataclasses
import hashlib
import json
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets.exceptions import DatasetGenerationError

from visionsam_hf.data.errors import UserError
from visionsam_hf.data.schema import segmentation_features

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test", "heldout")


def files_digest(root: Path, files: Iterable[Path], is_read: Callable[[Path], bool]) -> str:
    """A hash of name, size and time of every file of a folder, and of the content of those that `is_read`."""
    digest = hashlib.sha256()
    for path in files:
        status = path.stat()
        content = path.read_bytes() if is_read(path) else b""
        line = f"{path.relative_to(root)}\0{status.st_size}\0{status.st_mtime_ns}\0"
        digest.update(line.encode() + hashlib.sha256(content).digest())
    return digest.hexdigest()[:32]


def assign_splits(
    images: Sequence[tuple[str, str]],
    *,
    heldout: Collection[str] = (),
    validation: float = 0.0,
    test: float = 0.0,
    seed: int = 0,
) -> list[str | None]:
    """The split of each image.

    Groups are drawn whole, category by category, so that each category has its share in each split.

    Args:
        images: (category, group) per image; images of one group show the same piece.
        heldout: categories whose images are all in `heldout`.
        validation, test: shares of the other images, in [0, 1] together.
        seed: of the draw.

    Returns:
        A split's name per image, or None for one that shows a piece which a held-out image shows too: in training
        it would give that piece away.

    Raises:
        UserError: a held-out category that no image has; every category held out; impossible shares.
    """
    categories = {category for category, _ in images}
    for name in heldout:
        if name not in categories:
            known = ", ".join(sorted(categories)) or "none"
            raise UserError(f"heldout_categories: no image of category '{name}'; the categories are: {known}")
    if not (validation >= 0 and test >= 0 and validation + test <= 1):
        raise UserError(f"validation, test: {validation} and {test} are not shares of the images; keep their sum <= 1")
    if images and categories <= set(heldout):
        raise UserError("heldout_categories: every category is held out; leave at least one to train on")

    members: dict[str, list[int]] = defaultdict(list)
    for place, (_, group) in enumerate(images):
        members[group].append(place)
    strata: dict[str, list[str]] = defaultdict(list)
    splits: list[str | None] = ["heldout" if category in heldout else None for category, _ in images]
    for group, places in members.items():
        if not any(splits[place] for place in places):
            strata[min(images[place][0] for place in places)].append(group)
    for category, groups in strata.items():
        # Seeded by name, so that a category's draw does not depend on which others there are.
        key = int.from_bytes(hashlib.sha256(category.encode()).digest()[:4], "little")
        order = np.random.default_rng([seed, key]).permutation(len(groups))
        total = sum(len(members[group]) for group in groups)
        wanted = {"test": round(test * total), "validation": round(validation * total)}
        for group in (sorted(groups)[place] for place in order):
            places = members[group]
            split = next((name for name, room in wanted.items() if room >= len(places)), "train")
            if split != "train":
                wanted[split] -= len(places)
            for place in places:
                splits[place] = split
    return splits


@dataclass(frozen=True)
class Remark:
    """Something to count in the card.

    Attributes:
        kind: "stopped", "skipped" (the image is not in the data set), "changed" (its pixels), "dropped" (regions),
            "predicted" (masks that nobody drew).
        image: the image's id.
        message: one line.
        count: of regions for "dropped", of masks for "predicted", else 1.
    """

    kind: str
    image: str
    message: str
    count: int = 1


@dataclass(frozen=True)
class Plan:
    """Rows to make.

    Attributes:
        categories: the names of the category column.
        splits: per split, what `PlannedBuilder.row` needs for each row (picklable).
        remarks: what was left out already.
    """

    categories: list[str]
    splits: dict[str, list[Any]]
    remarks: tuple[Remark, ...] = ()


@dataclass
class PlannedConfig(datasets.BuilderConfig):
    """Settings that every source has.

    Attributes:
        seed: of every draw.
        on_error: "stop" at bad input, or "skip" and count it.
        manifest: filled in: a hash of the source's files, so that the cache never serves rows of older ones.
    """

    DATA = "your images and masks"  # what `data_dir` names

    seed: int = 0
    on_error: str = "stop"
    manifest: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.on_error not in ("stop", "skip"):
            raise UserError(f"on_error: {self.on_error!r} is not a choice; choose stop or skip")

    def source_manifest(self) -> str:
        """A hash of the files that the rows are made from."""
        return ""

    def root(self) -> Path:
        """The folder `data_dir`; a missing one is a `UserError`."""
        if not self.data_dir or not Path(self.data_dir).is_dir():
            raise UserError(f"{self.data_dir or 'data_dir'}: no such folder; set data_dir to {self.DATA}")
        return Path(self.data_dir)

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None) -> str:
        """`datasets` names the cache directory by this; its own version does not look into `data_dir`."""
        self.manifest = self.source_manifest()
        return super().create_config_id({**config_kwargs, "manifest": self.manifest}, custom_features)


class PlannedBuilder(datasets.GeneratorBasedBuilder):
    """A builder that knows its rows before it makes them. Subclasses define `plan` and `row`."""

    VERSION = datasets.Version("1.0.0")
    # Rows in memory before they are written; full-resolution photographs are megabytes each.
    DEFAULT_WRITER_BATCH_SIZE = 20

    _remarks_file: Path | None = None

    def plan(self) -> Plan:
        """The rows of every split, without opening an image."""
        raise NotImplementedError

    def row(self, record: Any) -> tuple[dict[str, Any] | None, list[Remark]]:
        """One row (None: not wanted) and what to remark about it; bad input is a `UserError`."""
        raise NotImplementedError

    def _info(self) -> datasets.DatasetInfo:
        self._plan = self.plan()
        if not any(self._plan.splits.values()):
            source = self.config.data_dir or self.name
            raise UserError(f"{source}: no image to build from; see the layouts in docs/data.md")
        return datasets.DatasetInfo(features=segmentation_features(self._plan.categories))

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        if self._remarks_file:
            self._remarks_file.unlink(missing_ok=True)
        for remark in self._plan.remarks:
            self._remark(remark)
        order = sorted(self._plan.splits, key=SPLITS.index)
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"records": self._plan.splits[split]})
            for split in order
            if self._plan.splits[split]
        ]

    def _generate_examples(self, records: list[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        for place, record in enumerate(records):
            try:
                row, remarks = self.row(record)
            except UserError as error:
                stops = self.config.on_error == "stop"
                self._remark(Remark("stopped" if stops else "skipped", self.image_id(record), str(error)))
                if stops:
                    raise
                continue
            for remark in remarks:
                self._remark(remark)
            if row is not None:
                yield f"{place}/{row['image_id']}", row

    def image_id(self, record: Any) -> str:
        """The id of a row before it is made, for remarks."""
        return str(record)

    def leave_out(self, problems: list[Remark], image: str, message: str) -> None:
        """Note an image that cannot be taken; a `UserError` unless `on_error` is "skip"."""
        if self.config.on_error == "stop":
            raise UserError(message)
        problems.append(Remark("skipped", image, message))

    def chosen(self, folders: dict[str, Path]) -> dict[str, Path]:
        """The folders of `categories`, all of them if it is empty; one that is not there is a `UserError`."""
        wanted = self.config.categories
        for name in wanted:
            if name not in folders:
                known = ", ".join(folders) or "none"
                raise UserError(f"categories: {self.config.data_dir} has no '{name}'; it has {known}")
        return {name: folder for name, folder in folders.items() if not wanted or name in wanted}

    def download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        """As in `datasets`; bad input comes out as the `UserError` that it was in the worker."""
        self._remarks_file = Path(f"{self.cache_dir}.remarks.jsonl")
        try:
            super().download_and_prepare(*args, **kwargs)
        except DatasetGenerationError as error:
            for remark in self.remarks():
                if remark.kind == "stopped":
                    raise UserError(remark.message) from error
            raise

    def remarks(self) -> list[Remark]:
        """What `download_and_prepare` skipped, changed and dropped, in an order that does not depend on `num_proc`."""
        if self._remarks_file is None or not self._remarks_file.exists():
            return []
        lines = self._remarks_file.read_text(encoding="utf-8").splitlines()
        return sorted((Remark(**json.loads(line)) for line in lines), key=dataclasses.astuple)

    def _remark(self, remark: Remark) -> None:
        logger.info("%s: %s", remark.kind, remark.message)
        if self._remarks_file is None:
            return
        # One write of one line, so that lines of several processes do not mix.
        line = json.dumps(dataclasses.asdict(remark), ensure_ascii=False) + "\n"
        self._remarks_file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._remarks_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, line.encode("utf-8"))
        finally:
            os.close(handle)
