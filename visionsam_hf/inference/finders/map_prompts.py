"""From a map to prompts: its peaks, and round each the region that belongs to it."""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from visionsam_hf.data.masks import mask_box
from visionsam_hf.data.prompts import negative_point

_FURTHER = 0.6


@dataclass(frozen=True)
class PromptPlan:
    """How maps become prompts, and which of the masks stay; chosen on validation images (`choose_plan`).

    Attributes:
        kind: "box" (round the region), "point" (its peak) or "point_pm" (that and one in the background beside it).
        level: a region is what lies above this share of its peak, connected with it.
        regions: at most so many prompts an image, the highest peaks first.
        min_score: masks whose predicted IoU is lower are dropped.
        min_inside: masks on which the map's mean is lower than this share of the peak are dropped.
    """

    kind: str = "box"
    level: float = 0.5
    regions: int = 3
    min_score: float = 0.0
    min_inside: float = 0.0


@dataclass(frozen=True)
class Region:
    """A place that looks wrong: its peak's value and (x, y), and its (H, W) bool pixels with their box."""

    peak: float
    point: tuple[int, int]
    pixels: np.ndarray
    box: tuple[float, float, float, float]


def find_regions(found: np.ndarray, *, level: float, most: int) -> Iterator[Region]:
    """The regions of an (H, W) map round its peaks above 0, the highest first.

    Args:
        found: float32 map in units of good parts. A further peak has at least 0.6 of the first one's height.
        level: the region of a peak is what is connected with it above `level` times its height.
        most: regions at most.
    """
    rest = found.copy()
    least = _FURTHER * float(rest.max())
    for _ in range(most):
        y, x = np.unravel_index(int(rest.argmax()), rest.shape)
        peak = float(rest[y, x])
        if peak <= 0 or peak < least:
            return
        _, labels = cv2.connectedComponents((rest >= level * peak).astype(np.uint8), connectivity=8)
        pixels = labels == labels[y, x]
        yield Region(peak, (int(x), int(y)), pixels, tuple(mask_box(pixels)))  # type: ignore[arg-type]  # four of them
        # What surrounds a region down to the next valley belongs to it; a second peak must stand apart.
        _, wide = cv2.connectedComponents((rest >= 0.5 * level * peak).astype(np.uint8), connectivity=8)
        rest[wide == wide[y, x]] = -np.inf


def region_prompt(region: Region, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """(4,) box and (2, 2) positive and negative (x, y) of a region, float32 in pixels of the photograph."""
    points = np.zeros((2, 2), np.float32)
    if kind != "box":
        points[0] = region.point
    if kind == "point_pm":
        points[1] = negative_point(region.pixels, np.array(region.box))
    return np.array(region.box, np.float32), points
