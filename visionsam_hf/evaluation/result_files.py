"""What the report reads: the directories that the stages wrote, and nothing else."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from datasets import Features

from visionsam_hf.data.dataset_directory import split_names
from visionsam_hf.data.errors import UserError, decoding
from visionsam_hf.data.records import RECORD, read_record
from visionsam_hf.evaluation.evaluator import take_token
from visionsam_hf.evaluation.metrics import METRICS
from visionsam_hf.evaluation.per_sample import FILE, read_columns, read_masks

Key = tuple[int, str, int]  # row, image_id, object_index: the same prompt in every system's file


@dataclasses.dataclass(frozen=True)
class Run:
    """One output of evaluate."""

    directory: Path
    metrics: dict[str, Any]

    @cached_property
    def columns(self) -> dict[str, np.ndarray]:
        """`read_columns` of its rows."""
        return read_columns(self.directory / FILE)

    @cached_property
    def keys(self) -> list[Key]:
        """The prompt of each row."""
        columns = self.columns
        return [
            (int(row), image, int(index))
            for row, image, index in zip(columns["row"], columns["image_id"], columns["object_index"])
        ]

    @cached_property
    def values(self) -> dict[str, np.ndarray]:
        """(N,) metrics of the headline selection."""
        return take_token(self.columns, self.metrics["selection"])

    def rows(self, places: Sequence[int]) -> dict[int, dict[str, Any]]:
        """Whole rows with their masks, by place."""
        return read_masks(self.directory / FILE, places)


@dataclasses.dataclass(frozen=True)
class SplitResult:
    """A system on a split: one run, or one a seed on the same prompts."""

    split: str
    runs: list[Run]

    @cached_property
    def places(self) -> dict[Key, int]:
        """The prompts that every run has, to their place in the first run."""
        shared = set(self.runs[0].keys).intersection(*(run.keys for run in self.runs))
        return {key: place for place, key in enumerate(self.runs[0].keys) if key in shared}

    @cached_property
    def values(self) -> dict[str, dict[Key, float]]:
        """Each metric per prompt, averaged over the runs."""
        found: dict[str, dict[Key, float]] = {}
        by_run = [dict(zip(run.keys, range(len(run.keys)))) for run in self.runs]
        for name in METRICS:
            found[name] = {
                key: math.fsum(run.values[name][places[key]] for run, places in zip(self.runs, by_run)) / len(self.runs)
                for key in self.places
            }
        return found

    def column(self, name: str, keys: Sequence[Key]) -> np.ndarray:
        """A column of the first run for some prompts."""
        return self.runs[0].columns[name][[self.places[key] for key in keys]]


def read_systems(systems: Mapping[str, Sequence[str]]) -> dict[str, dict[str, SplitResult]]:
    """Each system's results by split, in the order given.

    Raises:
        UserError: a directory is not the output of evaluate.
    """
    found: dict[str, dict[str, SplitResult]] = {}
    for name, directories in systems.items():
        runs: dict[str, list[Run]] = {}
        for directory in directories:
            run = _read_run(Path(directory))
            runs.setdefault(run.metrics["split"], []).append(run)
        found[name] = {split: SplitResult(split, of_split) for split, of_split in runs.items()}
    return found


def _read_run(directory: Path) -> Run:
    for name in ("metrics.json", FILE):
        if not (directory / name).is_file():
            raise UserError(f"{directory}: has no {name}; give a directory that 'visionsam evaluate' wrote")
    try:
        metrics = json.loads((directory / "metrics.json").read_text(encoding="utf-8"))
        metrics["split"], metrics["selection"], metrics["overall"]["iou"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{directory / 'metrics.json'}: is damaged ({error}); run 'visionsam evaluate' again") from None
    return Run(directory, metrics)


def read_log(directory: str | Path) -> list[dict[str, float]] | None:
    """What a training logged, or None if its directory holds no `trainer_state.json`."""
    path = Path(directory) / "trainer_state.json"
    if not path.is_file():
        return None
    try:
        log = json.loads(path.read_text(encoding="utf-8"))["log_history"]
        return [entry for entry in log if "step" in entry]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is damaged ({error}); run the training again") from None


def curve(log: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
    """(step, value) of a logged quantity, finite values only."""
    return [(entry["step"], entry[name]) for entry in log if name in entry and math.isfinite(entry[name])]


def stage_record(directory: str | Path) -> dict[str, Any] | None:
    """The `stage.json` of a directory, or None where there is none."""
    return read_record(directory) if (Path(directory) / RECORD).is_file() else None


def dataset_table(directory: str | Path) -> list[dict[str, Any]]:
    """What a segmentation data set directory holds, a row a split; images are not read."""
    table = []
    for split in split_names(directory):
        rows: dict[str, Any] = {"split": split, "images": 0, "defective": 0, "objects": 0, "categories": {}}
        for path in sorted((Path(directory) / "data").glob(f"{split}-?????-of-?????.parquet")):
            with decoding(path):
                names = Features.from_arrow_schema(pq.read_schema(path))["category"].names
                read = pq.read_table(path, columns=["category", "defective", "objects"])
            counts = [len(entry) for entry in read["objects"].to_pylist()]
            rows["images"] += read.num_rows
            rows["defective"] += sum(read["defective"].to_pylist())
            rows["objects"] += sum(counts)
            for category, count in zip(read["category"].to_pylist(), counts):
                rows["categories"][names[category]] = rows["categories"].get(names[category], 0) + count
        table.append(rows)
    return table


def sample_rows(directory: str | Path, columns: Sequence[str], limit: int) -> list[dict[str, Any]]:
    """At most `limit` rows, evenly spaced, of a directory's first split, with their place in it and the split."""
    splits = split_names(directory)
    if not splits:
        return []
    paths = sorted((Path(directory) / "data").glob(f"{splits[0]}-?????-of-?????.parquet"))
    with decoding(f"{directory}: split '{splits[0]}'"):
        tables = [pq.read_table(path, columns=list(columns)) for path in paths]
    total = sum(table.num_rows for table in tables)
    wanted = np.unique(np.linspace(0, total - 1, min(limit, total)).round().astype(int)) if total else []
    found, first = [], 0
    for table in tables:
        for place in wanted:
            if first <= place < first + table.num_rows:
                row = {name: table[name][int(place - first)].as_py() for name in columns}
                found.append(row | {"row": int(place), "split": splits[0]})
        first += table.num_rows
    return found
