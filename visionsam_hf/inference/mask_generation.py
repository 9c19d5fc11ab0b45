"""SAM's automatic mask generation: masks without a prompt, of which the sure, stable and different ones are kept.

The pipeline of transformers that does it needs torchvision, which this package does without; and it works at the
photograph's size, which for a 12-megapixel photograph takes gigabytes. Here masks are sorted out on the grid of the
logits, and only those that are kept grow to the photograph's size.

In tiles, the whole photograph is asked too, for what no tile holds. A mask that its tile cuts off goes where another shows
the same object whole, is joined with the neighbours' parts where they agree, and is dropped alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from transformers import SamModel

from visionsam_hf.data.geometry import join_windows, masks_to_original, resized_size, valid_region
from visionsam_hf.data.masks import mask_box, mask_iou
from visionsam_hf.data.windows import Window, WindowRule, tile_grid
from visionsam_hf.inference.prediction import Look, predict_at
from visionsam_hf.models.loading import image_side, mask_side

_BATCH = 64  # points a decoder call
_STABILITY_OFFSET = 1.0
_SAME_BOX_IOU = 0.7
# Two tiles' masks of one object agree so far where both tiles look.
_SAME_PART_IOU = 0.5
# A mask that takes nearly all of the image is the product, not something on it.
_WHOLE_IMAGE = 0.95


@dataclass(frozen=True)
class GeneratedMask:
    """One mask: (H, W) bool, the predicted IoU, its stability, and the point (x, y) in original pixels that gave it."""

    mask: np.ndarray
    score: float
    stability: float
    point: tuple[float, float]


@dataclass(frozen=True)
class _Found:
    """A mask on the grid of the logits.

    Attributes:
        logits: (S, S) of its window.
        box: [x1, y1, x2, y2) in the whole photograph's grid.
    """

    logits: torch.Tensor
    window: Window | None
    box: np.ndarray
    score: float
    stability: float
    point: tuple[float, float]


def generate_masks(
    model: SamModel,
    look: Look,
    original_size: Sequence[int],
    *,
    rule: WindowRule = WindowRule(),
    points_per_side: int = 32,
    min_score: float = 0.88,
    min_stability: float = 0.95,
) -> Iterator[GeneratedMask]:
    """The masks of a whole photograph, the best-scored first; those that tiles have joined come last.

    Args:
        look: gives the embeddings of the photograph and its tiles, one after the other.
        original_size: (H, W).
        rule: tiles are asked besides the whole photograph; there is no prompt to zoom by.
        points_per_side: of the grid of points on the photograph, and on every tile.
        min_score: masks whose predicted IoU is below it are dropped.
        min_stability: masks that change more than this IoU when the logits' threshold moves by 1 are dropped.
    """
    windows: list[Window | None] = [None]
    if rule.window == "tiles" and rule.side < max(original_size):
        windows += tile_grid(original_size, rule.side)
    found = [
        mask
        for window in windows
        for mask in _generated(model, look, original_size, window, points_per_side, min_score, min_stability)
    ]
    boxes, scores = np.array([one.box for one in found]).reshape(-1, 4), np.array([one.score for one in found])
    found = [found[place] for place in suppress(boxes, scores)]
    for one, *others in _objects(found, original_size, image_side(model)):
        if others:
            parts = [(part.window, part.logits) for part in (one, *others) if part.window is not None]
            mask = (join_windows(parts, original_size, image_side(model)) > 0).numpy()
        else:
            mask = masks_to_original(one.logits[None], original_size, image_side(model), one.window)[0]
        if mask.any():
            yield GeneratedMask(mask, one.score, one.stability, one.point)


def _generated(
    model: SamModel,
    look: Look,
    original_size: Sequence[int],
    window: Window | None,
    points_per_side: int,
    min_score: float,
    min_stability: float,
) -> Iterator[_Found]:
    """The good masks of one window."""
    size, corner = (original_size, (0, 0)) if window is None else (window.size, (window.x, window.y))
    points = grid_points(size, points_per_side) + np.float32(corner)
    valid = torch.from_numpy(valid_region(size, mask_side(model)))
    # From the window's grid to the photograph's.
    scale, moved = max(size) / max(original_size), np.array(2 * corner) * mask_side(model) / max(original_size)
    for start in range(0, len(points), _BATCH):
        asked = points[start : start + _BATCH]
        both = np.zeros((len(asked), 2, 2), np.float32)
        both[:, 0] = asked
        no_boxes = np.zeros((len(asked), 4), np.float32)
        logits, scores = predict_at(model, look(window), no_boxes, both, original_size, "point", window)
        # Token 0 is for prompts that leave no doubt; a point on a grid does.
        logits = logits[:, 1:].float().cpu().masked_fill(~valid, -torch.inf)
        scores = scores[:, 1:].float().cpu()
        stable = stability(logits)
        share = (logits > 0).sum((-2, -1)) / valid.sum()
        good = (scores >= min_score) & (stable >= min_stability) & (share > 0) & (share < _WHOLE_IMAGE)
        for place, token in good.nonzero().tolist():
            mask = logits[place, token].clone()
            box = np.array(mask_box((mask > 0).numpy())) * scale + moved
            x, y = map(float, asked[place])
            yield _Found(mask, window, box, float(scores[place, token]), float(stable[place, token]), (x, y))


def _objects(found: Sequence[_Found], original_size: Sequence[int], image_size: int) -> Iterator[list[_Found]]:
    """Whole masks one by one, in their order, then groups of parts of one object that tiles have cut off."""
    cut = [one for one in found if _is_cut(one, original_size)]
    whole = [one for one in found if not any(one is part for part in cut)]
    yield from ([one] for one in whole)
    groups: list[list[_Found]] = []
    for part in cut:
        if any(_agree(part, other, original_size, image_size) for other in whole):
            continue
        same = [group for group in groups if any(_agree(part, other, original_size, image_size) for other in group)]
        groups = [group for group in groups if not any(group is one for one in same)]
        groups.append([*sum(same, []), part])
    yield from (group for group in groups if len(group) > 1)


def _is_cut(one: _Found, original_size: Sequence[int]) -> bool:
    """Whether a mask touches an edge of its tile beyond which the photograph goes on."""
    if one.window is None:
        return False
    height, width = original_size
    x1, y1, x2, y2 = one.window.corners
    rows, columns = resized_size(one.window.size, len(one.logits))
    inside = (one.logits > 0)[:rows, :columns]
    edges = (inside[:, 0], x1 > 0), (inside[0], y1 > 0), (inside[:, -1], x2 < width), (inside[-1], y2 < height)
    return any(goes_on and bool(edge.any()) for edge, goes_on in edges)


def _agree(one: _Found, other: _Found, original_size: Sequence[int], image_size: int) -> bool:
    """Whether two masks of different windows are of one object, as far as both windows show it."""
    windows = [found.window or Window(0, 0, original_size[1], original_size[0]) for found in (one, other)]
    corners = np.array([window.corners for window in windows])
    (x1, y1), (x2, y2) = corners[:, :2].max(0), corners[:, 2:].min(0)
    if windows[0] == windows[1] or x1 >= x2 or y1 >= y2:
        return False
    shown = []
    for found, window in zip((one, other), windows):
        mask = masks_to_original(found.logits[None], window.size, image_size)[0]
        shown.append(mask[y1 - window.y : y2 - window.y, x1 - window.x : x2 - window.x])
    return bool(shown[0].any()) and mask_iou(*shown) >= _SAME_PART_IOU


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
    corners = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)  # [x, y, width, height]
    return [int(place) for place in cv2.dnn.NMSBoxes(corners.tolist(), scores.tolist(), 0.0, same)]
