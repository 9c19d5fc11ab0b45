"""From one mask of an image to its objects, one region in memory at a time."""

from typing import Any

import cv2
import numpy as np

from visionsam_hf.schema import object_row


def mask_objects(
    mask: np.ndarray, defect: str, *, objects: str, min_area: int, max_objects: int
) -> tuple[list[dict[str, Any]], np.ndarray, int]:
    """The `objects` rows of a mask, their union, and how many regions were dropped.

    Args:
        mask: (H, W) bool.
        defect: the name of each object.
        objects: "components": each 8-connected region is an object, in scan order; "image": the whole mask is one.
        min_area: regions of fewer pixels are dropped.
        max_objects: of the rest, the largest are kept.

    Returns:
        rows for the `objects` column, (H, W) bool union of them, number of regions dropped.
    """
    if objects == "image":
        if mask.sum() >= max(1, min_area):
            return [object_row(mask, defect)], mask, 0
        return [], np.zeros_like(mask), int(mask.any())
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = statistics[:, cv2.CC_STAT_AREA]
    large = 1 + np.flatnonzero(areas[1:] >= max(1, min_area))
    kept = np.sort(large[np.argsort(-areas[large], kind="stable")][:max_objects])
    rows = [object_row(labels == label, defect) for label in kept]
    return rows, np.isin(labels, kept), count - 1 - len(kept)
