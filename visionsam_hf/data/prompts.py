"""Prompts simulated from masks: a jittered box, a point, a positive and a negative point.

Every random draw comes from a generator that the caller seeds per (seed, epoch, row), so a resumed run draws the same.
"""

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

PROMPT_KINDS = ("box", "point", "point_pm")  # point_pm: a positive and a negative point



def jitter_box(
    box: np.ndarray, original_size: tuple[int, int], rng: np.random.Generator, *, fraction: float
) -> np.ndarray:
    """A box whose every edge moves by up to `fraction` of the box's side, outwards or inwards.

    People draw boxes too tight as well as too loose. The result stays inside the image and keeps at least one pixel.

    Args:
        box: (4,) [x1, y1, x2, y2) in original pixels.
        original_size: (height, width) of the image.
        rng: source of the jitter.
        fraction: of the side, 0 leaves the box alone.

    Returns:
        (4,) float32.
    """
    x1, y1, x2, y2 = (float(value) for value in box)
    height, width = original_size
    move = rng.uniform(-fraction, fraction, 4) * np.array([x2 - x1, y2 - y1, x2 - x1, y2 - y1])
    x1, x2 = np.clip([x1 + move[0], x2 + move[2]], 0, width)
    y1, y2 = np.clip([y1 + move[1], y2 + move[3]], 0, height)
    if x2 - x1 < 1:
        x1 = min(max((x1 + x2 - 1) / 2, 0.0), width - 1.0)
        x2 = x1 + 1
    if y2 - y1 < 1:
        y1 = min(max((y1 + y2 - 1) / 2, 0.0), height - 1.0)
        y2 = y1 + 1
    return np.array([x1, y1, x2, y2], np.float32)


def interior_point(mask: np.ndarray) -> np.ndarray:
    """(x, y) of the pixel deepest inside a non-empty (H, W) mask, float32.

    Not the centroid, which can fall outside a bent scratch. The image's border counts as outside.
    """
    distance = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), mask.shape)
    return np.array([x, y], np.float32)


def negative_point(mask: np.ndarray, box: np.ndarray) -> np.ndarray:
    """(x, y) of the pixel deepest in the background around a defect, float32: where a box prompt is misread as 'all of it'.

    The background is the box widened by half its sides, without the mask; the whole image when that leaves nothing.
    """
    height, width = mask.shape
    x1, y1, x2, y2 = (float(value) for value in box)
    left, right = int(max(x1 - (x2 - x1) / 2 - 2, 0)), int(min(x2 + (x2 - x1) / 2 + 3, width))
    top, bottom = int(max(y1 - (y2 - y1) / 2 - 2, 0)), int(min(y2 + (y2 - y1) / 2 + 3, height))
    around = ~mask[top:bottom, left:right]
    if not around.any():
        left, top, around = 0, 0, ~mask
        if not around.any():  # the defect is the image: no negative exists, a corner is the least wrong
            return np.zeros(2, np.float32)
    return interior_point(around) + np.array([left, top], np.float32)


def random_point(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(x, y) of a pixel drawn uniformly from a non-empty (H, W) mask, float32."""
    inside = np.flatnonzero(mask)
    y, x = divmod(int(inside[rng.integers(len(inside))]), mask.shape[1])
    return np.array([x, y], np.float32)


def draw_kind(prompt_mix: Mapping[str, float], rng: np.random.Generator) -> str:
    """A prompt kind, drawn with the shares of `prompt_mix`, e.g. {"box": 0.7, "point": 0.3}; shares need not sum to 1."""
    kinds = [kind for kind in PROMPT_KINDS if prompt_mix.get(kind, 0) > 0]
    if len(kinds) == 1:
        return kinds[0]
    shares = np.array([prompt_mix[kind] for kind in kinds], np.float64)
    return kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]
