"""Every figure of an annotation store in one JSON-ready dict; people's and simulated annotators' are never pooled."""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from visionsam_hf.preferences.ranking_statistics import (
    RankingSet,
    alpha_interval,
    best_choice_kappa,
    exact_agreement,
    leave_one_out_tau,
    mean,
    ordinal_alpha,
    pairwise_tau,
    plain,
    position_bias,
    tau,
    tau_against,
    unanimity,
)
from visionsam_hf.preferences.rankings import aggregate


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
    # Number of the round whose model made the candidates.
    proposed_in: int = 0

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

def describe(
    answers: Sequence[Answer],
    tasks: Mapping[int, Task],
    *,
    seed: int = 0,
    undone: int = 0,
    truth_rankings: Mapping[int, Sequence[int]] | None = None,
    models: Mapping[int, str] | None = None,
) -> dict[str, Any]:
    """The statistics of a store's answers.

    Args:
        answers: of a store, people's and simulated annotators'.
        tasks: by id, those of the answers at least.
        seed: of the bootstrap.
        undone: answers that were taken back.
        truth_rankings: task id to ranking by the truth, where one is known; what people are compared with.
        models: round of candidates to the model that made them, where there are rounds: each is described by itself.

    Returns:
        {"human": {...}, "oracle": {...}}, nan as None; never pooled.
    """
    groups = {
        kind: _describe([item for item in answers if item.kind == kind], tasks, seed, truth_rankings or {}, models or {})
        for kind in ("human", "oracle")
    }
    groups["human"]["undone"] = undone
    return plain(groups, digits=4)


def _describe(
    answers: Sequence[Answer],
    tasks: Mapping[int, Task],
    seed: int,
    truths: Mapping[int, Sequence[int]],
    models: Mapping[int, str],
) -> dict[str, Any]:
    work = [item for item in answers if item.task_kind == "ranked" and item.round == 0]
    ranked = [item for item in work if item.status == "ranked" and not item.surplus]
    by_task: dict[int, dict[str, list[int]]] = {}
    for item in ranked:
        by_task.setdefault(item.task_id, {})[item.annotator] = item.ranks
    ids, sets = list(by_task), list(by_task.values())
    verdicts = [aggregate(list(task.values())) for task in sets]
    pairs = [None if verdict.is_tie else (verdict.order[0], verdict.order[-1]) for verdict in verdicts]
    panes, position_p = position_bias(
        [item.order.index(item.ranks.index(1)) for item in ranked if item.ranks.count(1) == 1]
    )
    seconds = _seconds(ranked)
    return {
        "tasks": len(sets),
        "rankings": len(ranked),
        "annotators": len({item.annotator for item in ranked}),
        "pairs": sum(pair is not None for pair in pairs),
        "dropped_ties": sum(pair is None for pair in pairs),
        "alpha": ordinal_alpha(sets),
        "alpha_95": list(alpha_interval(sets, seed=seed)),
        "tau": pairwise_tau(sets),
        "kappa_best": best_choice_kappa(sets),
        "exact_order": exact_agreement(sets),
        "unanimous": unanimity(sets, pairs),
        "tie_rate": mean([len(set(item.ranks)) < 3 for item in ranked]),
        "unusable_rate": mean([bool(item.detail.get("unusable")) for item in ranked]),
        "skip_rate": mean([item.status == "skipped" for item in work]),
        "flag_rate": mean([item.status == "flagged" for item in work]),
        "flags": dict(Counter(item.detail["reason"] for item in work if item.status == "flagged")),
        "surplus": sum(item.surplus for item in work),
        "deciding": dict(Counter(item.detail.get("criterion") for item in ranked if item.detail.get("criterion"))),
        "regions": dict(Counter(region["label"] for item in ranked for region in item.detail.get("regions", []))),
        "repeats": _repeats(answers),
        "gold_tau": _gold(answers, tasks),
        "best_by_pane": panes,
        "position_p": position_p,
        "median_seconds": _median(seconds),
        "seconds": seconds,
        "tau_score": tau_against(sets, [[-score for score in tasks[task_id].scores] for task_id in ids]),
        "tau_truth": tau_against(sets, [truths.get(task_id) for task_id in ids]),
        "per_annotator": _per_annotator(answers, sets, tasks),
        "rounds": [
            {"round": number, "model": model, **_round([item for item in ranked if item.proposed_in == number], tasks)}
            for number, model in models.items()
        ],
    }


def _round(ranked: Sequence[Answer], tasks: Mapping[int, Task]) -> dict[str, Any]:
    """What people say of one model's candidates."""
    return {
        "tasks": len({item.task_id for item in ranked}),
        "rankings": len(ranked),
        "unusable_rate": mean([bool(item.detail.get("unusable")) for item in ranked]),
        "corrected_rate": mean(["correction" in item.detail for item in ranked]),
        "tau_score": mean([tau(item.ranks, [-score for score in tasks[item.task_id].scores]) for item in ranked]),
        "median_seconds": _median(_seconds(ranked)),
    }


def _per_annotator(
    answers: Sequence[Answer], sets: Sequence[RankingSet], tasks: Mapping[int, Task]
) -> dict[str, Any]:
    against_others = leave_one_out_tau(sets)
    found = {}
    for name in sorted({item.annotator for item in answers}, key=lambda name: (len(name), name)):
        mine = [item for item in answers if item.annotator == name]
        ranked = [item for item in mine if item.status == "ranked" and item.task_kind == "ranked" and item.round == 0]
        found[name] = {
            "rankings": len(ranked),
            "tau_others": against_others.get(name, math.nan),
            "gold_tau": _gold(mine, tasks),
            "repeats": _repeats(mine),
            "tie_rate": mean([len(set(item.ranks)) < 3 for item in ranked]),
            "median_seconds": _median(_seconds(ranked)),
        }
    return found


def _seconds(answers: Sequence[Answer]) -> list[float]:
    return sorted(item.detail["seconds"] for item in answers if item.detail.get("seconds") is not None)


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if values else math.nan


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
    return {
        "count": len(pairs),
        "tau": mean([tau(*pair) for pair in pairs]),
        "same_order": mean([before == after for before, after in pairs]),
    }


def _gold(answers: Sequence[Answer], tasks: Mapping[int, Task]) -> float:
    return mean(
        [
            tau(item.ranks, truth)
            for item in answers
            if item.task_kind == "gold" and item.status == "ranked" and (truth := tasks[item.task_id].truth_ranking)
        ]
    )
