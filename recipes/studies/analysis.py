"""From results to what may be claimed: means, paired differences with intervals, every seed apart."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from studies.design import PAINTED, REAL, SAM, SFT, UNTRAINED, Cell, StudySettings
from studies.run_files import Answer, Prompt, Results
from visionsam_hf.evaluation.metrics import bootstrap_interval, calibration, compare, exact_mean, top1_agreement

Answers = Mapping[Prompt, Answer]


def summarise(results: Results, settings: StudySettings) -> dict[str, Any]:
    """What `evidence.json` holds of a study of objectives.

    `objectives`, `confidence`: split -> system; `budget`, `flips`: split -> system -> a list, a number of masks or a
    rate each. A difference is `evaluation.metrics.compare`'s with `by_seed`, the mean difference of each seed;
    images are drawn, never single prompts, and all folds and seeds of an image with it.
    """
    main = _cells_at(results, settings.masks, settings.annotators, 0.0, settings.seeds)
    objectives = list(settings.objectives)
    untrained = [name for name in UNTRAINED if all(name in results.folds[cell.fold] for cell in main)]
    experiments = {
        "objectives": (system_entry, [*untrained, SFT, *objectives]),
        "confidence": (confidence_entry, [SAM, SFT, *objectives]),
        "budget": (budget_points, [SFT, *settings.budget_objectives] if settings.label_budgets else []),
        "flips": (flip_points, settings.flip_objectives if settings.flip_rates else []),
    }
    evidence: dict[str, Any] = {
        "name": settings.name,
        "recommended": settings.recommended,
        "rlhf": settings.rlhf,
        "confidence_objective": settings.confidence,
        "compare_with": settings.compare_with,
        "folds": list(settings.folds),
        "seeds": settings.seeds,
        "masks": settings.masks,
    }
    for experiment, (entry, names) in experiments.items():
        evidence[experiment] = {
            split: {name: entry(results, name, split, main, settings) for name in names} for split in settings.measured
        } if names else {}  # fmt: skip
    return evidence | {"seconds": results.seconds()}


def system_entry(
    results: Results, name: str, split: str, cells: Sequence[Cell], settings: StudySettings
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
            | ({"candidates": {key: _mean(of.get(key) for of in found) for key in found[0]}} if found else {})
        )
    return entry


def confidence_entry(
    results: Results, name: str, split: str, cells: Sequence[Cell], settings: StudySettings
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
        **{key: own[key] for key in ("ece", "spearman", "bias", "bins")},
        "difference": gains if name != SFT else {},
    }


def budget_points(
    results: Results, name: str, split: str, cells: Sequence[Cell], settings: StudySettings
) -> list[dict[str, Any]]:
    """A system at every number of masks, with the seeds of that experiment."""
    points = []
    for masks in sorted({*settings.label_budgets, settings.masks}):
        found = _cells_at(results, masks, settings.annotators, 0.0, settings.budget_seeds, name)
        if found:
            cost = _mean_cost(results.records(name, found))
            seconds = cost["masks"] * settings.seconds_per_mask + cost["rankings"] * settings.seconds_per_ranking
            point = _point(results, name, split, found, settings)
            points.append({"masks": masks, "cost": cost, "minutes": seconds / 60, **point})
    return points


def flip_points(
    results: Results, name: str, split: str, cells: Sequence[Cell], settings: StudySettings
) -> list[dict[str, Any]]:
    """A system at every share of flipped rankings, against the stage 1 it starts from."""
    points = []
    for rate in sorted(settings.flip_rates):
        found = _cells_at(results, settings.masks, settings.flip_annotators, rate, settings.flip_seeds, name)
        if found:
            wrong = _mean(record["candidates"]["share_worse_chosen"] for record in results.records(name, found))
            point = _point(results, name, split, found, settings)
            points.append({"rate": rate, "share_worse_chosen": wrong, **point})
    return points


def summarise_demonstrations(
    results: Results, settings: StudySettings, folds: Sequence[str], untrained: Sequence[str]
) -> dict[str, Any]:
    """What `evidence.json` holds of a study of demonstrations.

    `demonstrations`: split -> a record for every number of real masks, with `REAL` (at 0 the model that everything
    starts from), `PAINTED` and the `gain` of painting; `untrained`: split -> system. Every entry is `class_mean`'s.
    """
    counts = [0, *settings.label_budgets]
    evidence: dict[str, Any] = {
        "name": settings.name, "folds": list(folds), "seeds": settings.seeds, "demonstrations": {}, "untrained": {},
    }  # fmt: skip
    for split in settings.splits:
        points = []
        for masks in counts:
            cells = [cell for cell in results.cells if cell.masks == masks]
            alone = results.of(REAL if masks else SAM, split, cells)
            both = results.of(PAINTED, split, cells)
            points.append(
                {
                    "masks": masks,
                    REAL: class_mean(alone, settings),
                    PAINTED: class_mean(both, settings),
                    "gain": class_mean(both, settings, minus=alone),
                }
            )
        cells = [cell for cell in results.cells if cell.masks == 0]
        evidence["demonstrations"][split] = points
        evidence["untrained"][split] = {
            name: class_mean(results.of(name, split, cells), settings) for name in untrained if name != SAM
        }
    return evidence | {"seconds": results.seconds()}


def class_mean(answers: Answers, settings: StudySettings, *, minus: Answers | None = None) -> dict[str, Any]:
    """The mean over held-out classes of the mean over prompts, with its 95% bootstrap interval over images.

    Images are drawn with replacement within each class; the seeds of a run are averaged prompt by prompt first.

    Args:
        answers: of one system.
        minus: of another, on the same prompts, to be taken off prompt by prompt.

    Returns:
        `iou` (or `difference`, with `minus`), `interval`, `by_fold` and, by fold too, `prompts`.
    """
    rng = np.random.default_rng([settings.seed, 1])
    means, prompts, draws = {}, {}, []
    for fold in sorted({key[0] for key in answers}):
        of_prompt: dict[tuple[str, int], list[float]] = {}
        for key in sorted(key for key in answers if key[0] == fold):
            value = answers[key][0][0] - (minus[key][0][0] if minus is not None else 0.0)
            of_prompt.setdefault(key[2:], []).append(float(value))
        values = np.array([exact_mean(found) for found in of_prompt.values()])
        _, member = np.unique([image for image, _ in of_prompt], return_inverse=True)
        count = np.bincount(member).astype(float)
        total = np.bincount(member, weights=values)
        drawn = rng.multinomial(len(count), np.full(len(count), 1 / len(count)), size=settings.resamples)
        means[fold], prompts[fold] = exact_mean(values), len(values)
        draws.append((drawn @ total) / (drawn @ count))
    interval = np.quantile(np.mean(draws, 0), [0.025, 0.975]).tolist()
    name = "iou" if minus is None else "difference"
    return {name: exact_mean(means.values()), "interval": interval, "by_fold": means, "prompts": prompts}


def paired(answers: Answers, reference: Answers, settings: StudySettings) -> dict[str, Any] | None:
    """The difference of two systems' IoU on the prompts that both have; None without at least two images."""
    shared = sorted(key for key in answers if key in reference)
    images = [key[2] for key in shared]
    if len(set(images)) < 2:
        return None
    values, others = (np.array([of[key][0][0] for key in shared]) for of in (answers, reference))
    found = compare(values, others, images, resamples=settings.resamples, seed=settings.seed)
    return found | _by_group(shared, values - others)


def _cells_at(
    results: Results, masks: int, annotators: int, flip_rate: float, seeds: Sequence[int], system: str = ""
) -> list[Cell]:
    """The cells of one experiment's setting; with a system, those that have it."""
    return [
        cell
        for cell, runs in results.cells.items()
        if (cell.masks, cell.annotators, cell.flip_rate) == (masks, annotators, flip_rate)
        and cell.seed in seeds
        and (not system or system in runs)
    ]


def _point(results: Results, name: str, split: str, cells: Sequence[Cell], settings: StudySettings) -> dict[str, Any]:
    """A system's mean in some cells, and its difference to the stage 1 of the same cells."""
    answers = results.of(name, split, cells)
    difference = paired(answers, results.of(SFT, split, cells), settings) if name != SFT else None
    return {**_means(answers, settings), "difference": difference}


def _means(answers: Answers, settings: StudySettings) -> dict[str, Any]:
    keys = sorted(answers)
    values = np.array([answers[key][0][0] for key in keys])
    images = [key[2] for key in keys]
    interval = bootstrap_interval(values, images, resamples=settings.resamples, seed=settings.seed)
    return {
        "iou": exact_mean(values),
        # Dice of one prompt follows from its IoU.
        "dice": exact_mean(2 * values / (1 + values)),
        "prompts": len({(key[0], *key[2:]) for key in keys}),
        "images": len(set(images)),
        "interval": list(interval) if len(set(images)) > 1 else None,
        **_by_group(keys, values),
    }


def _by_group(keys: Sequence[Prompt], values: np.ndarray) -> dict[str, dict[str, float]]:
    """The mean of each seed and of each fold."""
    found = {}
    for place, name in ((1, "by_seed"), (0, "by_fold")):
        groups = np.array([key[place] for key in keys], object)
        found[name] = {str(group): exact_mean(values[groups == group]) for group in dict.fromkeys(groups)}
    return found


def _agrees(iou: np.ndarray, scores: np.ndarray) -> float:
    return float(iou[1 + scores[1:].argmax()] >= iou[1:].max() - 1e-9)


def _chosen_iou(iou: np.ndarray, scores: np.ndarray) -> float:
    return float(iou[1 + scores[1:].argmax()])


def _mean_cost(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    names = ("images", "masks", "rankings", "people_seconds")
    # Runs from before people's seconds lack them.
    return {name: _mean([record["cost"].get(name) for record in records]) or 0.0 for name in names}


def _mean(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return exact_mean(known) if known else None
