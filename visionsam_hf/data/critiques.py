"""Circled mistakes: what a loop and its label say about the pixels inside it.

`extra`: what the mask has there goes. `missed`: what it lacks there comes. Of both only the loop's core is taken: hands
draw round a mistake, not along it. `ragged`: the edge there becomes that of a majority vote. `speckle`: islands and holes
that lie wholly inside the loop are turned over.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import cv2
import numpy as np
from PIL import Image, ImageDraw

from visionsam_hf.data.masks import decode_mask, decode_rle

Label = Literal["missed", "extra", "ragged", "speckle"]
LABELS: tuple[str, ...] = get_args(Label)
# How far the core lies inside the line, as a share of the loop's width.
_MARGIN = 0.1
# Of a ragged edge each pixel votes with those as far away as this share of the loop's width.
_VOTE = 0.125


def loop_mask(points: Sequence[tuple[float, float]], size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: inside or on a loop.

    Args:
        points: x, y in pixels of the image, at least three; they may lie outside.
        size: height and width of the image.
    """
    canvas = Image.new("1", (size[1], size[0]))
    ImageDraw.Draw(canvas).polygon([tuple(point) for point in points], fill=1, outline=1)
    return np.asarray(canvas)


def corrected(mask: np.ndarray, loop: np.ndarray, label: str) -> np.ndarray:
    """The mask as whoever circled it would have it; outside the loop it stays.

    Args:
        mask: (H, W) bool, the one that was circled.
        loop: (H, W) bool, inside the loop.
        label: of `LABELS`.

    Returns:
        (H, W) bool.
    """
    width = float(np.sqrt(loop.sum()))
    if label in ("extra", "missed"):
        core = _core(loop, round(_MARGIN * width))
        return mask & ~core if label == "extra" else mask | core
    if label == "speckle":
        return np.where(loop, mask ^ (_inside(mask, loop) | _inside(~mask, loop)), mask)
    radius = max(round(_VOTE * width), 1)
    share = cv2.blur(mask.astype(np.float32), (2 * radius + 1,) * 2, borderType=cv2.BORDER_REPLICATE)
    return np.where(loop, share > 0.5, mask)


def _core(loop: np.ndarray, margin: int) -> np.ndarray:
    """What is farther than `margin` pixels inside the line; the whole of a loop too thin for that."""
    core = cv2.erode(loop.astype(np.uint8), np.ones((2 * margin + 1,) * 2, np.uint8)) > 0
    return core if core.any() else loop


def _inside(mask: np.ndarray, loop: np.ndarray) -> np.ndarray:
    """The connected parts of a mask that lie wholly inside the loop; its largest part never does."""
    _, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    is_inside = np.bincount(parts[loop], minlength=len(sizes)) == sizes
    is_inside[[0, sizes.argmax()]] = False
    return is_inside[parts]


def critique_signs(row: Mapping[str, Any]) -> np.ndarray:
    """What all loops of a preference row say together: (H, W) int8, 1 where the mask should come, -1 where it should go.

    A loop speaks only of pixels that it would change in the mask round which it was drawn. Where loops disagree the
    majority counts, and even votes say nothing. A row without the optional column `regions`, or without loops, gives zeros.
    """
    height, width = row["candidates"][0]["rle"]["size"]
    votes = np.zeros((height, width), np.int32)
    for region in row.get("regions") or []:
        mask = decode_rle(row["candidates"][region["candidate"]]["rle"])
        wanted = corrected(mask, decode_rle(region["rle"]), region["label"])
        votes += wanted.astype(np.int32) - mask
    return np.sign(votes).astype(np.int8)


def mended_choice(row: Mapping[str, Any], signs: np.ndarray) -> np.ndarray:
    """A preference row's chosen mask with the pixels that come and without those that go, (H, W) bool."""
    return (decode_mask(row["chosen"]) | (signs > 0)) & ~(signs < 0)
