"""A finder, or another system's maps, on a split: images, pixels, and masks without a box against masks with true boxes."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import SamModel

from visionsam_hf.data.masks import mask_iou, united
from visionsam_hf.evaluation.detection_metrics import FoundDefects, detection_figures, pixel_figures, roc_points
from visionsam_hf.evaluation.metrics import exact_mean
from visionsam_hf.inference.finders.finder import Finder
from visionsam_hf.inference.finders.finder_files import OutsideMaps
from visionsam_hf.inference.finders.found_masks import find_masks
from visionsam_hf.inference.finders.found_rows import EmbeddedRow, found_maps
from visionsam_hf.inference.prediction import answer_prompts

_BATCH = 8


@dataclass(frozen=True)
class Detection:
    """What was found on a split.

    Attributes:
        figures: for `detection.json`. table: a row an image, in the split's order.
        maps, truths, marked: (H, W) of each image: float32, bool, and the bool union of its masks (None without a finder).
    """

    figures: dict[str, Any]
    table: list[dict[str, Any]]
    maps: list[np.ndarray]
    truths: list[np.ndarray]
    marked: list[np.ndarray | None]


def evaluate_finder(
    source: Finder | OutsideMaps, model: SamModel, rows: Iterable[EmbeddedRow], names: list[str], finder: Finder | None
) -> Detection:
    """Measure maps, and with a finder its masks.

    Args:
        source: makes the maps.
        model: draws the masks.
        rows: of the split, good ones too. names: of the categories.
        finder: its threshold and plan turn maps into masks; None measures the maps alone.
    """
    table: list[dict[str, Any]] = []
    maps: list[np.ndarray] = []
    truths: list[np.ndarray] = []
    marked: list[np.ndarray | None] = []
    counted = FoundDefects()
    units = finder.config.units.get("maps", (0.0, 1.0)) if finder is not None else (0.0, 1.0)
    for row in rows:
        found = found_maps(source, row, units)
        score = found.score
        entry = {
            "image_id": row.row["image_id"], "category": names[row.row["category"]], "defective": bool(row.truth.any()),
            "score": score,
        }  # fmt: skip
        if finder is not None:
            config = finder.config
            kept = find_masks(model, row.embedding, found.sharp, config.plan) if score >= config.threshold else []
            entry |= {
                "probability": config.probability(score), "masks": len(kept),
                "iou": counted.add([one.mask for one in kept], row.defects),
                "iou_with_boxes": boxed_iou(model, row) if row.defects else None,
            }  # fmt: skip
        maps.append(found.whole)
        truths.append(row.truth)
        marked.append(united([one.mask for one in kept], row.truth.shape) if finder is not None else None)
        table.append(entry)
    figures = {"images": len(table), **_detection(maps, truths, table)}
    if finder is not None:
        with_boxes = [entry["iou_with_boxes"] for entry in table if entry["iou_with_boxes"] is not None]
        boxed = exact_mean(with_boxes) if with_boxes else None
        found_iou = counted.figures()["iou"]
        share = found_iou / boxed if boxed else None
        figures["masks"] = {**counted.figures(), "iou_with_boxes": boxed, "share_of_boxes": share}
    return Detection(figures, table, maps, truths, marked)


def _detection(maps: list[np.ndarray], truths: list[np.ndarray], table: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures over all images, and of each category's defective images against all good ones."""
    scores, positive = np.array([entry["score"] for entry in table]), np.array([entry["defective"] for entry in table])
    groups: dict[str, list[int]] = defaultdict(list)
    for place, entry in enumerate(table):
        if entry["defective"]:
            groups[entry["category"]].append(place)
    good = np.flatnonzero(~positive).tolist()
    per_category: dict[str, dict[str, Any]] = {}
    for name, places in sorted(groups.items()):
        these = [*good, *places]
        per_category[name] = {
            "n": len(places),
            "image": detection_figures(scores[these], positive[these]),
            "pixel": pixel_figures([maps[place] for place in these], [truths[place] for place in these]),
        }
    both = positive.any() and not positive.all()
    return {
        "image": detection_figures(scores, positive),
        "pixel": pixel_figures(maps, truths),
        "category_mean": {
            kind: {key: _mean(entry[kind][key] for entry in per_category.values()) for key in keys}
            for kind, keys in (("image", ("auroc", "ap", "f1_max")), ("pixel", ("auroc", "ap", "f1_max", "aupro")))
        },
        "per_category": per_category,
        "roc": roc_points(scores, positive) if both else [],
    }


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return exact_mean(known) if known else None


def boxed_iou(model: SamModel, row: EmbeddedRow) -> float:
    """IoU of the model's masks for the true boxes, together, with the defects, together."""
    masks, boxes, size = [], row.boxes, row.truth.shape
    for start in range(0, len(boxes), _BATCH):
        part = boxes[start : start + _BATCH]
        points, whole = np.zeros((len(part), 2, 2), np.float32), [None] * len(part)
        answers, _ = answer_prompts(model, lambda _: row.embedding, part, points, size, "box", whole, tokens=1)
        masks += list(answers[:, 0])
    return mask_iou(united(masks, size), np.logical_or.reduce(row.defects))
