"""Pictures of what a finder found, missed and marked for nothing: photograph, map and masks side by side."""

from pathlib import Path
from typing import Any

import cv2
import datasets
import numpy as np
from PIL import Image

from visionsam_hf.data.overlays import PREDICTION, Overlay, thumbnail
from visionsam_hf.evaluation.finder_evaluation import Detection

_QUANTILES = (1.0, 0.75, 0.5, 0.25, 0.0)  # of the defective images' scores
_GOOD = 3  # those with the highest scores
_SIDE, _BLEND = 264, 0.55


def write_cases(
    directory: Path, detection: Detection, dataset: datasets.Dataset, threshold: float | None
) -> list[dict[str, Any]]:
    """Write `N-photograph.jpg`, `N-map.jpg` and, of a finder with masks, `N-masks.jpg`.

    Args:
        directory: made here.
        detection: of the rows of `dataset`, in their order.
        threshold: score from which on an image is called defective; None for maps alone.

    Returns:
        Of each case its row of the table, its "outcome" (None without a threshold) and its pictures' names.
    """
    directory.mkdir()
    places = case_places(detection.table)
    low, high = np.percentile(np.concatenate([detection.maps[place].ravel() for place in places]), [50, 99.9])
    cases = []
    for number, place in enumerate(places):
        image, truth, marked = dataset[place]["image"].convert("RGB"), detection.truths[place], detection.marked[place]
        share = np.clip((detection.maps[place] - low) / max(high - low, 1e-6), 0, 1)
        heat = cv2.applyColorMap((255 * share).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
        blended = Image.fromarray((_BLEND * heat + (1 - _BLEND) * np.asarray(image)).astype(np.uint8))
        outline = [Overlay(truth)] if truth.any() else []
        pictures = {"photograph": thumbnail(image, outline, side=_SIDE), "map": thumbnail(blended, side=_SIDE)}
        if marked is not None:
            filled = [Overlay(marked, PREDICTION, is_filled=True)] if marked.any() else []
            pictures["masks"] = thumbnail(image, filled, side=_SIDE)
        for name, picture in pictures.items():
            picture.save(directory / f"{number}-{name}.jpg", quality=88)
        entry = detection.table[place]
        files = {name: f"{directory.name}/{number}-{name}.jpg" for name in pictures}
        cases.append(entry | {"outcome": _outcome(entry, threshold), "pictures": files})
    return cases


def case_places(table: list[dict[str, Any]]) -> list[int]:
    """Defective images at fixed quantiles of their scores, and the good ones with the highest, each once."""
    order = sorted(range(len(table)), key=lambda place: -table[place]["score"])
    defective = [place for place in order if table[place]["defective"]]
    good = [place for place in order if not table[place]["defective"]]
    chosen = [defective[round((1 - quantile) * (len(defective) - 1))] for quantile in _QUANTILES if defective]
    return list(dict.fromkeys(chosen + good[:_GOOD]))


def _outcome(entry: dict[str, Any], threshold: float | None) -> str | None:
    if threshold is None:
        return None
    above = entry["score"] >= threshold
    return ("found" if above else "missed") if entry["defective"] else ("false alarm" if above else "rightly good")
