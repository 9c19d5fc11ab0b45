"""Can the predicted score be trusted? Predicted IoU against the IoU that was reached."""

import math

import numpy as np
from scipy import stats

from visionsam_hf.evaluation.counts import exact_mean


def calibration(scores: np.ndarray, ious: np.ndarray, *, bins: int = 10, good: float = 0.5) -> dict[str, object]:
    """Agreement of scores with true IoU.

    Args:
        scores: (N,) predicted IoU; a system without scores gives NaN.
        ious: (N,) true IoU.
        bins: equal-width bins over [0, 1]; scores outside are counted in the outermost.
        good: the IoU from which a mask counts as good, for AUROC.

    Returns:
        "mae", "bias" (mean of score − IoU: above 0 is over-confident), "spearman", "ece", "auroc", and "bins", a list of
        {"low", "high", "n", "score", "iou"}. A value that is not defined (no scores, one class, no spread) is None.
    """
    scores, ious = np.asarray(scores, np.float64), np.asarray(ious, np.float64)
    if not len(scores) or not np.isfinite(scores).all():
        return {"mae": None, "bias": None, "spearman": None, "ece": None, "auroc": None, "bins": []}
    place = np.clip((np.clip(scores, 0, 1) * bins).astype(int), 0, bins - 1)
    table = []
    for index in range(bins):
        inside = place == index
        if inside.any():
            table.append(
                {
                    "low": index / bins,
                    "high": (index + 1) / bins,
                    "n": int(inside.sum()),
                    "score": exact_mean(scores[inside]),
                    "iou": exact_mean(ious[inside]),
                }
            )
    return {
        "mae": exact_mean(np.abs(scores - ious)),
        "bias": exact_mean(scores - ious),
        "spearman": _spearman(scores, ious),
        "ece": math.fsum(entry["n"] * abs(entry["score"] - entry["iou"]) for entry in table) / len(scores),
        "auroc": auroc(scores, ious >= good),
        "bins": table,
    }


def _spearman(first: np.ndarray, second: np.ndarray) -> float | None:
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(stats.spearmanr(first, second).statistic)


def auroc(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """The chance that a positive scores above a negative (a tie counts one half); None if either is missing.

    Args:
        scores: (N,). positive: (N,) bool.
    """
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        return None
    ranks = stats.rankdata(scores)
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def top1_agreement(scores: np.ndarray, ious: np.ndarray) -> float | None:
    """The share of prompts whose best-scored candidate is the best mask; equal IoU counts as agreement.

    Args:
        scores, ious: (N, K) of the candidates of each prompt. None without scores.
    """
    if not len(scores) or not np.isfinite(scores).all():
        return None
    chosen = np.take_along_axis(ious, scores.argmax(1)[:, None], 1)[:, 0]
    return exact_mean(chosen >= ious.max(1) - 1e-9)
