"""Running totals over the tasks of an annotated split, in constant memory a task: what `stage.json` records."""

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats

from visionsam_hf.annotation.aggregate import Verdict


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


def tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Kendall's τ-b; not a number where one side ties everything."""
    # scipy warns when a side is constant, which here is an ordinary answer.
    if len(set(first)) < 2 or len(set(second)) < 2:
        return float("nan")
    return float(stats.kendalltau(first, second).statistic)


def _mean(values: Sequence[float]) -> float | None:
    finite = np.asarray(values, float)
    finite = finite[np.isfinite(finite)]
    return round(float(finite.mean()), 6) if finite.size else None
