"""Where the product is, on photographs without a mask of it."""

from __future__ import annotations

import cv2
import numpy as np

_CLEAR = 2.5  # an outline that is less steep than so many times the rest is a guess
_SIDE = 512


def estimate_foreground(image: np.ndarray) -> np.ndarray:
    """A guess at where the product is, for photographs on a plain background.

    The background is what resembles the border of the photograph. The whole photograph counts as product where that
    is most of it, or almost none, or where no edge parts the two: shading across a part is no background.

    Args:
        image: (H, W, 3) uint8 RGB.

    Returns:
        (H, W) bool.
    """
    height, width = image.shape[:2]
    if max(height, width) > _SIDE:  # an outline needs no more, and blurring a large photograph takes seconds
        scale = _SIDE / max(height, width)
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        guess = estimate_foreground(small).astype(np.uint8)
        return cv2.resize(guess, (width, height), interpolation=cv2.INTER_NEAREST) > 0
    lab = cv2.cvtColor(cv2.GaussianBlur(image, (0, 0), max(1.0, max(height, width) / 200)), cv2.COLOR_RGB2LAB).astype(
        np.float32
    )
    band = max(1, min(height, width) // 40)
    border = np.concatenate(
        [
            lab[:band].reshape(-1, 3),
            lab[-band:].reshape(-1, 3),
            lab[:, :band].reshape(-1, 3),
            lab[:, -band:].reshape(-1, 3),
        ]
    )
    middle = np.median(border, 0)
    spread = np.median(np.abs(border - middle), 0) * 1.5 + 2
    distance = np.sqrt((((lab - middle) / spread) ** 2).mean(2))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * band + 1, 2 * band + 1))
    mask = cv2.morphologyEx((distance > 3).astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, kernel)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
    if count <= 1:
        return np.ones((height, width), bool)
    best = labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    outline, _ = cv2.findContours(best.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros((height, width), np.uint8)
    cv2.drawContours(filled, outline, -1, 1, -1)
    if not 0.03 < filled.mean() < 0.9 or _outline_strength(image, filled, band) < _CLEAR:
        return np.ones((height, width), bool)
    return filled.astype(bool)


def _outline_strength(image: np.ndarray, mask: np.ndarray, band: int) -> float:
    """How much steeper the picture is along the mask's outline than elsewhere; 1 for an outline out of nothing."""
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 2)
    steep = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    kernel = np.ones((5, 5), np.uint8)
    edge = cv2.dilate(mask, kernel) != cv2.erode(mask, kernel)
    edge[:band] = edge[-band:] = edge[:, :band] = edge[:, -band:] = False
    return float(steep[edge].mean()) / (float(np.median(steep)) + 0.1) if edge.any() else 0.0
