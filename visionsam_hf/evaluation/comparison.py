"""The systems side by side, on the prompts that they share."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from visionsam_hf.evaluation.metrics import bootstrap_interval, compare
from visionsam_hf.evaluation.per_sample import BINS, bin_index
from visionsam_hf.evaluation.result_files import Key, SplitResult

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


# The paper's table: VISION, held-out categories, ViT-B, box prompts.
PAPER = {
    "SAM": {"iou": 0.5818, "dice": 0.7049},
    "SFT-SAM": {"iou": 0.6584, "dice": 0.7737},
    "VisionSAM": {"iou": 0.6612, "dice": 0.7790},
    "RLHF-SAM": {"iou": 0.5686, "dice": 0.6931},
}
HEADLINE = ("iou", "dice")
STAGES = ("SAM", "SFT-SAM", "VisionSAM")  # the paper's figure 5

Systems = Mapping[str, Mapping[str, SplitResult]]


def headline_split(systems: Systems) -> str:
    """The split that answers the question: held-out categories, else test, else whatever the first system has."""
    present = [split for results in systems.values() for split in results]
    return next((split for split in ("heldout", "test") if split in present), present[0])


def reference_system(systems: Systems, split: str) -> str | None:
    """What the others are compared with: SFT-SAM, else the first system with results on the split."""
    present = [name for name, results in systems.items() if split in results]
    return "SFT-SAM" if "SFT-SAM" in present else next(iter(present), None)


def system_entry(
    systems: Systems, name: str, split: str, *, resamples: int, seed: int
) -> dict[str, Any]:
    """One system in `report.json`: flat numbers of the headline split, and every split beneath."""
    entry: dict[str, Any] = {"splits": {}}
    for own in systems[name]:
        entry["splits"][own] = _split_entry(systems, name, own, resamples=resamples, seed=seed)
    if split in entry["splits"]:
        flat = ("iou", "dice", "n", "images", "intervals", "seeds", "difference")
        entry |= {key: entry["splits"][split][key] for key in flat}
    entry["paper"] = PAPER.get(name)
    return entry


def _split_entry(systems: Systems, name: str, split: str, *, resamples: int, seed: int) -> dict[str, Any]:
    result = systems[name][split]
    keys = sorted(result.places)
    images = [key[1] for key in keys]
    values = {metric: np.array([result.values[metric][key] for key in keys]) for metric in result.values}
    means = {metric: math.fsum(of_metric) / len(keys) for metric, of_metric in values.items()}
    first = result.runs[0].metrics
    reference = reference_system(systems, split)
    compared = systems[reference][split] if reference and reference != name else None
    drawn = {"resamples": resamples, "seed": seed}
    difference = None
    if compared is not None:
        difference = {"reference": reference} | {
            metric: paired(result, compared, metric, keys, **drawn) for metric in HEADLINE
        }
    return {
        "model": first["model"],
        "iou": means["iou"],
        "dice": means["dice"],
        "n": len(keys),
        "images": len(set(images)),
        "intervals": {
            metric: list(bootstrap_interval(values[metric], images, **drawn))
            if len(set(images)) > 1
            else None
            for metric in HEADLINE
        },
        "seeds": [{metric: run.metrics["overall"][metric] for metric in HEADLINE} for run in result.runs],
        "difference": difference,
        "overall": means,
        "category_mean": first["category_mean"],
        "pooled": first["pooled"],
        "per_category": first["per_category"],
        "selection": first["selection"],
        "prompt": first.get("prompt"),
        "selections": {
            other: block["overall"] for other, block in first["selections"].items()
        },
        "calibration": first["calibration"],
        "cases": first["cases"],
        "by_appearance": by_appearance(result, compared, **drawn),
        "size_curve": size_curve(result),
        "directories": [str(run.directory) for run in result.runs],
    }


def shared_keys(results: Sequence[SplitResult]) -> list[Key]:
    """The prompts that all have, in order."""
    return sorted(set(results[0].places).intersection(*(result.places for result in results[1:])))


def chosen_by_rule(gains: np.ndarray, keys: Sequence[Key], *, each: int = 2, seed: int = 0) -> list[tuple[str, int]]:
    """Prompts to show: largest gains, typical ones (nearest the median), largest losses, and some drawn by lot.

    An image is shown once. Rules, not taste, so that a report cannot flatter.

    Args:
        gains: (N,) how much better the last system is.
        keys: N prompts.

    Returns:
        (rule, place) pairs, at most 4 × each.
    """
    order = np.argsort(-gains, kind="stable")
    middle = np.argsort(np.abs(gains - np.median(gains)), kind="stable")
    lot = np.random.default_rng([seed, len(gains)]).permutation(len(gains))
    shown: set[str] = set()
    picked: list[tuple[str, int]] = []
    for rule, places in (
        ("Largest gain", order),
        ("Largest loss", order[::-1]),
        ("Median gain", middle),
        ("Drawn by lot", lot),
    ):
        taken = 0
        for place in places:
            if taken < each and keys[place][1] not in shown:
                shown.add(keys[place][1])
                picked.append((rule, int(place)))
                taken += 1
    ranks = {"Largest gain": 0, "Median gain": 1, "Largest loss": 2, "Drawn by lot": 3}
    return sorted(picked, key=lambda item: ranks[item[0]])
