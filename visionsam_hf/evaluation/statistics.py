"""How sure a mean is: bootstrap intervals over images, and paired comparisons of two systems on the same prompts.

Prompts of one image share its light, its focus and its piece, so images are drawn, never single prompts.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

_CHUNK = 200  # resamples drawn at once: memory stays at _CHUNK x images integers


def bootstrap_interval(
    values: np.ndarray, clusters: Sequence, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The bootstrap interval of the mean over prompts, drawn by cluster.

    Percentiles, widened for few clusters as Hesterberg (2015) does: plain percentiles are too narrow by
    sqrt((n - 1) / n) and by the difference of Student's t and the normal quantile.

    Args:
        values: (N,) one number a prompt.
        clusters: N labels, e.g. image ids.

    Returns:
        (low, high); NaN with fewer than two clusters, which say nothing about their spread.
    """
    values = np.asarray(values, np.float64)
    _, member = np.unique(np.asarray(clusters).astype(str), return_inverse=True)
    count = np.bincount(member).astype(np.float64)
    n = len(count)
    if n < 2:
        return math.nan, math.nan
    total = np.bincount(member, weights=values)
    rng = np.random.default_rng([seed, n])
    means = []
    for start in range(0, resamples, _CHUNK):
        draws = rng.multinomial(n, np.full(n, 1 / n), size=min(_CHUNK, resamples - start))
        means.append((draws @ total) / (draws @ count))
    tail = stats.norm.cdf(math.sqrt(n / (n - 1)) * stats.t.ppf((1 - level) / 2, n - 1))
    # "weibull" puts the p-quantile at (B + 1) p: the usual one lies too far inside when resamples are few.
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail], method="weibull")
    return float(low), float(high)


def compare(
    values: np.ndarray,
    reference: np.ndarray,
    clusters: Sequence,
    *,
    tie: float = 0.01,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, object]:
    """A system against a reference on the same prompts.

    Args:
        values, reference: (N,) one metric of each system, prompt by prompt.
        clusters: N image ids.
        tie: differences up to this are ties.

    Returns:
        "difference" (mean of values − reference), "interval" [low, high], "win", "tie", "loss" (prompts), "n".
    """
    difference = np.asarray(values, np.float64) - np.asarray(reference, np.float64)
    win, loss = int((difference > tie).sum()), int((difference < -tie).sum())
    return {
        "difference": math.fsum(difference) / len(difference) if len(difference) else math.nan,
        "interval": list(bootstrap_interval(difference, clusters, resamples=resamples, seed=seed)),
        "win": win,
        "tie": len(difference) - win - loss,
        "loss": loss,
        "n": len(difference),
    }
