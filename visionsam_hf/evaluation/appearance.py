"""What makes a defect hard to see: how small, how thin and how faint it is."""

import cv2
import numpy as np

# (name, upper edges, labels): the classes are fixed, so that data sets compare.
BINS = {
    "size": ((0.001, 0.01, 0.1), ("under 0.1% of the image", "0.1 to 1%", "1 to 10%", "over 10%")),
    "thickness": ((0.01, 0.03, 0.1), ("under 1% of the longer side", "1 to 3%", "3 to 10%", "over 10%")),
    "contrast": ((0.05, 0.1, 0.2), ("under 5% of the grey range", "5 to 10%", "10 to 20%", "over 20%")),
}


def defect_size(truth: np.ndarray) -> float:
    """The share of the image that a (H, W) mask takes."""
    return float(truth.mean())


def defect_thickness(truth: np.ndarray) -> float:
    """The width of a (H, W) mask where it is thickest, as a share of the image's longer side; 0 if empty."""
    if not truth.any():
        return 0.0
    rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
    inside = np.pad(truth[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1).astype(np.uint8)
    # The distance from a pixel's centre to the nearest centre outside: 1 for a line one pixel wide.
    depth = float(cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).max())
    return (2 * depth - 1) / max(truth.shape)


def defect_contrast(grey: np.ndarray, truth: np.ndarray) -> float:
    """How much a defect's mean grey differs from that of the ring around it, as a share of the grey range.

    The ring is as wide as the defect is thick, at least 3 pixels. NaN if the mask or the ring is empty.

    Args:
        grey: (H, W) uint8. truth: (H, W) bool.
    """
    if not truth.any() or truth.all():
        return float("nan")
    width = max(3, round(defect_thickness(truth) * max(truth.shape)))
    rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
    window = (
        slice(max(rows[0] - width, 0), rows[-1] + 1 + width),
        slice(max(columns[0] - width, 0), columns[-1] + 1 + width),
    )
    inside, grey = truth[window], grey[window]
    ring = (cv2.distanceTransform((~inside).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= width) & ~inside
    if not ring.any():
        return float("nan")
    return abs(float(grey[inside].mean()) - float(grey[ring].mean())) / 255


def bin_index(name: str, values: np.ndarray) -> np.ndarray:
    """Which of the labels of `BINS[name]` each of (N,) values falls under; -1 for NaN."""
    edges, _ = BINS[name]
    return np.where(np.isnan(values), -1, np.searchsorted(edges, values, side="right"))
