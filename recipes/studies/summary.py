"""From results to what may be claimed: means, paired differences with intervals, every seed apart."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from studies.plan import SAM, SFT, UNTRAINED, Cell
from studies.results import Prompt, Results
from visionsam_hf.evaluation.metrics import bootstrap_interval, calibration, compare, exact_mean, top1_agreement

if TYPE_CHECKING:
    from visionsam_hf.cli.options import EvidenceSettings

Answers = Mapping[Prompt, tuple[np.ndarray, np.ndarray]]


def summarise(results: Results, settings: "EvidenceSettings") -> dict[str, Any]:
    """What `evidence.json` holds, of the settings' four experiments.

    `objectives`, `confidence`: split -> system; `budget`, `flips`: split -> system -> a list, a number of masks or a
    rate each. A difference is `evaluation.statistics.compare`'s with `by_seed`, the mean difference of each seed;
    images are drawn, never single prompts, and all folds and seeds of an image with it.
    """
    main = [cell for cell in results.cells if is_main(cell, settings)]
    objectives = list(settings.objectives)
    untrained = [name for name in UNTRAINED if all(name in results.folds[cell.fold] for cell in main)]
    splits = settings.measured
    return {
        "name": settings.name,
        "recommended": settings.recommended,
        "rlhf": settings.rlhf,
        "confidence_objective": settings.confidence,
        "compare_with": settings.compare_with,
        "folds": list(settings.folds),
        "seeds": settings.seeds,
        "masks": settings.masks,
        "objectives": {
            split: {name: system_entry(results, name, split, main, settings) for name in [*untrained, SFT, *objectives]}
            for split in splits
        },
        "confidence": {
            split: {name: confidence_entry(results, name, split, main, settings) for name in [SAM, SFT, *objectives]}
            for split in splits
        },
        "budget": {
            split: {name: _budget(results, name, split, settings) for name in [SFT, *settings.budget_objectives]}
            for split in splits
        } if settings.label_budgets else {},
        "flips": {
            split: {name: _flips(results, name, split, settings) for name in settings.flip_objectives}
            for split in splits
        } if settings.flip_rates else {},
        "seconds": round(sum(record["seconds"] for record in _all_records(results)), 1),
    }  # fmt: skip


def is_main(cell: Cell, settings: "EvidenceSettings") -> bool:
    """Whether a cell belongs to the comparison of objectives."""
    return (cell.masks, cell.annotators, cell.flip_rate) == (settings.masks, settings.annotators, 0.0) and (
        cell.seed in settings.seeds
    )


def system_entry(
    results: Results, name: str, split: str, cells: Sequence[Cell], settings: "EvidenceSettings"
) -> dict[str, Any]:
    """One system on one split: its mean, its differences to the systems it must beat, and every round."""
    answers = results.of(name, split, cells)
    references = [other for other in (SAM, SFT, *settings.compare_with) if other != name]
    entry = _means(answers, settings)
    entry["cost"] = _mean_cost(results.records(name, cells))
    entry["difference"] = {}
    last = results.rounds(name, cells) - 1
    for other in references:
        # The same number of rounds is the same labelling cost; a shorter run is compared at its end.
        number = min(last, results.rounds(other, cells) - 1)
        entry["difference"][other] = paired(answers, results.of(other, split, cells, number=number), settings)
    entry["rounds"] = []
    for number in range(last + 1):
        at = results.of(name, split, cells, number=number)
        records = results.records(name, cells, number)
        to_others = {
            other: paired(at, results.of(other, split, cells, number=number), settings)
            for other in references
            if number < results.rounds(other, cells) or other in (SAM, SFT)
        }
        found = [record["candidates"] for record in records if "candidates" in record]
        entry["rounds"].append(
            {"iou": _means(at, settings)["iou"], "cost": _mean_cost(records), "difference": to_others}
            | ({"candidates": {key: _mean(of[key] for of in found) for key in found[0]}} if found else {})
        )
    return entry


def confidence_entry(
    results: Results, name: str, split: str, cells: Sequence[Cell], settings: "EvidenceSettings"
) -> dict[str, Any]:
    """Whether a system's scores can be trusted: agreement, calibration, and what choosing by score gives."""
    answers = results.of(name, split, cells)
    iou, scores = (np.array([answer[part] for answer in answers.values()]).reshape(-1, 4) for part in (0, 1))
    if not len(iou) or not np.isfinite(scores).all():
        return {}
    rows, best = np.arange(len(iou)), 1 + scores[:, 1:].argmax(1)
    own = calibration(scores[rows, best], iou[rows, best])
    before = results.of(SFT, split, cells)
    shared = [key for key in answers if key in before]
    images = [key[2] for key in shared]
    gains = {}
    for measure, of_prompt in (("top1_agreement", _agrees), ("score_iou", _chosen_iou)):
        values, reference = ([of_prompt(*of[key]) for key in shared] for of in (answers, before))
        gains[measure] = compare(values, reference, images, resamples=settings.resamples, seed=settings.seed)
    return {
        "top1_agreement": top1_agreement(scores[:, 1:], iou[:, 1:]),
        "score_iou": exact_mean(iou[rows, best]),
        "single_iou": exact_mean(iou[:, 0]),
        "oracle_iou": exact_mean(iou[:, 1:].max(1)),
        "ece": own["ece"],
        "spearman": own["spearman"],
        "bias": own["bias"],
        "bins": own["bins"],
        "difference": gains if name != SFT else {},
    }


def paired(answers: Answers, reference: Answers, settings: "EvidenceSettings") -> dict[str, Any] | None:
    """The difference of two systems' IoU on the prompts that both have; None without at least two images."""
    shared = sorted(key for key in answers if key in reference)
    images = [key[2] for key in shared]
    if len(set(images)) < 2:
        return None
    values, others = (np.array([of[key][0][0] for key in shared]) for of in (answers, reference))
    found = compare(values, others, images, resamples=settings.resamples, seed=settings.seed)
    for place, name in ((1, "by_seed"), (0, "by_fold")):
        groups = np.array([key[place] for key in shared], object)
        found[name] = {str(group): exact_mean((values - others)[groups == group]) for group in dict.fromkeys(groups)}
    return found


def _means(answers: Answers, settings: "EvidenceSettings") -> dict[str, Any]:
    keys = sorted(answers)
    values = np.array([answers[key][0][0] for key in keys])
    images = [key[2] for key in keys]
    interval = bootstrap_interval(values, images, resamples=settings.resamples, seed=settings.seed)
    found: dict[str, Any] = {
        "iou": exact_mean(values),
        # Dice of one prompt follows from its IoU.
        "dice": exact_mean(2 * values / (1 + values)),
        "prompts": len({(key[0], *key[2:]) for key in keys}),
        "images": len(set(images)),
        "interval": list(interval) if len(set(images)) > 1 else None,
    }
    for place, name in ((1, "by_seed"), (0, "by_fold")):
        groups = np.array([key[place] for key in keys], object)
        found[name] = {str(group): exact_mean(values[groups == group]) for group in dict.fromkeys(groups)}
    return found


def _budget(results: Results, name: str, split: str, settings: "EvidenceSettings") -> list[dict[str, Any]]:
    """A system at every number of masks, with the seeds of that experiment."""
    points = []
    for masks in sorted({*settings.label_budgets, settings.masks}):
        cells = [
            cell
            for cell in results.cells
            if (cell.masks, cell.annotators, cell.flip_rate) == (masks, settings.annotators, 0.0)
            and cell.seed in settings.budget_seeds
            and name in results.cells[cell]
        ]
        if cells:
            answers = results.of(name, split, cells)
            cost = _mean_cost(results.records(name, cells))
            seconds = cost["masks"] * settings.seconds_per_mask + cost["rankings"] * settings.seconds_per_ranking
            points.append(
                {
                    "masks": masks,
                    "cost": cost,
                    "minutes": seconds / 60,
                    **_means(answers, settings),
                    "difference": paired(answers, results.of(SFT, split, cells), settings) if name != SFT else None,
                }
            )
    return points


def _flips(results: Results, name: str, split: str, settings: "EvidenceSettings") -> list[dict[str, Any]]:
    """A system at every share of flipped rankings, against the stage 1 it starts from."""
    points = []
    for rate in sorted(settings.flip_rates):
        cells = [
            cell
            for cell in results.cells
            if (cell.masks, cell.annotators, cell.flip_rate) == (settings.masks, settings.flip_annotators, rate)
            and cell.seed in settings.flip_seeds
            and name in results.cells[cell]
        ]
        if cells:
            answers = results.of(name, split, cells)
            wrong = [record["candidates"]["share_worse_chosen"] for record in results.records(name, cells)]
            points.append(
                {
                    "rate": rate,
                    "share_worse_chosen": _mean(wrong),
                    **_means(answers, settings),
                    "difference": paired(answers, results.of(SFT, split, cells), settings),
                }
            )
    return points


def _agrees(iou: np.ndarray, scores: np.ndarray) -> float:
    return float(iou[1 + scores[1:].argmax()] >= iou[1:].max() - 1e-9)


def _chosen_iou(iou: np.ndarray, scores: np.ndarray) -> float:
    return float(iou[1 + scores[1:].argmax()])


def _mean_cost(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    names = ("images", "masks", "rankings")
    return {name: _mean([record["cost"][name] for record in records]) or 0.0 for name in names}


def _mean(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return exact_mean(known) if known else None


def _all_records(results: Results) -> list[Mapping[str, Any]]:
    of_cells = [record for runs in results.cells.values() for rounds in runs.values() for record in rounds]
    return of_cells + [record for runs in results.folds.values() for record in runs.values()]
