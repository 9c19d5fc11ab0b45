"""What a study consists of: cells that share what they start from, and the systems that are trained in each."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from visionsam_hf.data.errors import UserError
from visionsam_hf.preferences.oracle import Habits

SAM, SFT = "SAM", "SFT-SAM"
# Systems that no seed changes, one result a fold, and the baseline that answers for each.
UNTRAINED = {SAM: "", "Fill the box": "fill_box", "GrabCut": "grabcut", "Otsu": "otsu"}
# What SFT learns from in a study of demonstrations; with no real mask, painted ones alone.
REAL, PAINTED = "real alone", "painted, then real"
# Keys of an objective that are not settings of `SamDPOConfig`.
_OWN = ("start", "sources", "rounds", "people")
# What `people` may hold beside the fields of `visionsam_hf.preferences.oracle.Habits`.
IN_TIME = ("order", "minutes")


# What `visionsam evidence` was given: its `EvidenceSettings`. The command imports the studies, never the other way.
StudySettings = Any


@dataclasses.dataclass(frozen=True, order=True)
class Cell:
    """What a stage 1 and its rankings depend on: everything in one cell starts from the same model.

    `masks` is the number of images with masks, `annotators` how many rank each prompt, `flip_rate` the share of their
    rankings that are turned upside down.
    """

    fold: str
    seed: int
    masks: int
    annotators: int = 0
    flip_rate: float = 0.0


# What one process takes at a time: a cell with the systems that it still lacks, or the untrained systems of all folds.
Task = tuple[Cell | None, tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Objective:
    """One way to learn from rankings.

    `start` is "sft", "sam" or another objective, whose last model it goes on from; `sources` are those of
    `visionsam_hf.preferences.candidates`; `settings` go to `SamDPOConfig`; `people` says what the simulated annotators do
    beside ranking everything: fields of `Habits`, and the `order` and `minutes` of `visionsam annotate oracle`.
    """

    name: str
    start: str
    sources: tuple[str, ...]
    rounds: int
    settings: Mapping[str, Any]
    people: Mapping[str, Any] = dataclasses.field(default_factory=dict)


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
        people = dict(values.get("people", {}))
        unknown = set(people) - {*IN_TIME, *(field.name for field in dataclasses.fields(Habits))}
        if unknown:
            raise UserError(f"objectives: '{name}' has people: {unknown.pop()}, which is no setting of theirs; remove it")
        found[name] = Objective(name, values.get("start", "sft"), sources, rounds, settings, people)
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


def plan_cells(settings: StudySettings) -> dict[Cell, list[str]]:
    """Every cell of a study of objectives with its systems; what two experiments share is planned once.

    The main experiment: every objective, fold and seed at one budget. The budget experiment: other numbers of masks.
    The flip experiment: other shares of flipped rankings, by `flip_annotators` a prompt.
    """
    cells: dict[Cell, list[str]] = {}

    def add(seeds: Sequence[int], systems: Sequence[str], masks: int, annotators: int, flip_rate: float = 0.0) -> None:
        for seed in seeds:
            for fold in settings.folds:
                known = cells.setdefault(Cell(fold, seed, masks, annotators, flip_rate), [SFT])
                known += [system for system in systems if system not in known]

    add(settings.seeds, list(settings.objectives), settings.masks, settings.annotators)
    for budget in settings.label_budgets:
        add(settings.budget_seeds, settings.budget_objectives, budget, settings.annotators)
    for rate in settings.flip_rates:
        add(settings.flip_seeds, settings.flip_objectives, settings.masks, settings.flip_annotators, rate)
    return cells


def key_of(**described: Any) -> str:
    """A hash of what a result depends on; any JSON-ready values."""
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()[:32]
