"""The figure of a card: what a tuned model does to prompts, how it learnt, or what rows of a data set look like."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from transformers import SamModel, SamProcessor

from visionsam_hf.data.dataset_directory import load_split, split_names
from visionsam_hf.data.masks import decode_mask, decode_rle, mask_iou
from visionsam_hf.data.overlays import PREDICTION
from visionsam_hf.data.windows import rule_of
from visionsam_hf.evaluation.report.galleries import RANKED, thumbnail
from visionsam_hf.evaluation.report.plotting import INK, MUTED, SERIES
from visionsam_hf.evaluation.result_files import curve, read_log
from visionsam_hf.inference.prediction import answer_prompts, look_at

_DPI = 110


@dataclass(frozen=True)
class Example:
    """A prompt to show: a photograph, its box in pixels, and the (H, W) bool masks to mark, by title.

    `truth` is outlined on each of them when it is known.
    """

    image: Image.Image
    box: Sequence[float]
    truth: np.ndarray | None
    masks: dict[str, np.ndarray]


def choose_examples(rows: datasets.Dataset, kind: str, count: int) -> list[Example]:
    """Evenly spaced rows with a prompt; of an image with several objects the largest one.

    Args:
        rows: a split of a data set.
        kind: "segmentation", "candidates" or "preference".
        count: at most so many.
    """
    if kind == "segmentation":
        prompted = [place for place, row in enumerate(rows.select_columns(["objects"])) if row["objects"]]
    else:
        prompted = list(range(len(rows)))
    if not prompted:
        return []
    places = np.linspace(0, len(prompted) - 1, min(count, len(prompted))).round().astype(int)
    return [_example(rows[prompted[place]], kind) for place in np.unique(places)]


def _example(row: dict[str, Any], kind: str) -> Example:
    image = row["image"].convert("RGB")
    if kind == "segmentation":
        largest = max(row["objects"], key=lambda entry: entry["area"])
        return Example(image, largest["box"], decode_rle(largest["rle"]), {})
    truth = None if row["truth"] is None else decode_mask(row["truth"])
    if kind == "preference":
        return Example(image, row["box"], truth, {name: decode_mask(row[name]) for name in ("chosen", "rejected")})
    masks = {f"candidate {place}": decode_rle(of["rle"]) for place, of in enumerate(row["candidates"][:3], 1)}
    return Example(image, row["box"], truth, masks)


def with_prediction(example: Example, title: str, model: SamModel, processor: SamProcessor) -> Example:
    """The example with a model's single mask for its box."""
    boxes, size = np.array([example.box], np.float32), (example.image.height, example.image.width)
    window = rule_of(processor).of_box(example.box, size)
    look = look_at(model, processor, example.image)
    masks, _ = answer_prompts(model, look, boxes, np.zeros((1, 2, 2), np.float32), size, "box", [window], tokens=1)
    mask = masks[0, 0]
    return Example(example.image, example.box, example.truth, {**example.masks, title: mask})


def draw_examples(examples: Sequence[Example]) -> bytes:
    """PNG: a row an example: the photograph with its box, the truth if known, and each mask with its IoU."""
    has_truth = any(example.truth is not None for example in examples)
    columns = 1 + has_truth + max(len(example.masks) for example in examples)
    figure = Figure(figsize=(1.9 * columns, 2.08 * len(examples)), dpi=_DPI, layout="constrained")
    grid = figure.subplots(len(examples), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for line, example in zip(grid, examples):
        pixels, truth = np.asarray(example.image), example.truth
        cells = [("photograph and box", thumbnail(pixels, example.box, show_box=True))]
        if has_truth:
            cells.append(("truth", thumbnail(pixels, example.box, truth=truth)))
        for title, mask in example.masks.items():
            reached = f", IoU {mask_iou(mask, truth):.2f}" if truth is not None else ""
            colour = RANKED.get(title, PREDICTION)
            shown = thumbnail(pixels, example.box, marked=mask, truth=truth, colour=colour)
            cells.append((title + reached, shown))
        for axes, (title, picture) in zip(line, cells):
            axes.imshow(picture)
            axes.set_title(title, fontsize=9, color=INK)
    return _png(figure)


def draw_training(directory: str | Path) -> bytes | None:
    """PNG of the loss over the steps, in training and on validation rows; None when too little was logged."""
    log = read_log(directory) or []
    train, held = curve(log, "loss"), curve(log, "eval_loss")
    if len(train) < 2:
        return None
    figure = Figure(figsize=(6.0, 3.0), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*train), color=SERIES[1], label="training")
    if held:
        axes.plot(*zip(*held), color=SERIES[2], marker="o", markersize=4, linestyle="--", label="validation")
    axes.set_xlabel("optimiser step", color=MUTED)
    axes.set_ylabel("loss", color=MUTED)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return _png(figure)


def data_examples(directory: str | Path, kind: str, count: int = 3) -> bytes | None:
    """PNG of some rows of a data set's first split, or None when none of them has a prompt."""
    rows = load_split(directory, split_names(directory)[0], kind=kind)
    examples = choose_examples(rows, kind, count)
    return draw_examples(examples) if examples else None


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # No date and no version inside: the same rows give the same file, and a second push finds nothing new.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
