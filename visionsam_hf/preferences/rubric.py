"""The rubric: four criteria by which a mask is judged, computed from the true mask, and the worth of the whole.

They are the criteria of the annotators' rubric, so an oracle ranking and a person's ranking mean the same thing. No
criterion alone makes a good mask: a filled box covers every defect. People see the whole mask, so its worth is its IoU
with the truth, and the criteria decide between masks whose IoU is about the same.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from visionsam_hf.data.masks import mask_iou

RUBRIC_VERSION = "2"
CRITERIA = ("coverage", "boundary", "over_under", "noise")
# Worths closer than this are a tie: no annotator would see the difference.
TIE = 0.02
# What the mean of the criteria counts in a mask's worth; the rest is the IoU.
CRITERIA_SHARE = 0.05
# So of two masks ranked apart the better one's IoU is below the other's by no more than this.
CONTRADICTION = (CRITERIA_SHARE - TIE) / (1 - CRITERIA_SHARE)
# Three masks of less worth are no choice: whoever ranked them would teach nonsense.
USABLE = 0.1
# Tolerances of the boundary criterion, in pixels of an image whose longest side is 512.
BOUNDARY_TOLERANCES = (1.0, 2.0, 4.0, 8.0)
# A component of the prediction farther than this from the truth is spurious; same unit.
SPURIOUS_TOLERANCE = 2.0
_EIGHT = np.ones((3, 3), bool)


@dataclasses.dataclass(frozen=True)
class Criteria:
    """How good a mask is, each of the four between 0 and 1 (1 is best), and what they were made of.

    `over` is the share of the cleaned prediction outside the truth, `under` the share of the truth outside the cleaned
    prediction, `log2_area_ratio` their sizes' ratio (infinite when one of them is empty).
    """

    coverage: float
    boundary: float
    over_under: float
    noise: float
    over: float
    under: float
    log2_area_ratio: float

    def values(self) -> tuple[float, float, float, float]:
        """The four criteria in the order of `CRITERIA`."""
        return self.coverage, self.boundary, self.over_under, self.noise


def rate_mask(prediction: np.ndarray, truth: np.ndarray) -> Criteria:
    """The criteria of a predicted mask P given the true mask G.

    P* is P without its 8-connected components that do not come within `SPURIOUS_TOLERANCE` of G. coverage = |P∩G|/|G|;
    boundary = mean over the tolerances of the share of both contours, of P* and G, that lie within the tolerance of the
    other; over_under = |P*∩G|/|P*|; noise = 1 − min(1, (|P∖P*| + holes of P inside G)/|P|).
    G empty: all 1 if P is empty, else all 0. P empty, G not: all 0.

    Args:
        prediction, truth: (H, W) bool. Tolerances scale with max(H, W)/512.

    Raises:
        ValueError: the shapes differ.
    """
    prediction, truth = np.asarray(prediction, bool), np.asarray(truth, bool)
    if prediction.shape != truth.shape or prediction.ndim != 2:
        raise ValueError(f"masks of shapes {prediction.shape} and {truth.shape}; both must be the same (H, W)")
    scale = max(truth.shape) / 512
    either = prediction | truth
    if not either.any():
        return Criteria(1.0, 1.0, 1.0, 1.0, over=0.0, under=0.0, log2_area_ratio=0.0)
    # Outside the box round both nothing is set, which is what every operation below assumes beyond an edge.
    rows, columns = np.flatnonzero(either.any(1)), np.flatnonzero(either.any(0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return _rate_cropped(prediction[box], truth[box], scale)


def _rate_cropped(prediction: np.ndarray, truth: np.ndarray, scale: float) -> Criteria:
    if not truth.any():
        return Criteria(0.0, 0.0, 0.0, 0.0, over=1.0, under=0.0, log2_area_ratio=math.inf)
    if not prediction.any():
        return Criteria(0.0, 0.0, 0.0, 0.0, over=0.0, under=1.0, log2_area_ratio=-math.inf)
    cleaned = _without_spurious(prediction, truth, SPURIOUS_TOLERANCE * scale)
    size, true_size, cleaned_size = int(prediction.sum()), int(truth.sum()), int(cleaned.sum())
    overlap = int((cleaned & truth).sum())
    holes = ndimage.binary_fill_holes(prediction) & ~prediction & truth
    flaws = size - cleaned_size + int(holes.sum())
    return Criteria(
        coverage=int((prediction & truth).sum()) / true_size,
        boundary=_boundary_agreement(cleaned, truth, [tolerance * scale for tolerance in BOUNDARY_TOLERANCES]),
        over_under=overlap / cleaned_size if cleaned_size else 0.0,
        noise=1.0 - min(1.0, flaws / size),
        over=1.0 - overlap / cleaned_size if cleaned_size else 0.0,
        under=1.0 - overlap / true_size,
        log2_area_ratio=math.log2(cleaned_size / true_size) if cleaned_size else -math.inf,
    )


def _without_spurious(prediction: np.ndarray, truth: np.ndarray, tolerance: float) -> np.ndarray:
    labels, count = ndimage.label(prediction, structure=_EIGHT)
    near = ndimage.distance_transform_edt(~truth) <= tolerance
    kept = np.zeros(count + 1, bool)
    kept[labels[near]] = True
    kept[0] = False
    return kept[labels]


def _boundary_agreement(prediction: np.ndarray, truth: np.ndarray, tolerances: list[float]) -> float:
    if not prediction.any():
        return 0.0
    contours = [mask & ~ndimage.binary_erosion(mask) for mask in (prediction, truth)]
    distances = np.concatenate(
        [
            ndimage.distance_transform_edt(~contours[1])[contours[0]],
            ndimage.distance_transform_edt(~contours[0])[contours[1]],
        ]
    )
    return float(np.mean([np.mean(distances <= tolerance) for tolerance in tolerances]))


def criteria_table(masks: Sequence[np.ndarray], truth: np.ndarray) -> np.ndarray:
    """The (K, 4) criteria of K candidate masks, columns in the order of `CRITERIA`."""
    return np.array([rate_mask(mask, truth).values() for mask in masks])


def rate_masks(masks: Sequence[np.ndarray], truth: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """(K, 4) `criteria_table` of masks (H, W), and the IoU of each with the truth: what `worths` goes by."""
    return criteria_table(masks, truth), [mask_iou(mask, truth) for mask in masks]


def worths(criteria: np.ndarray, ious: Sequence[float]) -> np.ndarray:
    """(K,) how good each mask is as a whole, 0 to 1, from its (K, 4) criteria and its IoU with the truth."""
    return (1 - CRITERIA_SHARE) * np.asarray(ious) + CRITERIA_SHARE * criteria.mean(1)
