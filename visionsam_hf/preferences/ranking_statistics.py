"""What rankings amount to: running totals for `stage.json`, and every figure of a store in one JSON-ready dict; people's
and simulated annotators' never pooled."""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from visionsam_hf.preferences import agreement
from visionsam_hf.preferences.agreement import tau
from visionsam_hf.preferences.rankings import Verdict, aggregate, mean_ranks


@dataclasses.dataclass(frozen=True)
class Answer:
    """One person's (or simulated annotator's) standing answer to one task.

    `ranking` is by candidate; `order[pane]` is the candidate that stood there. `annotator` is a pseudonym.
    """

    task_id: int
    task_kind: str
    split: str
    row: int
    round: int
    annotator: str
    kind: str
    status: str
    ranking: list[int] | None
    order: list[int]
    surplus: bool
    at: float
    detail: dict[str, Any]

    @property
    def ranks(self) -> list[int]:
        """The ranking of an answer whose status is "ranked"."""
        if self.ranking is None:
            raise ValueError(f"the answer of {self.annotator} to task {self.task_id} ranks nothing")
        return self.ranking


@dataclasses.dataclass(frozen=True)
class Task:
    """A task; `scores` are the model's, by candidate."""

    id: int
    kind: str
    split: str
    row: int
    truth_ranking: list[int] | None
    scores: list[float]


class Tally:
    """Counts pairs and ties, and averages agreement and the pairs' distance from the truth."""

    def __init__(self) -> None:
        self.tasks = 0
        self.rankings = 0
        self.pairs = 0
        self._between: list[float] = []
        self._with_score: list[float] = []
        self._gaps: list[float] = []
        self._wrong = 0
        self._margins: list[float] = []

    def add(
        self,
        rankings: Sequence[Sequence[int]],
        verdict: Verdict,
        scores: Sequence[float],
        ious: Sequence[float] | None,
    ) -> None:
        """One task: everyone's rankings, what they came to, the model's scores, the candidates' IoU with the truth."""
        self.tasks += 1
        self.rankings += len(rankings)
        self._between += [tau(first, second) for first, second in combinations(rankings, 2)]
        self._with_score.append(tau(verdict.mean_ranks, [-score for score in scores]))
        if verdict.is_tie:
            return
        self.pairs += 1
        self._margins.append(verdict.margin)
        if ious is not None:
            gap = ious[verdict.order[0]] - ious[verdict.order[-1]]
            self._gaps.append(gap)
            self._wrong += gap < 0

    @classmethod
    def pooled(cls, tallies: Iterable["Tally"]) -> "Tally":
        """The tally of all their tasks together."""
        total = cls()
        for tally in tallies:
            for name, value in vars(tally).items():
                setattr(total, name, getattr(total, name) + value)
        return total

    def summary(self) -> dict[str, Any]:
        """JSON-ready figures; a mean of nothing is None."""
        return {
            "tasks": self.tasks,
            "pairs": self.pairs,
            "dropped_ties": self.tasks - self.pairs,
            "label_cost": {"rankings": self.rankings, "tasks": self.tasks},
            "mean_margin": _mean(self._margins),
            "mean_iou_gap": _mean(self._gaps),
            "share_worse_chosen": self._wrong / len(self._gaps) if self._gaps else None,
            "tau_between_annotators": _mean(self._between),
            "tau_with_score": _mean(self._with_score),
        }


def _mean(values: Sequence[float]) -> float | None:
    finite = np.asarray(values, float)
    finite = finite[np.isfinite(finite)]
    return round(float(finite.mean()), 6) if finite.size else None


def describe(
    answers: Sequence[Answer],
    tasks: Mapping[int, Task],
    *,
    seed: int = 0,
    undone: int = 0,
    truth_rankings: Mapping[int, Sequence[int]] | None = None,
) -> dict[str, Any]:
    """The statistics of a store's answers.

    Args:
        answers: of `load_answers`.
        tasks: of `load_tasks`.
        seed: of the bootstrap.
        undone: answers that were taken back.
        truth_rankings: task id to ranking by the truth, where one is known; what people are compared with.

    Returns:
        {"human": {...}, "oracle": {...}}, nan as None; never pooled.
    """
    groups = {
        kind: _describe([item for item in answers if item.kind == kind], tasks, seed, truth_rankings or {})
        for kind in ("human", "oracle")
    }
    groups["human"]["undone"] = undone
    return _plain(groups)


def _describe(
    answers: Sequence[Answer], tasks: Mapping[int, Task], seed: int, truths: Mapping[int, Sequence[int]]
) -> dict[str, Any]:
    work = [item for item in answers if item.task_kind == "ranked" and item.round == 0]
    ranked = [item for item in work if item.status == "ranked" and not item.surplus]
    by_task: dict[int, dict[str, list[int]]] = {}
    for item in ranked:
        by_task.setdefault(item.task_id, {})[item.annotator] = item.ranks
    ids, sets = list(by_task), list(by_task.values())
    verdicts = [aggregate(list(task.values())) for task in sets]
    pairs = [None if verdict.is_tie else (verdict.order[0], verdict.order[-1]) for verdict in verdicts]
    bests = [
        item.order.index(item.ranks.index(1)) for item in ranked if item.ranks.count(1) == 1
    ]
    panes, position_p = agreement.position_bias(bests)
    seconds = [item.detail["seconds"] for item in ranked if item.detail.get("seconds") is not None]
    low, high = agreement.alpha_interval(sets, seed=seed)
    return {
        "tasks": len(sets),
        "rankings": len(ranked),
        "annotators": len({item.annotator for item in ranked}),
        "pairs": sum(pair is not None for pair in pairs),
        "dropped_ties": sum(pair is None for pair in pairs),
        "alpha": agreement.ordinal_alpha(sets),
        "alpha_95": [low, high],
        "tau": agreement.pairwise_tau(sets),
        "kappa_best": agreement.best_choice_kappa(sets),
        "exact_order": agreement.exact_agreement(sets),
        "unanimous": agreement.unanimity(sets, pairs),
        "tie_rate": _share([len(set(item.ranks)) < 3 for item in ranked]),
        "unusable_rate": _share([bool(item.detail.get("unusable")) for item in ranked]),
        "skip_rate": _share([item.status == "skipped" for item in work]),
        "flag_rate": _share([item.status == "flagged" for item in work]),
        "flags": dict(Counter(item.detail["reason"] for item in work if item.status == "flagged")),
        "surplus": sum(item.surplus for item in work),
        "deciding": dict(Counter(item.detail.get("criterion") for item in ranked if item.detail.get("criterion"))),
        "regions": dict(Counter(region["label"] for item in ranked for region in item.detail.get("regions", []))),
        "repeats": _repeats(answers),
        "gold_tau": _gold(answers, tasks),
        "best_by_pane": panes,
        "position_p": position_p,
        "median_seconds": float(np.median(seconds)) if seconds else math.nan,
        "seconds": sorted(seconds),
        "tau_score": agreement.tau_against(
            sets, [[-score for score in tasks[task_id].scores] for task_id in ids], mean_ranks
        ),
        "tau_truth": agreement.tau_against(sets, [truths.get(task_id) for task_id in ids], mean_ranks),
        "per_annotator": _per_annotator(answers, sets, tasks),
    }


def _per_annotator(
    answers: Sequence[Answer], sets: Sequence[agreement.Task], tasks: Mapping[int, Task]
) -> dict[str, Any]:
    against_others = agreement.leave_one_out_tau(sets)
    found = {}
    for name in sorted({item.annotator for item in answers}, key=lambda name: (len(name), name)):
        mine = [item for item in answers if item.annotator == name]
        ranked = [item for item in mine if item.status == "ranked" and item.task_kind == "ranked" and item.round == 0]
        seconds = [item.detail["seconds"] for item in ranked if item.detail.get("seconds") is not None]
        found[name] = {
            "rankings": len(ranked),
            "tau_others": against_others.get(name, math.nan),
            "gold_tau": _gold(mine, tasks),
            "repeats": _repeats(mine),
            "tie_rate": _share([len(set(item.ranks)) < 3 for item in ranked]),
            "median_seconds": float(np.median(seconds)) if seconds else math.nan,
        }
    return found


def _repeats(answers: Sequence[Answer]) -> dict[str, Any]:
    """How a person's second answer to a task compares with their first."""
    first = {
        (item.annotator, item.task_id): item.ranks
        for item in answers
        if item.round == 0 and item.task_kind == "ranked" and item.status == "ranked"
    }
    pairs = [
        (first[item.annotator, item.task_id], item.ranks)
        for item in answers
        if item.round > 0 and item.task_kind == "ranked" and item.status == "ranked"
        if (item.annotator, item.task_id) in first
    ]
    values = [tau(*pair) for pair in pairs]
    finite = [value for value in values if math.isfinite(value)]
    return {
        "count": len(pairs),
        "tau": float(np.mean(finite)) if finite else math.nan,
        "same_order": _share([before == after for before, after in pairs]),
    }


def _gold(answers: Sequence[Answer], tasks: Mapping[int, Task]) -> float:
    values = [
        tau(item.ranks, truth)
        for item in answers
        if item.task_kind == "gold" and item.status == "ranked" and (truth := tasks[item.task_id].truth_ranking)
    ]
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags) if flags else math.nan


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    return value
