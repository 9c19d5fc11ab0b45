"""What every builder shares: a plan of rows made before any image is read, and a log of what was not taken."""

import dataclasses
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetGenerationError

from datasets_builders.splitting import SPLITS
from visionsam_hf.errors import UserError
from visionsam_hf.schema import segmentation_features

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Remark:
    """Something to count in the card.

    Attributes:
        kind: "stopped", "skipped" (the image is not in the data set), "changed" (its pixels), "dropped" (regions).
        image: the image's id.
        message: one line.
        count: of regions for "dropped", else 1.
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
