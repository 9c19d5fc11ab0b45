"""How well defects are found without a prompt: of images, of pixels, and of the masks that come out at the end.

AUROC, average precision and F1 at the best threshold are scikit-learn's. AUPRO is the area under the mean overlap per
region (P. Bergmann et al., MVTec AD, CVPR 2019) over the share of good pixels that are marked, up to `limit`, over
`limit`. Regions are connected in eight directions, as the authors' own evaluation has them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from visionsam_hf.data.masks import mask_iou, united

FOUND_IOU = 0.3  # from which on a mask has found its defect
_LEVELS = 20_000


def detection_figures(
    scores: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None
) -> dict[str, float | None]:
    """AUROC, average precision and F1 at the best threshold.

    Args:
        scores: (N,), the higher the more defective. positive: (N,) bool. weights: (N,) how often each counts.

    Returns:
        "auroc", "ap", "f1_max"; None each where all or none are positive.
    """
    if positive.all() or not positive.any():
        return {"auroc": None, "ap": None, "f1_max": None}
    precision, recall, _ = precision_recall_curve(positive, scores, sample_weight=weights)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return {
        "auroc": float(roc_auc_score(positive, scores, sample_weight=weights)),
        "ap": float(average_precision_score(positive, scores, sample_weight=weights)),
        "f1_max": float(f1.max()),
    }


def roc_points(scores: np.ndarray, positive: np.ndarray) -> list[list[float]]:
    """The corners of the ROC: [share of good ones that are called defective, share of defective ones that are found]."""
    false, true, _ = roc_curve(positive, scores)
    return [[float(x), float(y)] for x, y in zip(false, true)]


def pixel_figures(
    maps: Sequence[np.ndarray], truths: Sequence[np.ndarray], *, limit: float = 0.3, levels: int = _LEVELS
) -> dict[str, float | None]:
    """`detection_figures` of all pixels of all images together, and AUPRO.

    Every pixel of a region adds one over the region's size over the number of regions to the overlap, every good one to
    the false positives; summed from the highest level down they are AUPRO's curve. Millions of pixels are counted by
    level: exactly where their scores have at most `levels` values, else those of one quantile count as equal.

    Args:
        maps: an (H, W) float map an image. truths: the (H, W) bool masks of their defects.
        limit: of AUPRO, the largest share of good pixels that is marked.
        levels: of scores that are told apart.

    Returns:
        "auroc", "ap", "f1_max", "aupro"; None where there is no defective or no good pixel.
    """
    scores = np.concatenate([found.ravel() for found in maps]).astype(np.float32)
    weights, regions = [], 0
    for truth in truths:
        count, labels, statistics, _ = cv2.connectedComponentsWithStats(truth.astype(np.uint8), connectivity=8)
        weights.append(np.concatenate([[0.0], 1 / statistics[1:, cv2.CC_STAT_AREA]])[labels].ravel())
        regions += count - 1
    overlap = np.concatenate(weights)
    positive = overlap > 0
    ranked = np.sort(scores)
    edges = np.unique(ranked if len(ranked) <= levels else ranked[:: len(ranked) // levels])
    level = np.searchsorted(edges, scores, side="right")
    defective, good, reached = (
        np.bincount(level, weights=part, minlength=len(edges) + 1) for part in (positive, ~positive, overlap)
    )
    both = np.arange(len(edges) + 1)
    kinds = np.repeat([True, False], len(both))
    counts = np.concatenate([defective, good])
    seen = counts > 0
    figures = detection_figures(np.tile(both, 2)[seen], kinds[seen], counts[seen])
    if figures["auroc"] is None:
        return {**figures, "aupro": None}
    false = np.concatenate([[0.0], np.cumsum(good[::-1]) / good.sum()])
    true = np.concatenate([[0.0], np.cumsum(reached[::-1]) / regions])
    inside = false <= limit
    x, y = np.append(false[inside], limit), np.append(true[inside], np.interp(limit, false, true))
    return {**figures, "aupro": float(np.trapezoid(y, x) / limit)}


@dataclass
class FoundDefects:
    """Counts of masks and defects over images, one after another.

    Attributes:
        defects, found: true defects, and those that a mask hits with an IoU of `FOUND_IOU`.
        masks, false: masks, and those that hit no defect.
        ious, dices: of the union of an image's masks with the union of its defects, for each defective image.
        good, good_marked: images without a defect, and those of them that got a mask.
    """

    defects: int = 0
    found: int = 0
    masks: int = 0
    false: int = 0
    good: int = 0
    good_marked: int = 0
    ious: list[float] = field(default_factory=list)
    dices: list[float] = field(default_factory=list)

    def add(self, masks: Sequence[np.ndarray], defects: Sequence[np.ndarray]) -> float | None:
        """One image: the (H, W) bool masks that it got, and those of its defects.

        Returns:
            The IoU of the two unions, None for a good image.
        """
        overlaps = np.array([[mask_iou(mask, defect) for defect in defects] for mask in masks])
        hits = overlaps.reshape(len(masks), len(defects)) >= FOUND_IOU
        self.defects, self.found = self.defects + len(defects), self.found + int(hits.any(0).sum())
        self.masks, self.false = self.masks + len(masks), self.false + int((~hits.any(1)).sum())
        if not defects:
            self.good, self.good_marked = self.good + 1, self.good_marked + bool(masks)
            return None
        truth = np.logical_or.reduce(defects)
        self.ious.append(mask_iou(united(masks, truth.shape), truth))
        self.dices.append(2 * self.ious[-1] / (1 + self.ious[-1]))
        return self.ious[-1]

    def figures(self) -> dict[str, Any]:
        """Means and shares; None where nothing was there to be counted."""
        return {
            "iou": _share(sum(self.ious), len(self.ious)),
            "dice": _share(sum(self.dices), len(self.dices)),
            "images": len(self.ious),
            "defects": self.defects,
            "found": self.found,
            "masks": self.masks,
            "false": self.false,
            "recall": _share(self.found, self.defects),
            "precision": _share(self.masks - self.false, self.masks),
            "good": self.good,
            "good_marked": self.good_marked,
            "good_marked_share": _share(self.good_marked, self.good),
        }


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None
