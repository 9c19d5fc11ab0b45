"""Evaluate a model on a data set: every prompt scored once, all selections, averages and breakdowns from the scores.

The data set comes in small pieces, whichever kind it is: that bounds the memory, and any number of processes can share.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Image, IterableDataset
from transformers import SamModel, SamProcessor

from visionsam_hf.data.errors import UserError
from visionsam_hf.data.masks import encode_rle
from visionsam_hf.data.windows import WindowRule
from visionsam_hf.embeddings.cache import EmbeddingCache
from visionsam_hf.evaluation import SELECTIONS
from visionsam_hf.evaluation.metrics import (
    COUNTS,
    METRICS,
    bootstrap_interval,
    calibration,
    exact_mean,
    mask_counts,
    metric_values,
    top1_agreement,
)
from visionsam_hf.evaluation.per_sample import (
    BINS,
    CASES,
    SCHEMA,
    CaseThresholds,
    bin_index,
    columns_of,
    defect_contrast,
    defect_size,
    defect_thickness,
    prompt_cases,
    selected_tokens,
)
from visionsam_hf.evaluation.segmentation_metric import SegmentationMetric
from visionsam_hf.inference import TOKENS
from visionsam_hf.inference.other_sams import Promptable, iterate_promptable, load_promptable, model_family
from visionsam_hf.inference.prediction import PromptResult, iterate_predictions
from visionsam_hf.models.loading import load_model, load_processor

ROWS = 16  # undecoded photographs of a stream in memory at once
_COLUMNS = ["image", "image_id", "category", "objects"]

# The predictions for a piece of a data set, at most so many.
Predictor = Callable[[Dataset, int | None], Iterator[PromptResult]]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """`metrics` is what `metrics.json` holds; `per_sample` has a row a prompt (`visionsam_hf.evaluation.per_sample`)."""

    metrics: dict[str, Any]
    per_sample: pa.Table


def evaluate_model(
    model: SamModel | Promptable | str,
    dataset: Dataset | IterableDataset,
    *,
    processor: SamProcessor | None = None,
    prompt: str = "box",
    selection: str = "single",
    cache: EmbeddingCache | None = None,
    rule: WindowRule | None = None,
    batch_size: int = 8,
    max_prompts: int | None = None,
    thresholds: CaseThresholds = CaseThresholds(),
    seed: int = 0,
) -> Evaluation:
    """Evaluate SAM, or its relatives, on every object of a segmentation data set, at the photographs' own sizes.

    Args:
        model: a `SamModel`, a `Promptable` (SAM-HQ, SAM 2, EdgeTAM), or the directory or Hub id of either.
        dataset: rows of the segmentation schema; streaming works.
        processor: a `SamModel`'s; by default the one saved beside it.
        prompt: box, point or point_pm.
        selection: the headline's mask: token 0 (single), the best-scored of the three candidates (score) or the best by
            truth (oracle). All three are reported.
        cache: embeddings of the same `SamModel`, so that its encoder rests.
        rule: which part of a photograph a `SamModel` is shown for a prompt; None is as it was tuned.
        batch_size: prompts of one image at once.
        max_prompts: stop after so many prompts.
        thresholds: of the four failure cases.
        seed: of the bootstrap.

    Raises:
        UserError: nothing to evaluate, or no such model.
    """
    check_selection(selection)
    predict, name = model_predictor(
        model, processor=processor, prompt=prompt, cache=cache, rule=rule, batch_size=batch_size
    )
    with contextlib.nullcontext() if cache is None else cache.filling():
        groups = list(score_dataset(predict, dataset, max_prompts=max_prompts))
    table = pa.Table.from_pylist([row for group in groups for row in group], schema=SCHEMA)
    names = {"model": name, "dataset": dataset.info.dataset_name or "", "split": str(dataset.split or "")}
    summary = summarise(columns_of(table), selection=selection, thresholds=thresholds, seed=seed)
    return Evaluation(names | {"prompt": prompt} | summary, table)


def model_predictor(
    model: SamModel | Promptable | str,
    *,
    processor: SamProcessor | None = None,
    prompt: str = "box",
    cache: EmbeddingCache | None = None,
    rule: WindowRule | None = None,
    batch_size: int = 8,
) -> tuple[Predictor, str]:
    """What answers the prompts of a piece of a data set, and the model's name; arguments as in `evaluate_model`."""
    name = model if isinstance(model, str) else ""
    if isinstance(model, str):
        model = load_model(model) if model_family(model) == "sam" else load_promptable(model)
    asked: dict[str, Any] = {"prompt": prompt, "batch_size": batch_size}
    if isinstance(model, Promptable):
        if cache is not None:
            raise UserError(f"embeddings: a cache is of SAM, not of a {model.adapter.model_class}; leave it out")
        promptable = model
        return (
            lambda chunk, max_prompts: iterate_promptable(promptable, chunk, max_prompts=max_prompts, **asked),
            name or model.model.name_or_path,
        )
    sam, name = model.eval(), name or model.name_or_path
    processor = processor or load_processor(name)

    def predict(chunk: Dataset, max_prompts: int | None) -> Iterator[PromptResult]:
        return iterate_predictions(sam, processor, chunk, cache=cache, rule=rule, max_prompts=max_prompts, **asked)

    return predict, name


def dataset_chunks(
    dataset: Dataset | IterableDataset, *, max_prompts: int | None = None, process: int = 0, processes: int = 1
) -> Iterator[tuple[int, Dataset, int | None]]:
    """The pieces that one of several processes takes: every `processes`-th, whatever the kind of data set.

    Args:
        dataset: rows of the segmentation schema.
        max_prompts: over all processes; the pieces after that many objects are left out.
        process, processes: which of how many.

    Yields:
        (number of the first row, the rows, how many of their objects may be prompted or None for all).
    """
    left = max_prompts
    for number, (first, chunk) in enumerate(_pieces(dataset)):
        if number % processes == process:
            yield first, chunk, left
        if left is not None:
            left -= sum(len(row["objects"]) for row in chunk.select_columns(["objects"]))
            if left <= 0:
                return


def _pieces(dataset: Dataset | IterableDataset) -> Iterator[tuple[int, Dataset]]:
    dataset = dataset.select_columns(_COLUMNS)
    if isinstance(dataset, Dataset):
        for first in range(0, len(dataset), ROWS):
            yield first, dataset.select(range(first, min(first + ROWS, len(dataset))))
        return
    undecoded = dataset.cast_column("image", Image(decode=False))
    for number, batch in enumerate(undecoded.iter(batch_size=ROWS)):
        rows = Dataset.from_dict(batch, features=undecoded.features)
        yield number * ROWS, rows.cast_column("image", Image())


def score_dataset(
    predict: Predictor,
    dataset: Dataset | IterableDataset,
    *,
    max_prompts: int | None = None,
    process: int = 0,
    processes: int = 1,
) -> Iterator[list[dict[str, Any]]]:
    """Rows of `per_sample.parquet`, piece by piece of the data set; arguments as in `dataset_chunks`."""
    for first, chunk, limit in dataset_chunks(dataset, max_prompts=max_prompts, process=process, processes=processes):
        row, grey, scored = -1, None, []
        for result in predict(chunk, limit):
            if result.row != row:
                row, grey = result.row, np.asarray(chunk[result.row]["image"].convert("L"))
            scored.append(score_prompt(dataclasses.replace(result, row=first + row), grey))
        yield scored


def score_prompt(result: PromptResult, grey: np.ndarray | None) -> dict[str, Any]:
    """The row of one prompt.

    Args:
        result: masks and scores of the four tokens, and the truth, at the photograph's size.
        grey: (H, W) uint8 photograph, for the defect's contrast; None leaves it unmeasured.
    """
    if len(result.masks) != TOKENS or len(result.scores) != TOKENS:
        raise ValueError(f"expected {TOKENS} masks and scores a prompt, got {len(result.masks)}, {len(result.scores)}")
    counts = [mask_counts(mask, result.truth) for mask in result.masks]
    return {
        "row": result.row,
        "image_id": result.image_id,
        "category": result.category,
        "object_index": result.object_index,
        "defect": result.defect,
        "prompt": result.prompt,
        "box": [float(value) for value in result.box],
        "truth": encode_rle(result.truth),
        "masks": [encode_rle(mask) for mask in result.masks],
        "scores": [float(score) for score in result.scores],
        "size": defect_size(result.truth),
        "thickness": defect_thickness(result.truth),
        "contrast": float("nan") if grey is None else defect_contrast(grey, result.truth),
        **{name: [count[name] for count in counts] for name in COUNTS},
    }


def check_selection(selection: str) -> None:
    """Refuse an unknown selection before any work."""
    if selection not in SELECTIONS:
        raise UserError(f"selection: '{selection}' is not known; use one of {', '.join(SELECTIONS)}")


def summarise(
    columns: dict[str, np.ndarray],
    *,
    selection: str = "single",
    thresholds: CaseThresholds = CaseThresholds(),
    seed: int = 0,
) -> dict[str, Any]:
    """Everything that `metrics.json` says of the prompts, from their columns (`columns_of`).

    Raises:
        UserError: there is no prompt.
    """
    check_selection(selection)
    # Whoever computed which row: the order decides nothing.
    order = np.lexsort((columns["object_index"], columns["row"]))
    columns = {name: values[order] for name, values in columns.items()}
    n = len(columns["row"])
    if n == 0:
        raise UserError("evaluate: the data set has no object to prompt with; evaluate a split with defects")
    values = metric_values({name: columns[name] for name in COUNTS})
    tokens = selected_tokens(columns["scores"], values["iou"])
    rows = np.arange(n)
    agreement = top1_agreement(columns["scores"][:, 1:], values["iou"][:, 1:])
    metric, selections = SegmentationMetric(keep_in_memory=True), {}
    for name, token in tokens.items():
        metric.add_batch(**{count: columns[count][rows, token] for count in COUNTS}, category=columns["category"])
        found = metric.compute()
        chosen = calibration(columns["scores"][rows, token], values["iou"][rows, token])
        selections[name] = {key: value for key, value in found.items() if key != "n"}
        selections[name]["calibration"] = chosen | {"top1_agreement": agreement}
    picked = {name: values[name][rows, tokens[selection]] for name in METRICS}
    headline = selections[selection]
    return {
        "selection": selection,
        "n": n,
        "images": len(set(columns["image_id"])),
        **headline,
        "intervals": {
            name: _finite(bootstrap_interval(picked[name], columns["image_id"], seed=seed)) for name in METRICS
        },
        "selections": selections,
        "cases": _case_table(prompt_cases(columns, thresholds), columns["category"], thresholds),
        "by_appearance": {
            name: appearance_table(name, columns[name], picked, columns["image_id"], seed=seed) for name in BINS
        },
    }


def _case_table(cases: np.ndarray, categories: np.ndarray, thresholds: CaseThresholds) -> dict[str, Any]:
    def count(inside: np.ndarray) -> dict[str, int]:
        return {case: int((cases[inside] == case).sum()) for case in CASES}

    return {
        "thresholds": dataclasses.asdict(thresholds),
        "counts": count(np.ones(len(cases), bool)),
        "per_category": {name: count(categories == name) for name in sorted(set(categories))},
    }


def appearance_table(
    name: str, measure: np.ndarray, values: dict[str, np.ndarray], images: np.ndarray, *, seed: int = 0
) -> list[dict[str, Any]]:
    """Mean metrics per class of defect size, thickness or contrast, smallest first; classes without prompts left out.

    Args:
        name: of `BINS`. measure: (N,) what it classes. values: (N,) of each of `METRICS`. images: (N,) ids.
    """
    place, table = bin_index(name, np.asarray(measure, np.float64)), []
    for index, label in enumerate(BINS[name][1]):
        inside = place == index
        if inside.any():
            interval = _finite(bootstrap_interval(values["iou"][inside], images[inside], seed=seed))
            means = {metric: exact_mean(values[metric][inside]) for metric in METRICS}
            table.append({"label": label, "n": int(inside.sum()), **means, "interval": interval})
    return table


def _finite(interval: tuple[float, float]) -> list[float] | None:
    return list(interval) if all(map(math.isfinite, interval)) else None
