"""What an evidence study consists of: cells that share a stage 1, and the systems that are trained in each."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from visionsam_hf.data.errors import UserError

SAM, SFT = "SAM", "SFT-SAM"
# Systems that no seed changes: one result a fold.
UNTRAINED = {SAM: "", "Fill the box": "fill_box", "GrabCut": "grabcut"}
# Keys of an objective that are not settings of `SamDPOConfig`.
_OWN = ("start", "sources", "rounds")


@dataclasses.dataclass(frozen=True, order=True)
class Cell:
    """What a stage 1 and its rankings depend on: everything in one cell starts from the same model.

    `masks` is the number of images with masks, `annotators` how many rank each prompt, `flip_rate` the share of their
    rankings that are turned upside down.
    """

    fold: str
    seed: int
    masks: int
    annotators: int
    flip_rate: float = 0.0


@dataclasses.dataclass(frozen=True)
class Objective:
    """One way to learn from rankings.

    `start` is "sft", "sam" or another objective, whose last model it goes on from; `sources` are those of
    `visionsam_hf.preferences.candidates`; `settings` go to `SamDPOConfig`.
    """

    name: str
    start: str
    sources: tuple[str, ...]
    rounds: int
    settings: Mapping[str, Any]


def read_objectives(given: Mapping[str, Mapping[str, Any]], common: Mapping[str, Any]) -> dict[str, Objective]:
    """Objectives by name from the settings.

    Args:
        given: name -> `start`, `sources`, `rounds` and fields of `SamDPOConfig`.
        common: fields that every objective shares; its own win.

    Raises:
        UserError: a start that is not there, or that leads back to itself; rounds below 1.
    """
    found = {}
    for name, values in given.items():
        if name in (*UNTRAINED, SFT, "sft", "sam"):
            raise UserError(f"objectives: '{name}' is a name the study uses itself; choose another")
        rounds = values.get("rounds", 1)
        if not isinstance(rounds, int) or rounds < 1:
            raise UserError(f"objectives: '{name}' has rounds {rounds!r}; give a number from 1")
        settings = {key: value for key, value in {**common, **values}.items() if key not in _OWN}
        sources = tuple(values.get("sources", ("tokens",)))
        found[name] = Objective(name, values.get("start", "sft"), sources, rounds, settings)
    for objective in found.values():
        chain(found, objective.name)
    return found


def chain(objectives: Mapping[str, Objective], name: str) -> list[Objective]:
    """The objectives that lead to this one's last model, the first one to run first."""
    steps: list[Objective] = []
    while name not in ("sft", "sam"):
        if name not in objectives:
            raise UserError(f"objectives: start '{name}' is none of sft, sam, {', '.join(objectives)}")
        if objectives[name] in steps:
            raise UserError(f"objectives: '{name}' starts from itself; start from sft or sam")
        steps.append(objectives[name])
        name = objectives[name].start
    return steps[::-1]


def plan_cells(
    *,
    folds: Sequence[str],
    seeds: Sequence[int],
    masks: int,
    annotators: int,
    objectives: Sequence[str],
    label_budgets: Sequence[int] = (),
    budget_objectives: Sequence[str] = (),
    budget_seeds: Sequence[int] = (),
    flip_rates: Sequence[float] = (),
    flip_objectives: Sequence[str] = (),
    flip_seeds: Sequence[int] = (),
    flip_annotators: int = 1,
) -> dict[Cell, list[str]]:
    """Every cell of the study with its systems; what two experiments share is planned once.

    The main experiment: every objective, fold and seed at one budget. The budget experiment: other numbers of masks.
    The flip experiment: other shares of flipped rankings, by `flip_annotators` a prompt.
    """
    cells: dict[Cell, list[str]] = {}

    def add(cell: Cell, systems: Sequence[str]) -> None:
        known = cells.setdefault(cell, [SFT])
        known += [system for system in systems if system not in known]

    for seed in seeds:
        for fold in folds:
            add(Cell(fold, seed, masks, annotators), objectives)
    for seed in budget_seeds:
        for fold in folds:
            for budget in label_budgets:
                add(Cell(fold, seed, budget, annotators), budget_objectives)
    for seed in flip_seeds:
        for fold in folds:
            for rate in flip_rates:
                add(Cell(fold, seed, masks, flip_annotators, rate), flip_objectives)
    return cells


def key_of(**described: Any) -> str:
    """A hash of what a result depends on; any JSON-ready values."""
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()[:32]
