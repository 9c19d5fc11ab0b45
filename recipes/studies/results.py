"""One small JSON file a run, named by what it depends on: a study that goes on does only what is missing."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from studies.materials import RANKED
from studies.plan import Cell
from studies.scoring import Scores
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.files import write_text

# A prompt of a study: fold, seed, image, object.
Prompt = tuple[str, int, str, int]
# IoU and scores by token, each (4,).
Answer = tuple[np.ndarray, np.ndarray]


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
        if rounds is not None:
            scores = rounds[number if 0 <= number < len(rounds) else -1]["splits"].get(split)
        else:
            untrained = self.folds[cell.fold].get(system)
            scores = untrained["splits"].get(split) if untrained else None
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
        runs = [self.cells[cell][system] for cell in cells if system in self.cells[cell]]
        return [rounds[number if 0 <= number < len(rounds) else -1] for rounds in runs]
