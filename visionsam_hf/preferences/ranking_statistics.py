"""What rankings amount to, and how far annotators agree: running totals for `stage.json`, and statistics as pure functions."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats

from visionsam_hf.preferences.rankings import Annotation, Verdict, mean_ranks

# One task's rankings, by annotator.
RankingSet = Mapping[str, Sequence[int]]
_BOOTSTRAP = 0xA1FA


class Tally:
    """Counts pairs and ties, and averages agreement and the pairs' distance from the truth."""

    def __init__(self) -> None:
        self.tasks = self.rankings = self.unusable = 0
        self.seconds: float = 0
        self._between: list[float] = []
        self._with_score: list[float] = []
        self._pairs: list[tuple[float, float]] = []
        self._margins: list[float] = []
        self._chosen: Counter[str] = Counter()

    def add(
        self,
        annotations: Sequence[Annotation],
        verdict: Verdict,
        candidates: Sequence[Mapping[str, Any]],
        ious: Sequence[float] | None,
    ) -> None:
        """One task: everyone's rankings, what they came to, the candidates with score and source, their IoU with the truth."""
        rankings, scores = [one.ranking for one in annotations], [one["score"] for one in candidates]
        self.tasks += 1
        self.rankings += len(rankings)
        self.seconds += sum(one.seconds or 0 for one in annotations)
        self.unusable += 2 * sum(one.unusable for one in annotations) > len(annotations)
        self._between += [tau(first, second) for first, second in combinations(rankings, 2)]
        self._with_score.append(tau(verdict.mean_ranks, [-score for score in scores]))
        if verdict.is_tie:
            return
        self._margins.append(verdict.margin)
        self._chosen[str(candidates[verdict.order[0]]["source"])] += 1
        if ious is not None:
            self._pairs.append((ious[verdict.order[0]], ious[verdict.order[-1]]))

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
        return plain(
            {
                "tasks": self.tasks,
                "pairs": len(self._margins),
                "dropped_ties": self.tasks - len(self._margins),
                "none_usable": self.unusable,
                "label_cost": {"rankings": self.rankings, "tasks": self.tasks, "seconds": self.seconds},
                "mean_margin": mean(self._margins),
                "chosen_iou": mean([one for one, _ in self._pairs]),
                "rejected_iou": mean([other for _, other in self._pairs]),
                "mean_iou_gap": mean([one - other for one, other in self._pairs]),
                "share_worse_chosen": mean([one < other for one, other in self._pairs]),
                "chosen_sources": dict(self._chosen.most_common()),
                "tau_between_annotators": mean(self._between),
                "tau_with_score": mean(self._with_score),
            },
            digits=6,
        )

def plain(value: Any, *, digits: int) -> Any:
    """A JSON-ready value: floats rounded, nan as None."""
    if isinstance(value, dict):
        return {key: plain(item, digits=digits) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, digits=digits) for item in value]
    if isinstance(value, float):
        return round(value, digits) if math.isfinite(value) else None
    return value


def tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Kendall's τ-b; not a number where one side ties everything."""
    # scipy warns when a side is constant, which here is an ordinary answer.
    if len(set(first)) < 2 or len(set(second)) < 2:
        return math.nan
    return float(stats.kendalltau(first, second).statistic)


def ordinal_alpha(sets: Sequence[RankingSet]) -> float:
    """Krippendorff's α with the ordinal metric, a unit being one candidate of one task; nan without two raters.

    Krippendorff, Content Analysis, 4th ed., section 12.3: the distance of two ranks counts the values between them.
    """
    return _alpha(np.sum([_coincidences(rankings) for rankings in sets], axis=0)) if sets else math.nan


def alpha_interval(sets: Sequence[RankingSet], *, seed: int, draws: int = 1000) -> tuple[float, float]:
    """The bootstrap 95% interval of `ordinal_alpha`, tasks drawn with replacement."""
    if not sets:
        return math.nan, math.nan
    tables = np.stack([_coincidences(rankings) for rankings in sets])
    rng = np.random.default_rng([seed, _BOOTSTRAP])
    values = [_alpha(tables[rng.integers(len(tables), size=len(tables))].sum(0)) for _ in range(draws)]
    values = [value for value in values if np.isfinite(value)]
    return tuple(np.quantile(values, [0.025, 0.975])) if values else (math.nan, math.nan)


def _coincidences(rankings: RankingSet, values: int = 3) -> np.ndarray:
    """The (values, values) coincidence matrix of one task's candidates."""
    table = np.zeros((values, values))
    raters = len(rankings)
    if raters < 2:
        return table
    for ranks in np.asarray(list(rankings.values())).T:
        counts = np.bincount(ranks - 1, minlength=values)
        table += (np.outer(counts, counts) - np.diag(counts)) / (raters - 1)
    return table


def _alpha(table: np.ndarray) -> float:
    totals = table.sum(1)
    total = totals.sum()
    if total <= 1:
        return math.nan
    below = np.cumsum(totals) - totals / 2
    # Between ranks c and k lie all values ranked between them, and half of those ranked c or k.
    distance = np.subtract.outer(below, below) ** 2
    expected = (np.outer(totals, totals) * distance).sum() / (total - 1)
    return float(1 - (table * distance).sum() / expected) if expected > 0 else math.nan


def pairwise_tau(sets: Sequence[RankingSet]) -> float:
    """Mean Kendall's τ-b over all pairs of annotators on all tasks; all-equal rankings have none and are left out."""
    return mean([tau(first, second) for rankings in sets for first, second in combinations(rankings.values(), 2)])


def best_choice_kappa(sets: Sequence[RankingSet]) -> float:
    """Fleiss' κ on which candidate is best, over tasks with one best each and the commonest number of raters."""
    counts = []
    for rankings in sets:
        bests = [best for ranking in rankings.values() if (best := _only(ranking, 1)) is not None]
        counts.append((len(bests), np.bincount(bests, minlength=3)))
    sizes = [raters for raters, _ in counts if raters > 1]
    if not sizes:
        return math.nan
    raters = max(set(sizes), key=lambda size: (sizes.count(size), size))
    table = np.array([count for size, count in counts if size == raters])
    observed = ((table * (table - 1)).sum(1) / (raters * (raters - 1))).mean()
    expected = ((table.sum(0) / table.sum()) ** 2).sum()
    return float((observed - expected) / (1 - expected)) if expected < 1 else math.nan


def exact_agreement(sets: Sequence[RankingSet]) -> float:
    """Share of pairs of annotators with the very same ranking; 1/6 by chance where nobody ties."""
    couples = [couple for rankings in sets for couple in combinations(rankings.values(), 2)]
    return mean([list(first) == list(second) for first, second in couples])


def unanimity(sets: Sequence[RankingSet], pairs: Sequence[tuple[int, int] | None]) -> float:
    """Share of tasks where every annotator ranks the chosen candidate above the rejected one.

    Args:
        pairs: for each task the chosen and the rejected candidate, or None where there is no pair.
    """
    return mean(
        [
            all(ranking[pair[0]] < ranking[pair[1]] for ranking in rankings.values())
            for rankings, pair in zip(sets, pairs, strict=True)
            if pair is not None and len(rankings) > 1
        ]
    )


def leave_one_out_tau(sets: Sequence[RankingSet]) -> dict[str, float]:
    """For each annotator the mean τ-b with the mean rank of all the others."""
    found: dict[str, list[float]] = {}
    for rankings in sets:
        for name, ranking in rankings.items():
            others = [other for key, other in rankings.items() if key != name]
            if others:
                found.setdefault(name, []).append(tau(ranking, np.mean(others, axis=0).tolist()))
    return {name: mean(values) for name, values in found.items()}


def position_bias(best_panes: Sequence[int]) -> tuple[list[int], float]:
    """How often the best mask stood in each of the three panes, and the χ² test's p that chance does this."""
    counts = np.bincount(np.asarray(best_panes, int), minlength=3)
    p = float(stats.chisquare(counts).pvalue) if counts.sum() else math.nan
    return counts.tolist(), p


def tau_against(sets: Sequence[RankingSet], others: Sequence[Sequence[float] | None]) -> float:
    """Mean τ-b of the annotators' mean ranks with another opinion on each task (lower is better), where there is one."""
    return mean(
        [
            tau(mean_ranks(list(rankings.values())), other)
            for rankings, other in zip(sets, others, strict=True)
            if other is not None
        ]
    )


def _only(ranking: Sequence[int], rank: int) -> int | None:
    return list(ranking).index(rank) if list(ranking).count(rank) == 1 else None


def mean(values: Sequence[float]) -> float:
    """The mean of those that are numbers; nan of none."""
    finite = np.asarray(values, float)
    finite = finite[np.isfinite(finite)]
    return float(finite.mean()) if finite.size else math.nan
