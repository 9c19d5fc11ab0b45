"""The systems side by side, on the prompts that they share: means, differences, where each is good and where not."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from visionsam_hf.data.records import looks_local, resolve_model
from visionsam_hf.evaluation.metrics import bootstrap_interval, compare
from visionsam_hf.evaluation.per_sample import BINS, bin_index
from visionsam_hf.evaluation.result_files import ROLES, Key, SplitResult, lineage, role_of, stage_record

HEADLINE = ("iou", "dice")
FEW = 30  # prompts whose interval is as wide as most effects are large
_CURVE_POINTS = 40
_CURVE_WINDOW = 0.2  # of the prompts, around each point of the curve
# The paper's table: VISION, held-out categories, ViT-B, box prompts.
PAPER = {
    "SAM": {"iou": 0.5818, "dice": 0.7049},
    "SFT-SAM": {"iou": 0.6584, "dice": 0.7737},
    "VisionSAM": {"iou": 0.6612, "dice": 0.7790},
    "RLHF-SAM": {"iou": 0.5686, "dice": 0.6931},
}
_PAPER_BASE, _PAPER_DATA = "facebook/sam-vit-base", "vision"

Systems = Mapping[str, Mapping[str, SplitResult]]


def system_roles(systems: Systems) -> dict[str, str | None]:
    """What each system is (`role_of` its model).

    A model that is not here any more, as with results copied from another machine, goes by the system's name.
    """
    roles = {}
    for name, results in systems.items():
        model = next(iter(results.values())).runs[0].metrics["model"]
        roles[name] = role_of(model)
        if looks_local(model) and not Path(resolve_model(model)).exists() and name in ROLES:
            roles[name] = name
    return roles


def headline_split(systems: Systems) -> str:
    """The split that answers the question: held-out categories, else test, else whatever the first system has."""
    present = [split for results in systems.values() for split in results]
    return next((split for split in ("heldout", "test") if split in present), next(iter(present), ""))


def reference_system(systems: Systems, roles: Mapping[str, str | None], split: str) -> str | None:
    """What the others are compared with: the first SFT-SAM, else the first system, with results on the split."""
    present = [name for name, results in systems.items() if split in results]
    return next((name for name in present if roles[name] == "SFT-SAM"), next(iter(present), None))


def published(result: SplitResult, role: str | None) -> dict[str, float] | None:
    """The paper's numbers for a result that was reached in the paper's setting: SAM ViT-B, boxes, VISION, held out."""
    metrics = result.runs[0].metrics
    if role is None or (result.split, metrics.get("prompt")) != ("heldout", "box"):
        return None
    data = stage_record(metrics["dataset"])
    if data is None or data["settings"].get("source") != _PAPER_DATA:
        return None
    return PAPER[role] if [name for name, _ in lineage(metrics["model"])][-1] == _PAPER_BASE else None


def system_entry(
    systems: Systems, name: str, split: str, *, roles: Mapping[str, str | None], resamples: int, seed: int
) -> dict[str, Any]:
    """One system in `report.json`: its role, flat numbers of the headline split, and every split beneath."""
    entry: dict[str, Any] = {"role": roles[name], "paper": None, "splits": {}}
    for own, result in systems[name].items():
        reference = reference_system(systems, roles, own)
        compared = systems[reference][own] if reference and reference != name else None
        of_split = _split_entry(result, compared, resamples=resamples, seed=seed)
        if of_split["difference"]:
            of_split["difference"] = {"reference": reference} | of_split["difference"]
        entry["splits"][own] = of_split
    if split in entry["splits"]:
        flat = ("iou", "dice", "n", "images", "intervals", "seeds", "difference")
        entry |= {key: entry["splits"][split][key] for key in flat}
        entry["paper"] = published(systems[name][split], roles[name])
    return entry


def _split_entry(
    result: SplitResult, compared: SplitResult | None, *, resamples: int, seed: int
) -> dict[str, Any]:
    keys = sorted(result.places)
    images = [key[1] for key in keys]
    values = {metric: np.array([result.values[metric][key] for key in keys]) for metric in result.values}
    means = {metric: math.fsum(of_metric) / len(keys) for metric, of_metric in values.items()}
    first = result.runs[0].metrics
    drawn = {"resamples": resamples, "seed": seed}
    return {
        "model": first["model"],
        **{metric: means[metric] for metric in HEADLINE},
        "n": len(keys),
        "images": len(set(images)),
        "intervals": {metric: _interval(values[metric], images, **drawn) for metric in HEADLINE},
        "seeds": [{metric: run.metrics["overall"][metric] for metric in HEADLINE} for run in result.runs],
        "difference": compared and {metric: paired(result, compared, metric, keys, **drawn) for metric in HEADLINE},
        "overall": means,
        **{key: first[key] for key in ("category_mean", "pooled", "per_category", "selection")},
        "prompt": first.get("prompt"),
        "selections": {other: block["overall"] for other, block in first["selections"].items()},
        **{key: first[key] for key in ("calibration", "cases")},
        "by_appearance": by_appearance(result, compared, **drawn),
        "size_curve": size_curve(result),
        "directories": [str(run.directory) for run in result.runs],
    }


def _interval(values: np.ndarray, images: Sequence[str], *, resamples: int, seed: int) -> list[float] | None:
    """The 95% interval of a mean; None from fewer than two images, which say nothing about their spread."""
    return list(bootstrap_interval(values, images, resamples=resamples, seed=seed)) if len(set(images)) > 1 else None


def paired(
    result: SplitResult, reference: SplitResult, metric: str, keys: Sequence[Key], *, resamples: int, seed: int
) -> dict[str, Any] | None:
    """`compare` on those of `keys` that both have; None if those are of fewer than two images."""
    shared = [key for key in keys if key in result.places and key in reference.places]
    if len({key[1] for key in shared}) < 2:
        return None
    own, other = (np.array([of.values[metric][key] for key in shared]) for of in (result, reference))
    return compare(own, other, [key[1] for key in shared], resamples=resamples, seed=seed)


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
    every, drawn = sorted(result.places), {"resamples": resamples, "seed": seed}
    found: dict[str, list[dict[str, Any]]] = {}
    for name, (_, labels) in BINS.items():
        place = bin_index(name, np.asarray(result.column(name, every), np.float64))
        found[name] = []
        for index, label in enumerate(labels):
            keys = [every[number] for number in np.flatnonzero(place == index)]
            if not keys:
                continue
            images = [key[1] for key in keys]
            values = {metric: np.array([result.values[metric][key] for key in keys]) for metric in HEADLINE}
            found[name].append(
                {
                    "label": label,
                    "n": len(keys),
                    "images": len(set(images)),
                    **{metric: math.fsum(values[metric]) / len(keys) for metric in HEADLINE},
                    "interval": _interval(values["iou"], images, **drawn),
                    "difference": reference and paired(result, reference, "iou", keys, **drawn),
                }
            )
    return found


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


def shared_keys(results: Sequence[SplitResult]) -> list[Key]:
    """The prompts that all have, in order."""
    return sorted(set(results[0].places).intersection(*(result.places for result in results[1:])))


def chosen_by_rule(gains: np.ndarray, keys: Sequence[Key], *, each: int = 2, seed: int = 0) -> list[tuple[str, int]]:
    """Prompts to show: largest gains, typical ones (nearest the median), largest losses, and some drawn by lot.

    An image is shown once. Rules, not taste: a report cannot flatter. A "loss" above zero is called the smallest
    gain that it is, and a "gain" below zero the smallest loss.

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
    picked: dict[str, list[tuple[str, int]]] = {}
    # The extremes choose first, so that they are the extremes.
    for rule, places in (("most", order), ("least", order[::-1]), ("Median gain", middle), ("Drawn by lot", lot)):
        picked[rule] = []
        for place in places:
            if len(picked[rule]) < each and keys[place][1] not in shown:
                shown.add(keys[place][1])
                picked[rule].append((_rule_words(rule, float(gains[place])), int(place)))
    return [chosen for rule in ("most", "Median gain", "least", "Drawn by lot") for chosen in picked[rule]]


def _rule_words(rule: str, gain: float) -> str:
    words = {"most": ("Smallest loss", "Largest gain"), "least": ("Largest loss", "Smallest gain")}
    return words[rule][gain > 0] if rule in words else rule
