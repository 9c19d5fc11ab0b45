"""How far annotators agree: pure functions on rankings.

A ranking set is a list of tasks, each a dict from annotator to that annotator's ranking of the task's candidates.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import numpy as np
from scipy import stats

Task = Mapping[str, Sequence[int]]
_BOOTSTRAP = 0xA1FA


def tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Kendall's τ-b; not a number where one side ties everything."""
    # scipy warns when a side is constant, which here is an ordinary answer.
    if len(set(first)) < 2 or len(set(second)) < 2:
        return float("nan")
    return float(stats.kendalltau(first, second).statistic)


def ordinal_alpha(tasks: Sequence[Task]) -> float:
    """Krippendorff's α with the ordinal metric, a unit being one candidate of one task; nan without two raters.

    Krippendorff, Content Analysis, 4th ed., section 12.3: the distance of two ranks counts the values between them.
    """
    return _alpha(np.sum([_coincidences(task) for task in tasks], axis=0)) if tasks else float("nan")


def alpha_interval(tasks: Sequence[Task], *, seed: int, draws: int = 1000) -> tuple[float, float]:
    """The bootstrap 95% interval of `ordinal_alpha`, tasks drawn with replacement."""
    if not tasks:
        return float("nan"), float("nan")
    tables = np.stack([_coincidences(task) for task in tasks])
    rng = np.random.default_rng([seed, _BOOTSTRAP])
    values = [_alpha(tables[rng.integers(len(tables), size=len(tables))].sum(0)) for _ in range(draws)]
    values = [value for value in values if np.isfinite(value)]
    return tuple(np.quantile(values, [0.025, 0.975])) if values else (float("nan"), float("nan"))


def _coincidences(task: Task, values: int = 3) -> np.ndarray:
    """The (values, values) coincidence matrix of one task's candidates."""
    rankings = np.asarray(list(task.values()))
    table = np.zeros((values, values))
    raters = len(rankings)
    if raters < 2:
        return table
    for ranks in rankings.T:
        counts = np.bincount(ranks - 1, minlength=values)
        table += (np.outer(counts, counts) - np.diag(counts)) / (raters - 1)
    return table


def _alpha(table: np.ndarray) -> float:
    totals = table.sum(1)
    total = totals.sum()
    if total <= 1:
        return float("nan")
    below = np.cumsum(totals) - totals / 2
    # Between ranks c and k lie all values ranked between them, and half of those ranked c or k.
    distance = np.subtract.outer(below, below) ** 2
    expected = (np.outer(totals, totals) * distance).sum() / (total - 1)
    return float(1 - (table * distance).sum() / expected) if expected > 0 else float("nan")


def pairwise_tau(tasks: Sequence[Task]) -> float:
    """Mean Kendall's τ-b over all pairs of annotators on all tasks; all-equal rankings have none and are left out."""
    return _mean([tau(first, second) for task in tasks for first, second in combinations(task.values(), 2)])


def best_choice_kappa(tasks: Sequence[Task]) -> float:
    """Fleiss' κ on which candidate is best, over tasks with one best each and the commonest number of raters."""
    counts = []
    for task in tasks:
        bests = [best for ranking in task.values() if (best := _only(ranking, 1)) is not None]
        counts.append((len(bests), np.bincount(bests, minlength=3)))
    sizes = [raters for raters, _ in counts if raters > 1]
    if not sizes:
        return float("nan")
    raters = max(set(sizes), key=lambda size: (sizes.count(size), size))
    table = np.array([count for size, count in counts if size == raters])
    observed = ((table * (table - 1)).sum(1) / (raters * (raters - 1))).mean()
    expected = ((table.sum(0) / table.sum()) ** 2).sum()
    return float((observed - expected) / (1 - expected)) if expected < 1 else float("nan")


def exact_agreement(tasks: Sequence[Task]) -> float:
    """Share of pairs of annotators with the very same ranking; 1/6 by chance where nobody ties."""
    return _mean([list(first) == list(second) for task in tasks for first, second in combinations(task.values(), 2)])


def unanimity(tasks: Sequence[Task], pairs: Sequence[tuple[int, int] | None]) -> float:
    """Share of tasks where every annotator ranks the chosen candidate above the rejected one.

    Args:
        pairs: for each task the chosen and the rejected candidate, or None where there is no pair.
    """
    return _mean(
        [
            all(ranking[pair[0]] < ranking[pair[1]] for ranking in task.values())
            for task, pair in zip(tasks, pairs, strict=True)
            if pair is not None and len(task) > 1
        ]
    )


def leave_one_out_tau(tasks: Sequence[Task]) -> dict[str, float]:
    """For each annotator the mean τ-b with the mean rank of all the others."""
    found: dict[str, list[float]] = {}
    for task in tasks:
        for name, ranking in task.items():
            others = [other for key, other in task.items() if key != name]
            if others:
                found.setdefault(name, []).append(tau(ranking, np.mean(others, axis=0).tolist()))
    return {name: _mean(values) for name, values in found.items()}


def position_bias(best_panes: Sequence[int]) -> tuple[list[int], float]:
    """How often the best mask stood in each of the three panes, and the χ² test's p that chance does this."""
    counts = np.bincount(np.asarray(best_panes, int), minlength=3)
    p = float(stats.chisquare(counts).pvalue) if counts.sum() else float("nan")
    return counts.tolist(), p


def tau_against(tasks: Sequence[Task], others: Sequence[Sequence[float] | None], verdict: Callable) -> float:
    """Mean τ-b of the annotators' mean ranks with another opinion on each task (lower is better), where there is one."""
    return _mean(
        [
            tau(verdict(list(task.values())), other)
            for task, other in zip(tasks, others, strict=True)
            if other is not None
        ]
    )


def _only(ranking: Sequence[int], rank: int) -> int | None:
    places = [index for index, value in enumerate(ranking) if value == rank]
    return places[0] if len(places) == 1 else None


def _mean(values: Sequence[float]) -> float:
    finite = np.asarray(values, float)
    finite = finite[np.isfinite(finite)]
    return float(finite.mean()) if finite.size else float("nan")
