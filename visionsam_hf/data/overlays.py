"""Small pictures of a sample with its masks outlined and its boxes drawn, for contact sheets and pages."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

# Visible on grey metal, wood and green boards alike, and told apart by most colour-blind eyes.
TRUTH, CHOSEN, REJECTED = (255, 0, 200), (0, 210, 255), (255, 140, 0)
BOX = (255, 225, 60)


@dataclass(frozen=True)
class Overlay:
    """A mask (H, W) bool to outline in an RGB colour, and its box [x1, y1, x2, y2) to draw, or None."""

    mask: np.ndarray
    colour: tuple[int, int, int]
    box: Sequence[float] | None = None


def thumbnail(image: Image.Image, overlays: Sequence[Overlay] = (), *, side: int) -> Image.Image:
    """The image with its longer side `side` pixels, outlines and boxes drawn at that size, so that they stay thin."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    method = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    canvas = np.array(image.convert("RGB").resize(size, method))
    for overlay in overlays:
        # INTER_AREA keeps a trace of masks that are thinner than a pixel here.
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        small = cv2.resize(overlay.mask.astype(np.float32), size, interpolation=method)
        shape = (small > min(0.5, 0.5 * float(small.max(initial=0)))).astype(np.uint8)
        contours, _ = cv2.findContours(shape, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, contours, -1, overlay.colour, 1, cv2.LINE_AA)
        if overlay.box is not None:
            x1, y1, x2, y2 = (round(edge * scale) for edge in overlay.box)
            cv2.rectangle(canvas, (x1 - 1, y1 - 1), (x2, y2), BOX, 1)
    return Image.fromarray(canvas)


def close_up(image: Image.Image, overlays: Sequence[Overlay], box: Sequence[float], *, side: int) -> Image.Image:
    """A square part of the image round a box, three times its longer side, drawn as `thumbnail` does."""
    x1, y1, x2, y2 = box
    reach = max(x2 - x1, y2 - y1, 8) * 1.5
    centre_x, centre_y = (x1 + x2) / 2, (y1 + y2) / 2
    left, top = max(0, int(centre_x - reach)), max(0, int(centre_y - reach))
    right, bottom = min(image.width, int(centre_x + reach)), min(image.height, int(centre_y + reach))
    parts = [Overlay(overlay.mask[top:bottom, left:right], overlay.colour) for overlay in overlays]
    return thumbnail(image.crop((left, top, right, bottom)), parts, side=side)
