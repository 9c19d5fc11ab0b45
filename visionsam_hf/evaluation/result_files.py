"""What the report reads: the directories that the stages wrote, and nothing else.

A system's role follows from the stages that made its model, whatever the report calls it.
"""

import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from datasets import Features

from visionsam_hf.data.dataset_directory import split_names
from visionsam_hf.data.errors import UserError, decoding
from visionsam_hf.data.records import RECORD, looks_local, pretrained_name, read_record, resolve_model
from visionsam_hf.evaluation.metrics import METRICS
from visionsam_hf.evaluation.per_sample import FILE, read_columns, take_rows, take_token
from visionsam_hf.inference import BASELINE_PREFIX

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
        return take_rows([self.directory / FILE], places)


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
            run = read_run(directory)
            runs.setdefault(run.metrics["split"], []).append(run)
        found[name] = {split: SplitResult(split, of_split) for split, of_split in runs.items()}
    return found


def read_run(directory: str | Path) -> Run:
    """An output of evaluate; anything else is a `UserError`."""
    directory = Path(directory)
    for name in ("metrics.json", FILE):
        if not (directory / name).is_file():
            raise UserError(f"{directory}: has no {name}; give a directory that 'visionsam evaluate' wrote")
    try:
        metrics = json.loads((directory / "metrics.json").read_text(encoding="utf-8"))
        metrics["model"], metrics["split"], metrics["selection"], metrics["overall"]["iou"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{directory / 'metrics.json'}: is damaged ({error}); run 'visionsam evaluate' again") from None
    return Run(directory, metrics)


DETECTION = "detection.json"


def is_detection(directory: str | Path) -> bool:
    """Whether `evaluate --finder` wrote a directory."""
    return (Path(directory) / DETECTION).is_file()


def read_detection(directory: str | Path) -> dict[str, Any]:
    """What `evaluate --finder` found, with the pictures of its cases as bytes; damage is a `UserError`."""
    file = Path(directory) / DETECTION
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        found["finder"], found["split"], found["image"]["auroc"], found["pixel"]["aupro"], found["roc"]
        for case in found["cases"]:
            case["pictures"] = {name: (file.parent / Path(path).parts[-2] / Path(path).name).read_bytes()
                                for name, path in case["pictures"].items()}  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{file}: is damaged ({error}); run 'visionsam evaluate --finder' again") from None
    return found


# The ways to come by a model, as the paper calls them -> the trainings that it went through.
ROLES = {"SAM": set(), "SFT-SAM": {"sft"}, "VisionSAM": {"sft", "dpo"}, "RLHF-SAM": {"dpo"}}


def lineage(model: str) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """A model and those that it was trained from, nearest first: each one's name and its `stage.json`, None without."""
    seen = set()
    while model and model not in seen:
        seen.add(model)
        record = stage_record(resolve_model(model))
        yield model, record
        settings = record["settings"] if record else {}
        model = settings.get("model_name_or_path") or settings.get("adapter") or ""


def role_of(model: str) -> str | None:
    """Which of `ROLES` a model has by the stages that made it; None for baselines, other models, and what is gone."""
    if model.startswith(BASELINE_PREFIX):
        return None
    chain = list(lineage(model))
    trainings = {record.get("stage") for _, record in chain if record} & {"sft", "dpo"}
    is_known = _is_sam(chain[-1][0])
    return next((role for role, stages in ROLES.items() if is_known and stages == trainings), None)


def _is_sam(model: str) -> bool:
    """Whether a model that no stage trained is SAM: by its short name or its config.json, on the Hub by its name there."""
    if pretrained_name(model):
        return True
    directory = Path(resolve_model(model))
    if not directory.exists() and not looks_local(model):
        return model.rpartition("/")[2].startswith("sam-vit")
    try:
        return json.loads((directory / "config.json").read_text(encoding="utf-8")).get("model_type") in ("sam", "mobile_sam")
    except (OSError, ValueError):
        return False


def name_systems(directories: Iterable[str]) -> dict[str, list[str]]:
    """The `systems` of a report, named by what made each model; in the order of `ROLES`, then the others.

    A system is a model with its kind of prompt and its selection; its directories are splits, or repetitions of one.
    Models without a role go by their own name, baselines too. Where several would have one name, what parts them stands
    in brackets: `SFT-SAM (sft-painted)`.

    Args:
        directories: outputs of evaluate, in any order.

    Raises:
        UserError: a directory is not the output of evaluate.
    """
    systems: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for directory in dict.fromkeys(directories):
        metrics = read_run(directory).metrics
        systems[metrics["model"], str(metrics.get("prompt")), metrics["selection"]].append(directory)
    alike: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for key in systems:
        alike[role_of(key[0]) or Path(key[0].removeprefix(BASELINE_PREFIX)).name].append(key)
    names = {}
    for name in sorted(alike, key=lambda name: [*ROLES, name].index(name)):
        short = [(Path(model).name, *rest) for model, *rest in alike[name]]
        parts = short if len(set(short)) == len(short) else alike[name]
        varied = [place for place in range(3) if len({part[place] for part in parts}) > 1]
        for key, part in zip(alike[name], parts):
            told = ", ".join(part[place] for place in varied)
            names[f"{name} ({told})" if told else name] = systems[key]
    return names


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


def shards(directory: str | Path, split: str) -> list[Path]:
    """The Parquet files of a data set directory's split, in order."""
    return sorted((Path(directory) / "data").glob(f"{split}-?????-of-?????.parquet"))


def dataset_table(directory: str | Path) -> list[dict[str, Any]]:
    """What a segmentation data set directory holds, a row a split; images are not read."""
    table = []
    for split in split_names(directory):
        rows: dict[str, Any] = {"split": split, "images": 0, "defective": 0, "objects": 0, "categories": {}}
        for path in shards(directory, split):
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
    split = next(iter(split_names(directory)), "")
    paths = shards(directory, split)
    with decoding(f"{directory}: split '{split}'"):
        total = sum(pq.read_metadata(path).num_rows for path in paths)
    wanted = np.linspace(0, total - 1, min(limit, total)).round().astype(int).tolist()
    found = take_rows(paths, wanted, columns)
    return [row | {"row": place, "split": split} for place, row in found.items()]
