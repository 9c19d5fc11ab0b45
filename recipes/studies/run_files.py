"""One small JSON file a run, named by what it depends on: a study that goes on does only what is missing.

A file keeps the IoU and the predicted score of every mask of every prompt, by split and round, and nothing else.
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from transformers import SamModel, SamProcessor

from studies.design import Cell
from studies.folds import RANKED
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.files import write_text
from visionsam_hf.data.masks import decode_rle, mask_iou
from visionsam_hf.embeddings.cache import EmbeddingCache
from visionsam_hf.embeddings.decoding import decode_image, image_hash
from visionsam_hf.inference.baselines import BASELINES
from visionsam_hf.inference.prediction import iterate_predictions

_DIGITS = 5
# A prompt of a study: fold, seed, image, object.
Prompt = tuple[str, int, str, int]
# IoU and scores by token, each (4,).
Answer = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Scores:
    """N prompts of one split.

    Attributes:
        keys: N (image_id, object_index).
        categories: N names.
        iou, scores: (N, 4) true and predicted IoU by token, at the images' own sizes; scores are NaN without a model.
    """

    keys: list[tuple[str, int]]
    categories: list[str]
    iou: np.ndarray
    scores: np.ndarray

    def as_json(self) -> dict[str, Any]:
        """JSON-ready; NaN becomes null."""
        scores = None if np.isnan(self.scores).any() else np.round(self.scores.astype(float), _DIGITS).tolist()
        iou = np.round(self.iou.astype(float), _DIGITS).tolist()
        return {"keys": [list(key) for key in self.keys], "categories": self.categories, "iou": iou, "scores": scores}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Scores":
        """What `as_json` gave."""
        iou = np.array(values["iou"], float).reshape(-1, 4)
        scores = np.full_like(iou, np.nan) if values["scores"] is None else np.array(values["scores"], float)
        return cls([tuple(key) for key in values["keys"]], values["categories"], iou, scores.reshape(-1, 4))


def score_model(model: SamModel, processor: SamProcessor, rows: datasets.Dataset, cache: EmbeddingCache) -> Scores:
    """Box prompts of every object of a segmentation data set."""
    keys, categories, iou, scores = [], [], [], []
    for result in iterate_predictions(model, processor, rows, cache=cache):
        keys.append((result.image_id, result.object_index))
        categories.append(result.category)
        iou.append([mask_iou(mask, result.truth) for mask in result.masks])
        scores.append(result.scores)
    return Scores(keys, categories, np.array(iou).reshape(-1, 4), np.array(scores).reshape(-1, 4))


def score_baseline(name: str, rows: datasets.Dataset, known: dict[tuple, float]) -> Scores:
    """A baseline of `visionsam_hf.inference.baselines` on the same prompts: four times its one mask.

    Args:
        known: IoU by baseline, image and object; read and filled, since folds share images and GrabCut takes its time.
    """
    names = rows.features["category"].names
    keys, categories, iou = [], [], []
    for row in rows.cast_column("image", datasets.Image(decode=False)):
        image, content = np.asarray(decode_image(row["image"])), image_hash(row["image"])
        for index, entry in enumerate(row["objects"]):
            prompt = (name, content, index)
            if prompt not in known:
                known[prompt] = mask_iou(BASELINES[name](image, tuple(entry["box"])), decode_rle(entry["rle"]))
            keys.append((row["image_id"], index))
            categories.append(names[row["category"]])
            iou.append([known[prompt]] * 4)
    values = np.array(iou, float).reshape(-1, 4)
    return Scores(keys, categories, values, np.full_like(values, np.nan))


def result_path(directory: Path, fold: str, system: str, key: str, cell: Cell | None = None) -> Path:
    """Where a run's result lies: readable, and apart from every run of other settings."""
    words = [system]
    if cell is not None:
        words += [f"masks{cell.masks}", f"seed{cell.seed}", f"annotators{cell.annotators}"]
        words += [f"flip{cell.flip_rate:g}"] if cell.flip_rate else []
    name = re.sub(r"[^a-z0-9._-]", "_", "-".join(words).lower())
    return directory / fold / f"{name}-{key[:12]}.json"


def write_result(path: Path, rounds: Sequence[Mapping[str, Any]]) -> None:
    """Write a run's rounds at once, or not at all."""
    write_text(path, json.dumps({"rounds": list(rounds)}, allow_nan=False))


def read_result(path: Path) -> list[dict[str, Any]]:
    """A run's rounds. Raises `UserError` for a damaged file."""
    try:
        rounds = json.loads(path.read_text(encoding="utf-8"))["rounds"]
        for record in rounds:
            record["splits"] = {split: Scores.from_json(values) for split, values in record["splits"].items()}
        return rounds
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is damaged ({error}); delete it and run the study again") from None


class Results:
    """Every result of a study: (N, 4) scores by system, split and round, prompt by prompt.

    Args:
        cells: result files of the cells' systems, `{cell: {system: path}}`.
        folds: result files of the untrained systems, `{fold: {system: path}}`.
    """

    def __init__(self, cells: Mapping[Cell, Mapping[str, Path]], folds: Mapping[str, Mapping[str, Path]]) -> None:
        self.cells = {cell: {name: read_result(path) for name, path in of.items()} for cell, of in cells.items()}
        self.folds = {fold: {name: read_result(path)[0] for name, path in of.items()} for fold, of in folds.items()}

    def of(self, system: str, split: str, cells: Sequence[Cell], *, number: int = -1) -> dict[Prompt, Answer]:
        """IoU and scores by token, each (4,), of every prompt that the system has in these cells.

        Args:
            system: of a cell or untrained; an untrained one answers alike for every seed.
            split: of the data set, or "ranked".
            number: which round, from 0; beyond the last one, and for -1, the last.
        """
        found: dict[Prompt, Answer] = {}
        for cell in cells:
            for (image, place), iou_and_score in self._of_cell(system, split, cell, number):
                found[(cell.fold, cell.seed, image, place)] = iou_and_score
        return found

    def _of_cell(self, system: str, split: str, cell: Cell, number: int) -> Iterator[tuple[tuple[str, int], Answer]]:
        rounds = self.cells[cell].get(system)
        record = self.folds[cell.fold].get(system) if rounds is None else _round(rounds, number)
        scores = record["splits"].get(split) if record else None
        if scores is None:
            return
        wanted = None
        if rounds is None and split == RANKED:
            # Untrained systems answered every training image; the cell ranked some of them.
            some = next(iter(self.cells[cell].values()))[0]["splits"][RANKED]
            wanted = set(some.keys)
        for key, iou, score in zip(scores.keys, scores.iou, scores.scores):
            if wanted is None or key in wanted:
                yield key, (iou, score)

    def rounds(self, system: str, cells: Sequence[Cell]) -> int:
        """How many rounds a system has; 1 for one that is not tuned on rankings."""
        return max((len(self.cells[cell][system]) for cell in cells if system in self.cells[cell]), default=1)

    def records(self, system: str, cells: Sequence[Cell], number: int = -1) -> list[dict[str, Any]]:
        """The records (costs, candidates, seconds) of one round in every cell."""
        return [_round(self.cells[cell][system], number) for cell in cells if system in self.cells[cell]]

    def seconds(self) -> float:
        """What all runs took together."""
        of_cells = [record for runs in self.cells.values() for rounds in runs.values() for record in rounds]
        of_folds = [record for runs in self.folds.values() for record in runs.values()]
        return round(sum(record["seconds"] for record in of_cells + of_folds), 1)


def _round(rounds: list[dict[str, Any]], number: int) -> dict[str, Any]:
    return rounds[number if 0 <= number < len(rounds) else -1]
