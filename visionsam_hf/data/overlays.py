"""The one way to draw masks and boxes on a photograph, in one palette, for pages, cards and predictions.

Of Okabe and Ito's colours and white: told apart by colour-blind eyes, and, by their dark rims, on metal, wood and green
boards alike. The annotation page (annotation/static/panes.js) and the demo (recipes/space/demo) draw for themselves, in
these colours.
"""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

Colour = tuple[int, int, int]

TRUTH: Colour = (255, 255, 255)
PREDICTION: Colour = (230, 159, 0)
CHOSEN: Colour = (86, 180, 233)  # and every candidate that is not ranked yet
REJECTED: Colour = (200, 30, 120)
BOX: Colour = (240, 228, 66)
_RIM: Colour = (20, 20, 20)
_PADDING = 128
_FILL = 0.38


@dataclass(frozen=True)
class Overlay:
    """What to draw of a mask, or of a prompt.

    Attributes:
        mask: (H, W) bool to outline, or None.
        colour: RGB, of this module.
        box: [x1, y1, x2, y2) to draw, or None.
        is_filled: tint the mask's inside too.
    """

    mask: np.ndarray | None = None
    colour: Colour = TRUTH
    box: Sequence[float] | None = None
    is_filled: bool = False


def draw(image: np.ndarray, overlays: Sequence[Overlay], *, scale: float = 1.0, thickness: int = 1) -> np.ndarray:
    """The photograph, enlarged or reduced, with overlays drawn at the new size, so that their lines stay thin.

    Args:
        image: (H, W, 3) uint8. It is not changed.
        overlays: drawn in order, masks of the image's size.
        scale: new pixels per old pixel.
        thickness: of the lines, in new pixels, without their rims.

    Returns:
        (scale * H, scale * W, 3) uint8, each side rounded, at least 1.
    """
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    canvas = image.copy() if scale == 1 else cv2.resize(image, size, interpolation=method)
    shapes = [None if overlay.mask is None else _resized(overlay.mask, size, scale) for overlay in overlays]
    for overlay, shape in zip(overlays, shapes):
        if shape is not None and overlay.is_filled:
            canvas[shape] = ((1 - _FILL) * canvas[shape] + _FILL * np.array(overlay.colour)).astype(np.uint8)
    for overlay in overlays:
        if overlay.box is not None:
            # Round the box and not on it: its mask's outline, with the rim, touches it on four sides.
            x1, y1, x2, y2 = (round(float(edge) * scale) for edge in overlay.box)
            away = thickness + 1
            corners = (x1 - away, y1 - away), (x2 - 1 + away, y2 - 1 + away)
            for colour, width in ((_RIM, thickness + 2), (BOX, thickness)):
                cv2.rectangle(canvas, *corners, colour, width)
    for overlay, shape in zip(overlays, shapes):
        if shape is not None:
            around = _with_room(shape, thickness).astype(np.uint8)
            contours, _ = cv2.findContours(around, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
            for colour, width in ((_RIM, thickness + 2), (overlay.colour, thickness)):
                cv2.drawContours(canvas, contours, -1, colour, width)
    return canvas


def _resized(mask: np.ndarray, size: tuple[int, int], scale: float) -> np.ndarray:
    if scale == 1:
        return mask
    if scale > 1:
        return cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) > 0.5
    # What is thinner than a pixel here, of a mask or beside its thick parts, keeps every pixel that it touches.
    parts = mask.astype(np.uint8)
    thick = _opened(parts, math.ceil(1 / scale))
    share = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    thin = cv2.resize((parts - thick).astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return (share > 0.5) | (thin > 0.1 * scale)


def _opened(mask: np.ndarray, width: int) -> np.ndarray:
    """(H, W) uint8: the parts of a mask that a square of `width` pixels, or one more, fits into: even ones would shift it."""
    return cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((width | 1, width | 1), np.uint8))


def _with_room(shape: np.ndarray, thickness: int) -> np.ndarray:
    """What to outline: the mask, or, where the line would cover all of a thin one, a margin round it."""
    line = thickness + 2
    parts = shape.astype(np.uint8)
    if 2 * _opened(parts, line).sum() >= parts.sum():
        return shape
    return cv2.dilate(parts, np.ones((2 * line + 1, 2 * line + 1), np.uint8)).astype(bool)


def thumbnail(image: Image.Image, overlays: Sequence[Overlay] = (), *, side: int) -> Image.Image:
    """The whole image with its longer side `side` pixels."""
    return Image.fromarray(draw(np.asarray(image.convert("RGB")), overlays, scale=side / max(image.size)))


def close_up(image: np.ndarray, overlays: Sequence[Overlay], box: Sequence[float], *, side: int) -> Image.Image:
    """The surroundings of a box in an image, (H, W, 3) uint8, as a square of `side` pixels, grey where the image ends."""
    window = box_window(image.shape, box)
    rows, columns = window
    shift = np.array([columns.start, rows.start] * 2)
    parts = [
        Overlay(
            None if overlay.mask is None else overlay.mask[window],
            overlay.colour,
            None if overlay.box is None else np.asarray(overlay.box) - shift,
            overlay.is_filled,
        )
        for overlay in overlays
    ]
    patch = np.ascontiguousarray(image[window])
    drawn = draw(patch, parts, scale=side / max(patch.shape[:2]), thickness=2)
    square = np.full((side, side, 3), _PADDING, np.uint8)
    top, left = (side - drawn.shape[0]) // 2, (side - drawn.shape[1]) // 2
    square[top : top + drawn.shape[0], left : left + drawn.shape[1]] = drawn
    return Image.fromarray(square)


def box_window(shape: Sequence[int], box: Sequence[float]) -> tuple[slice, slice]:
    """Rows and columns of a square with the box in its middle half, inside the image as far as it goes."""
    x1, y1, x2, y2 = box
    side = min(max(2.2 * max(x2 - x1, y2 - y1), 0.12 * max(shape[:2]), 24), max(shape[:2]))
    left, top = (max(0, min((low + high - side) / 2, limit - side)) for low, high, limit in
                 ((x1, x2, shape[1]), (y1, y2, shape[0])))  # fmt: skip
    return (
        slice(int(top), int(np.ceil(min(top + side, shape[0])))),
        slice(int(left), int(np.ceil(min(left + side, shape[1])))),
    )


def data_uri(picture: Image.Image) -> str:
    """The picture inside a page's own text."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
