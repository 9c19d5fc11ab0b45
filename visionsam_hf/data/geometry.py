"""The only place that maps original pixels to SAM's padded square and to the grid of its mask logits, and back.

SAM resizes an image's longest side to `side` pixels and pads right and bottom to a square. The encoder sees that square
at `side = image_size`; the mask logits live in the same square at a quarter of the patch size, `side = mask_side`.

The image may be a window of a photograph. Coordinates and masks stay in pixels of the photograph all the same: functions
that take a `window` move them. What is cut out with `crop` is an image of its own.
"""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from visionsam_hf.data.windows import Window, crop


def resized_size(original_size: Sequence[int], side: int) -> tuple[int, int]:
    """(height, width) of an image once its longest side is `side` pixels, rounded as SAM's processor rounds."""
    height, width = original_size
    scale = side / max(height, width)
    return int(height * scale + 0.5), int(width * scale + 0.5)


def to_square(
    coordinates: np.ndarray, original_size: Sequence[int], side: int, window: Window | None = None
) -> np.ndarray:
    """Points or boxes (..., 2) or (..., 4) from original pixels (x, y) to the padded square, float32.

    Both axes keep their own rounded scale, as in SAM's processor.
    """
    pairs = np.asarray(coordinates, np.float64).reshape(-1, 2)
    if window is not None:
        pairs, original_size = pairs - (window.x, window.y), window.size
    height, width = original_size
    new_height, new_width = resized_size(original_size, side)
    scale = np.array([new_width / width, new_height / height], np.float64)
    return (pairs * scale).reshape(np.shape(coordinates)).astype(np.float32)


def mask_to_target(mask: np.ndarray, side: int, *, resize: str = "area") -> tuple[np.ndarray, np.ndarray]:
    """A mask of an original image as a training target in the padded square of the logits.

    Args:
        mask: (H, W) bool, original size.
        side: sides of the logits' square, in logits' pixels.
        resize: "area" keeps the fraction that each logit's cell covers, so a hairline survives; "nearest" is the paper's.

    Returns:
        (side, side) float32 target in [0, 1], 0 on padding, and (side, side) bool, False on padding.
    """
    height, width = resized_size(mask.shape, side)
    # At least one cell: an image of 4000 x 2 pixels still has an inside.
    height, width = max(height, 1), max(width, 1)
    shrinks = mask.shape[0] >= height and mask.shape[1] >= width
    if resize == "nearest":
        method = cv2.INTER_NEAREST
    elif resize == "area":
        # INTER_AREA is the exact area average only when it shrinks.
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    else:
        raise ValueError(f"resize must be 'area' or 'nearest', not {resize!r}")
    small = cv2.resize(mask.astype(np.float32), (width, height), interpolation=method)
    target = np.zeros((side, side), np.float32)
    target[:height, :width] = small
    return target, valid_region(mask.shape, side)


def valid_region(original_size: Sequence[int], side: int) -> np.ndarray:
    """(side, side) bool: True where the padded square shows the image."""
    height, width = resized_size(original_size, side)
    valid = np.zeros((side, side), bool)
    valid[: max(height, 1), : max(width, 1)] = True
    return valid


def logits_to_original(
    logits: torch.Tensor, original_size: Sequence[int], image_size: int, window: Window | None = None
) -> torch.Tensor:
    """Mask logits (..., h, w) of the padded square at the original size, (..., H, W) float32; -inf outside the window.

    The same two bilinear steps as the processor's `post_process_masks` (to `image_size`, cut, to the original), so a
    threshold at 0 gives the mask that any other user of the checkpoint gets.
    """
    if window is not None:
        full = logits.new_full((*logits.shape[:-2], *original_size), -torch.inf, dtype=torch.float32)
        x1, y1, x2, y2 = window.corners
        full[..., y1:y2, x1:x2] = logits_to_original(logits, window.size, image_size)
        return full
    lead = logits.shape[:-2]
    square = F.interpolate(
        logits.float().reshape(1, -1, *logits.shape[-2:]),
        (image_size, image_size),
        mode="bilinear",
        align_corners=False,
    )
    height, width = resized_size(original_size, image_size)
    full = F.interpolate(
        square[..., : max(height, 1), : max(width, 1)], tuple(original_size), mode="bilinear", align_corners=False
    )
    return full.reshape(*lead, *original_size)


def masks_to_original(
    logits: torch.Tensor, original_size: Sequence[int], image_size: int, window: Window | None = None
) -> np.ndarray:
    """Where `logits_to_original` is above 0, (..., H, W) bool; one plane of floats at a time, the window's size."""
    masks = np.zeros((logits[..., 0, 0].numel(), *original_size), bool)
    inside = original_size if window is None else window.size
    for mask, plane in zip(masks, logits.flatten(0, -3)):
        crop(mask, window)[...] = (logits_to_original(plane, inside, image_size) > 0).cpu().numpy()
    return masks.reshape(*logits.shape[:-2], *original_size)


def join_windows(
    parts: Iterable[tuple[Window, torch.Tensor]], original_size: Sequence[int], image_size: int
) -> torch.Tensor:
    """One mask's logits from several overlapping windows, (H, W) float32 at the original size; -inf where none looks.

    Args:
        parts: windows with the (h, w) logits of their padded squares. A pixel's logit is their mean, weighted by how deep
            it lies inside each window: none has a say at its own edge, so none leaves a seam.
    """
    total, weights = torch.zeros(*original_size), torch.zeros(*original_size)
    for window, logits in parts:
        down, across = (
            torch.minimum(torch.arange(side) + 0.5, side - 0.5 - torch.arange(side)) / side for side in window.size
        )
        weight = down[:, None] * across
        x1, y1, x2, y2 = window.corners
        total[y1:y2, x1:x2] += weight * logits_to_original(logits.cpu(), window.size, image_size)
        weights[y1:y2, x1:x2] += weight
    return torch.where(weights > 0, total / weights, -torch.inf)
