"""Masks without a prompt: a grid of points, of whose masks the sure, stable and different ones are kept.

SAM's automatic mask generation. The pipeline of transformers that does it needs torchvision, which this package does
without; and it works at the photograph's size, which for a 12-megapixel photograph takes gigabytes. Here masks are
sorted out on the grid of the logits, and only those that are kept grow to the photograph's size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import SamModel

from visionsam_hf.geometry import logits_to_original, valid_region
from visionsam_hf.inference import predict_at
from visionsam_hf.modeling import image_side, mask_side

_BATCH = 64  # points a decoder call
_STABILITY_OFFSET = 1.0
_SAME_BOX_IOU = 0.7
# A mask that takes nearly all of the image is the product, not something on it.
_WHOLE_IMAGE = 0.95


@dataclass(frozen=True)
class GeneratedMask:
    """One mask: (H, W) bool, the predicted IoU, its stability, and the point (x, y) in original pixels that gave it."""

    mask: np.ndarray
    score: float
    stability: float
    point: tuple[float, float]


def generate_masks(
    model: SamModel,
    embedding: torch.Tensor,
    original_size: Sequence[int],
    *,
    points_per_side: int = 32,
    min_score: float = 0.88,
    min_stability: float = 0.95,
) -> Iterator[GeneratedMask]:
    """The masks of a whole photograph, the best-scored first.

    Args:
        embedding: (C, h, w) of the photograph.
        original_size: (H, W).
        points_per_side: of the grid of points.
        min_score: masks whose predicted IoU is below it are dropped.
        min_stability: masks that change more than this IoU when the logits' threshold moves by 1 are dropped.
    """
    points = grid_points(original_size, points_per_side)
    valid = torch.from_numpy(valid_region(original_size, mask_side(model)))
    kept: list[tuple[float, float, np.ndarray, torch.Tensor]] = []
    for start in range(0, len(points), _BATCH):
        asked = points[start : start + _BATCH]
        both = np.zeros((len(asked), 2, 2), np.float32)
        both[:, 0] = asked
        no_boxes = np.zeros((len(asked), 4), np.float32)
        logits, scores = predict_at(model, embedding, no_boxes, both, original_size, "point")
        # Token 0 is for prompts that leave no doubt; a point on a grid does.
        logits = logits[:, 1:].float().cpu().masked_fill(~valid, -torch.inf)
        scores = scores[:, 1:].float().cpu()
        stable = stability(logits)
        share = (logits > 0).sum((-2, -1)) / valid.sum()
        good = (scores >= min_score) & (stable >= min_stability) & (share > 0) & (share < _WHOLE_IMAGE)
        for place, token in good.nonzero().tolist():
            found = logits[place, token].clone()
            kept.append((float(scores[place, token]), float(stable[place, token]), asked[place], found))
    boxes = np.array([_mask_box(logits) for *_, logits in kept], np.float64).reshape(-1, 4)
    for place in suppress(boxes, np.array([score for score, *_ in kept])):
        score, stable_share, point, found = kept[place]
        mask = (logits_to_original(found[None], original_size, image_side(model))[0] > 0).numpy()
        if mask.any():
            yield GeneratedMask(mask, score, stable_share, (float(point[0]), float(point[1])))


def grid_points(original_size: Sequence[int], per_side: int) -> np.ndarray:
    """(per_side², 2) float32 (x, y) at the centres of equal cells of an (H, W) image, row by row."""
    height, width = original_size
    steps = (np.arange(per_side) + 0.5) / per_side
    x, y = np.meshgrid(steps * width, steps * height)
    return np.stack([x.ravel(), y.ravel()], 1).astype(np.float32)


def stability(logits: torch.Tensor) -> torch.Tensor:
    """(...) IoU of the masks (..., h, w) above +1 and above −1: near 1 where the edge is sharp, 0 without a mask."""
    inner = (logits > _STABILITY_OFFSET).sum((-2, -1))
    outer = (logits > -_STABILITY_OFFSET).sum((-2, -1))
    return inner / outer.clamp(min=1)


def suppress(boxes: np.ndarray, scores: np.ndarray, *, same: float = _SAME_BOX_IOU) -> list[int]:
    """Which of (N, 4) boxes [x1, y1, x2, y2) stay when of those with an IoU above `same` only the best-scored does."""
    kept: list[int] = []
    for place in np.argsort(-scores, kind="stable"):
        others = boxes[kept]
        overlap = (
            np.clip(np.minimum(boxes[place, 2:], others[:, 2:]) - np.maximum(boxes[place, :2], others[:, :2]), 0, None)
        ).prod(1)
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        union = areas[place] + areas[kept] - overlap
        if not (overlap > same * union).any():
            kept.append(int(place))
    return kept


def _mask_box(logits: torch.Tensor) -> list[int]:
    inside = logits > 0
    rows, columns = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
