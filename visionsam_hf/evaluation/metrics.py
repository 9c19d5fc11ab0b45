"""How well masks fit: pixel counts, the metrics made of them, averages, calibration, intervals, paired comparisons.

Everything rests on ten integer counts a prompt, so that results of any number of processes and batches can be put
together without a rounding error, and no one has to keep pixels. Intervals draw images, never single prompts: prompts
of one image share its light, its focus and its piece.

Imports nothing of this package: recipes/space/metric ships a copy of this file by itself.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import cv2
import numpy as np
from scipy import stats

COUNTS = (
    "intersection",  # pixels in both masks
    "predicted",  # pixels of the prediction
    "true",  # pixels of the truth
    "predicted_contour",  # pixels of the prediction with a 4-neighbour outside it
    "true_contour",
    "predicted_contour_near",  # ... of which within the tolerance of the truth's contour
    "true_contour_near",
    "predicted_band",  # pixels of the prediction within the band's width of its outside
    "true_band",
    "band_intersection",
)
METRICS = ("iou", "dice", "precision", "coverage", "boundary_f", "boundary_iou")

# Shares of the image's diagonal: the tolerance of DAVIS's boundary F, the band of Cheng et al.'s Boundary IoU.
_TOLERANCE = 0.008
_BAND = 0.02
_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)

_RESAMPLES_AT_ONCE = 200  # memory stays at this x images integers


def boundary_widths(shape: tuple[int, int]) -> tuple[int, int]:
    """The contour tolerance and the band's width of an image of `shape` (H, W): whole pixels, at least 1."""
    diagonal = math.hypot(*shape)
    return math.ceil(_TOLERANCE * diagonal), max(1, round(_BAND * diagonal))


def mask_counts(prediction: np.ndarray, truth: np.ndarray) -> dict[str, int]:
    """The ten counts that every metric of one prompt is made of.

    What lies outside the image counts as background, so a mask's edge along the border is part of its contour.

    Args:
        prediction, truth: (H, W) bool masks at the photograph's own size.

    Returns:
        An int for each name of `COUNTS`.

    Raises:
        ValueError: the shapes differ, or are not two-dimensional.
    """
    prediction, truth = np.asarray(prediction, bool), np.asarray(truth, bool)
    if prediction.shape != truth.shape or truth.ndim != 2:
        raise ValueError(f"masks must be (H, W) and of one shape, got {prediction.shape} and {truth.shape}")
    tolerance, width = boundary_widths(truth.shape)
    window = mask_window(prediction | truth)
    if window is None:
        return dict.fromkeys(COUNTS, 0)
    # Contours, bands and distances between contours stay the same inside the box round both masks.
    predicted, true = (np.ascontiguousarray(mask[window]).view(np.uint8) for mask in (prediction, truth))
    predicted_contour, true_contour = _contour(predicted), _contour(true)
    predicted_band, true_band = _band(predicted, width), _band(true, width)
    pairs = {
        "intersection": predicted & true,
        "predicted": predicted,
        "true": true,
        "predicted_contour": predicted_contour,
        "true_contour": true_contour,
        "predicted_contour_near": predicted_contour & _near(true_contour, tolerance),
        "true_contour_near": true_contour & _near(predicted_contour, tolerance),
        "predicted_band": predicted_band,
        "true_band": true_band,
        "band_intersection": predicted_band & true_band,
    }
    return {name: int(np.count_nonzero(mask)) for name, mask in pairs.items()}


def mask_window(mask: np.ndarray, margin: int = 0) -> tuple[slice, slice] | None:
    """The rows and columns that hold an (H, W) mask, and `margin` pixels more inside the image; None if it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    top, left = max(rows[0] - margin, 0), max(columns[0] - margin, 0)
    return slice(top, rows[-1] + 1 + margin), slice(left, columns[-1] + 1 + margin)


def _contour(mask: np.ndarray) -> np.ndarray:
    return mask & ~cv2.erode(mask, _CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0)


def _band(mask: np.ndarray, width: int) -> np.ndarray:
    # A band wider than the mask takes all of it; a larger kernel would only cost time.
    side = 2 * min(width, max(mask.shape)) + 1
    kernel = np.ones((side, side), np.uint8)
    return mask & ~cv2.erode(mask, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)


def _near(contour: np.ndarray, tolerance: int) -> np.ndarray:
    if not contour.any():
        return np.zeros_like(contour)
    distance = cv2.distanceTransform(1 - contour, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # Squared distances are integers: the slack only absorbs float32's rounding of their roots.
    return (distance <= tolerance + 1e-3).view(np.uint8)


def metric_values(counts: Mapping[str, np.ndarray | Sequence[int] | int]) -> dict[str, np.ndarray]:
    """The metrics of each prompt (or of any pool of prompts) from its counts.

    An empty prediction of an empty truth counts 1 everywhere; if only one of them is empty, 0.

    Args:
        counts: an array of any one shape, or a number, for each name of `COUNTS`.

    Returns:
        For each name of `METRICS`, float64 values in [0, 1] of that shape.
    """
    count = {name: np.asarray(counts[name], np.float64) for name in COUNTS}
    empty = (count["predicted"] == 0) & (count["true"] == 0)

    def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
        return np.where(empty, 1.0, part / np.where(whole > 0, whole, 1.0))

    shared, predicted, true = count["intersection"], count["predicted"], count["true"]
    near = count["predicted_contour_near"], count["true_contour_near"]
    contour_precision = ratio(near[0], count["predicted_contour"])
    contour_recall = ratio(near[1], count["true_contour"])
    band = count["predicted_band"] + count["true_band"] - count["band_intersection"]
    return {
        "iou": ratio(shared, predicted + true - shared),
        "dice": ratio(2 * shared, predicted + true),
        "precision": ratio(shared, predicted),
        "coverage": ratio(shared, true),
        "boundary_f": ratio(2 * contour_precision * contour_recall, contour_precision + contour_recall),
        "boundary_iou": ratio(count["band_intersection"], band),
    }


def exact_mean(values: Iterable[float]) -> float:
    """The mean, summed without rounding: the same whatever the order. NaN without values."""
    values = [float(value) for value in values]
    return math.fsum(values) / len(values) if values else math.nan


def averages(counts: Mapping[str, np.ndarray | Sequence[int]], categories: Sequence[str]) -> dict[str, dict]:
    """The three averages of every metric, which answer different questions and must not be mixed up.

    Args:
        counts: (N,) integers for each name of `COUNTS`.
        categories: N names.

    Returns:
        "overall": mean over prompts; "category_mean": mean of the categories' means; "pooled": all pixels as one image;
        "per_category": name to the mean over its prompts and "n". The values of metrics are floats.
    """
    values, names = metric_values(counts), np.asarray(categories, object)
    per_category = {}
    for name in sorted(set(categories)):
        inside = names == name
        per_category[name] = {"n": int(inside.sum())} | {
            metric: exact_mean(values[metric][inside]) for metric in METRICS
        }
    pooled = metric_values({name: int(np.sum(counts[name], dtype=np.int64)) for name in COUNTS})
    return {
        "overall": {metric: exact_mean(values[metric]) for metric in METRICS},
        "category_mean": {
            metric: exact_mean(entry[metric] for entry in per_category.values()) for metric in METRICS
        },
        "pooled": {metric: float(pooled[metric]) for metric in METRICS},
        "per_category": per_category,
    }


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
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):
        draws = rng.multinomial(n, np.full(n, 1 / n), size=min(_RESAMPLES_AT_ONCE, resamples - start))
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
