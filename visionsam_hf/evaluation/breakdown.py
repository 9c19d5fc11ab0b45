"""Where a system is good and where not: by how small, thin and faint the defects are."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from visionsam_hf.evaluation.appearance import BINS, bin_index
from visionsam_hf.evaluation.result_files import Key, SplitResult
from visionsam_hf.evaluation.statistics import bootstrap_interval, compare

_METRICS = ("iou", "dice")
_CURVE_POINTS = 40
_CURVE_WINDOW = 0.2  # of the prompts, around each point of the curve


def by_appearance(
    result: SplitResult, reference: SplitResult | None, *, resamples: int, seed: int
) -> dict[str, list[dict[str, Any]]]:
    """Each measure's classes, hardest first, those without a prompt left out.

    Args:
        result: the system. reference: what it is compared with, on the prompts that both have; None for no comparison.

    Returns:
        Per measure of `BINS`: {"label", "n", "images", "iou", "dice", "interval" (95%, of the mean IoU),
        "difference" (the `compare` of IoU)}; an interval from fewer than two images is None.
    """
    keys = sorted(result.places)
    found: dict[str, list[dict[str, Any]]] = {}
    for name, (_, labels) in BINS.items():
        place = bin_index(name, np.asarray(result.column(name, keys), np.float64))
        found[name] = []
        for index, label in enumerate(labels):
            inside = [keys[number] for number in np.flatnonzero(place == index)]
            if inside:
                found[name].append(
                    {"label": label, "n": len(inside)} | _class_entry(result, reference, inside, resamples, seed)
                )
    return found


def _class_entry(
    result: SplitResult, reference: SplitResult | None, keys: Sequence[Key], resamples: int, seed: int
) -> dict[str, Any]:
    images = [key[1] for key in keys]
    values = {metric: [result.values[metric][key] for key in keys] for metric in _METRICS}
    drawn = {"resamples": resamples, "seed": seed}
    interval = bootstrap_interval(values["iou"], images, **drawn) if len(set(images)) > 1 else None
    return {
        "images": len(set(images)),
        **{metric: math.fsum(values[metric]) / len(keys) for metric in _METRICS},
        "interval": None if interval is None else list(interval),
        "difference": None if reference is None else paired(result, reference, "iou", keys, **drawn),
    }


def paired(
    result: SplitResult, reference: SplitResult, metric: str, keys: Sequence[Key], *, resamples: int, seed: int
) -> dict[str, Any] | None:
    """`compare` on those of `keys` that both have; None if those are of fewer than two images."""
    shared = [key for key in keys if key in result.places and key in reference.places]
    if len({key[1] for key in shared}) < 2:
        return None
    return compare(
        [result.values[metric][key] for key in shared],
        [reference.values[metric][key] for key in shared],
        [key[1] for key in shared],
        resamples=resamples,
        seed=seed,
    )


def size_curve(result: SplitResult) -> list[list[float]]:
    """[defect's share of the image, mean IoU of the fifth of the prompts nearest in size], smallest first; [] if few."""
    keys = sorted(result.places)
    sizes = np.asarray(result.column("size", keys), np.float64)
    order = np.argsort(sizes, kind="stable")
    order = order[sizes[order] > 0]
    width = max(5, round(_CURVE_WINDOW * len(order)))
    if len(order) < 2 * width:
        return []
    sizes, ious = sizes[order], np.array([result.values["iou"][key] for key in keys])[order]
    means = np.convolve(ious, np.full(width, 1 / width), "valid")
    # Geometric means: the axis is logarithmic.
    centres = np.exp(np.convolve(np.log(sizes), np.full(width, 1 / width), "valid"))
    shown = np.unique(np.linspace(0, len(means) - 1, _CURVE_POINTS).round().astype(int))
    return [[float(centres[place]), float(means[place])] for place in shown]
