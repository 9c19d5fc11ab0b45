"""Benches, cloths and plates on which things lie."""

import numpy as np

from datasets_builders.world import textures
from datasets_builders.world.canvas import Canvas, blob_points


def background(canvas: Canvas, *, busy: float = 0.35) -> None:
    """Cover the canvas with a random surface; with probability ``busy`` something lies about on it."""
    rng, n, unit = canvas.rng, canvas.size, canvas.unit
    angle = rng.uniform(0, np.pi)
    large = 0.06 * textures.fractal(rng, n, n, 90 * unit)
    match rng.integers(7):
        case 0:
            canvas.backdrop(canvas.coloured((0.45, 0.46, 0.48)), large + 0.07 * textures.brushed(rng, n, n, angle))
        case 1:
            tone = canvas.coloured(((0.16, 0.17, 0.2), (0.3, 0.36, 0.5), (0.55, 0.52, 0.46))[rng.integers(3)])
            canvas.backdrop(tone, large + 0.14 * textures.weave(rng, n, n, angle, rng.uniform(2.5, 6) * unit))
        case 2:
            canvas.backdrop(canvas.coloured((0.86, 0.86, 0.85)), large * 0.5 + 0.015 * textures.grain(rng, n, n))
        case 3:
            tone = canvas.coloured(((0.55, 0.4, 0.26), (0.36, 0.25, 0.18), (0.7, 0.6, 0.46))[rng.integers(3)])
            canvas.backdrop(tone, large + 0.09 * textures.wood_grain(rng, n, n, angle, rng.uniform(9, 22) * unit))
        case 4:
            canvas.backdrop(canvas.coloured((0.05, 0.05, 0.06), 0.15), 3 * large)
        case 5:
            tone = canvas.coloured(
                ((0.2, 0.4, 0.3), (0.45, 0.45, 0.42), (0.2, 0.3, 0.45), (0.6, 0.56, 0.5))[rng.integers(4)]
            )
            canvas.backdrop(tone, large + 0.07 * textures.pitted(rng, n, n, rng.uniform(3, 10) * unit))
        case _:
            canvas.backdrop(canvas.coloured(rng.uniform(0.15, 0.8, 3)), 2 * large + 0.02 * textures.grain(rng, n, n))
    if rng.random() < busy:
        _litter(canvas)


def _litter(canvas: Canvas) -> None:
    """Things near the product that are no product: offcuts, cables, tape, seams of the bench."""
    rng, n = canvas.rng, canvas.size
    for _ in range(int(rng.integers(1, 5))):
        at = rng.uniform(0, n, 2)
        tone = canvas.coloured(rng.uniform(0.1, 0.85) * (1 + rng.normal(0, 0.15, 3)))
        if rng.random() < 0.5:
            points = blob_points(rng, *at, rng.uniform(0.04, 0.16) * n, 0.4)
            patch = canvas.pixel_polygon(points)
            canvas.shadow(patch, 4)
            canvas.lay(patch, tone)
            canvas.bevel(patch, 2, 1.0)
        else:
            along = rng.normal(0, 1, 2)
            along = along / np.linalg.norm(along) * n
            across = np.array([-along[1], along[0]]) * rng.uniform(0.004, 0.03)
            patch = canvas.pixel_polygon(
                np.stack([at - along + across, at + along + across, at + along - across, at - along - across])
            )
            canvas.multiply(patch, rng.uniform(0.55, 1.35))
