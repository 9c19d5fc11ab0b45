"""Things on a product that look like defects and are none: reflections, printed marks, drawn lines, stickers."""

import numpy as np

from datasets_builders.world.canvas import Canvas, Patch, ellipse_points, rectangle_points


def distract(canvas: Canvas) -> None:
    """Add a few distractors inside the product's silhouette."""
    rng = canvas.rng
    for _ in range(rng.choice(4, p=[0.3, 0.35, 0.25, 0.1])):
        at = rng.uniform(-0.6, 0.6, 2)
        match rng.integers(4):
            case 0:
                _reflection(canvas, at)
            case 1:
                _code(canvas, at)
            case 2:
                _line(canvas, at)
            case _:
                _marker(canvas, at)


def _inside(canvas: Canvas, patch: Patch) -> Patch:
    return Patch(patch.y, patch.x, patch.alpha * canvas.silhouette[patch.window])


def _reflection(canvas: Canvas, at: np.ndarray) -> None:
    """A lamp or a window mirrored softly."""
    rng = canvas.rng
    if rng.random() < 0.5:
        patch = canvas.polygon(ellipse_points(*at, rng.uniform(0.02, 0.12), rng.uniform(0.02, 0.12)))
    else:
        patch = canvas.rectangle(
            *at, rng.uniform(0.3, 1.0), rng.uniform(0.02, 0.08), corner=0.02, angle=rng.uniform(0, np.pi)
        )
    soft = canvas.blurred(patch, rng.uniform(1, 4) * canvas.unit)
    canvas.lay(_inside(canvas, soft), (1, 1, 1), opacity=rng.uniform(0.15, 0.6))


def _code(canvas: Canvas, at: np.ndarray) -> None:
    """A small printed matrix code."""
    rng = canvas.rng
    cells, side = int(rng.integers(6, 11)), rng.uniform(0.012, 0.02)
    ink = rng.choice([0.08, 0.9])
    pattern = rng.random((cells, cells)) < 0.5
    pattern[0] = pattern[:, -1] = True
    span = cells * side
    squares = [
        rectangle_points(*(at - span / 2 + place[::-1] * side), side * 0.98, side * 0.98)
        for place in np.argwhere(pattern)
    ]
    canvas.lay(_inside(canvas, canvas.polygon(*squares)), (ink, ink, ink), opacity=0.7)


def _line(canvas: Canvas, at: np.ndarray) -> None:
    """A scribed straight line across the whole product: a seam or a parting line, not a scratch."""
    angle = canvas.rng.choice([0, np.pi / 2]) + canvas.rng.normal(0, 0.01)
    along = np.array([np.cos(angle), np.sin(angle)]) * 2.5
    patch = canvas.stroke(np.stack([at - along, at + along]), 0.008)
    canvas.multiply(_inside(canvas, patch), canvas.rng.choice([0.7, 1.3]))


def _marker(canvas: Canvas, at: np.ndarray) -> None:
    """An inspector's paint dot or a tick."""
    rng = canvas.rng
    tone = ((0.1, 0.2, 0.7), (0.8, 0.1, 0.1), (0.1, 0.55, 0.2), (0.9, 0.9, 0.9))[rng.integers(4)]
    if rng.random() < 0.5:
        patch = canvas.ellipse(*at, 0.035)
    else:
        patch = canvas.stroke(np.array([(-0.05, 0), (-0.015, 0.045), (0.06, -0.05)]) + at, 0.022)
    canvas.lay(_inside(canvas, patch), tone, opacity=0.8)
