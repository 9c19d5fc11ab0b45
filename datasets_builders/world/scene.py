"""The synthetic world: a picture by (category, seed, index), with exact masks of its objects and its defects.

The one module of the renderer that others import: products, generic shapes, plain surfaces, and the defect painter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from datasets_builders.world import products_boards, products_long, products_round, textures
from datasets_builders.world.canvas import Canvas, Patch, ellipse_points, rectangle_points
from datasets_builders.world.defects import DEFECTS
from datasets_builders.world.painter import (
    ALL_DEFECTS,
    PaintSettings,
    Region,
    estimate_foreground,
    paint_defects,
    paint_on,
)
from datasets_builders.world.shapes import background, draw_shapes
from visionsam_hf.data.errors import UserError

__all__ = [
    "ALL_DEFECTS", "DEFECTS", "PRODUCTS", "PaintSettings", "Region", "Scene",
    "estimate_foreground", "paint_defects", "render_product", "render_shapes", "render_surface",
]  # fmt: skip


def _photograph(image: np.ndarray, rng: np.random.Generator, *, focus: float = 0.5, grey: float = 0.12) -> np.ndarray:
    """Take the picture.

    Args:
        image: (H, W, 3) float32 in about 0..1.
        rng: the source of all chance; the numbers drawn do not depend on the image.
        focus: typical blur in pixels of a 256-pixel image.
        grey: how often the camera is monochrome.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    height, width = image.shape[:2]
    unit = max(height, width) / 256
    angle, fall, vignette = rng.uniform(0, 2 * np.pi), abs(rng.normal(0, 0.14)), abs(rng.normal(0, 0.12))
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    light = 1 + np.float32(fall) * (x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle)))
    light = light - np.float32(vignette) * (x * x + y * y) / 2
    exposure = rng.uniform(0.85, 1.15)
    cast = exposure * (1 + rng.normal(0, 0.03, 3))
    blur = focus * rng.lognormal(0, 0.45) * unit
    noise = min(0.05, 0.01 * rng.lognormal(0, 0.6))
    gamma = rng.uniform(0.85, 1.2)
    picture = image * cv2.merge([light * np.float32(channel) for channel in cast])
    np.clip(picture, 0, 1, out=picture)
    if blur > 0.25:
        picture = cv2.GaussianBlur(picture, (0, 0), blur)
    picture = cv2.pow(picture, gamma)
    luminance = textures.grain(rng, height, width)
    chroma = cv2.merge([textures.value_noise(rng, height, width, 2.0, 2.0) for _ in range(3)]) * np.float32(0.6 * noise)
    luminance *= np.float32(noise)
    picture += chroma
    picture += cv2.merge((luminance, luminance, luminance))
    if rng.random() < grey:
        picture = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.convertScaleAbs(np.maximum(picture, 0, out=picture), alpha=255)


def _distract(canvas: Canvas) -> None:
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
        long, wide = rng.uniform(0.3, 1.0), rng.uniform(0.02, 0.08)
        patch = canvas.rectangle(*at, long, wide, corner=0.02, angle=rng.uniform(0, np.pi))
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


_DRAW = {
    "cable": products_long.draw_cable,
    "capacitor": products_long.draw_capacitor,
    "casting": products_round.draw_casting,
    "console": products_boards.draw_console,
    "cylinder": products_long.draw_cylinder,
    "electronics": products_boards.draw_electronics,
    "groove": products_round.draw_groove,
    "hemisphere": products_round.draw_hemisphere,
    "lens": products_round.draw_lens,
    "pcb_1": products_boards.draw_pcb_1,
    "pcb_2": products_boards.draw_pcb_2,
    "ring": products_round.draw_ring,
    "screw": products_long.draw_screw,
    "wood": products_long.draw_wood,
}
PRODUCTS = tuple(_DRAW)
_PRODUCT, _DEFECT, _CAMERA, _SHAPES = range(4)  # purposes of random streams
_SMALLEST = 32
_ALL = 0.95  # a part this large is the product itself, and not told twice


@dataclass(frozen=True)
class Scene:
    """A rendered picture.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        category: one of PRODUCTS, or "shapes".
        objects: the product first, then its parts; for "shapes" the visible part of every object.
        defects: empty on a good image.
    """

    image: np.ndarray
    category: str
    objects: tuple[Region, ...]
    defects: tuple[Region, ...]


def _stream(seed: int, purpose: int, index: int, kind: int = 0) -> np.random.Generator:
    return np.random.default_rng([seed, purpose, index, kind])


def render_product(
    category: str, *, size: int, seed: int, index: int, defective: bool = True, defects: Sequence[str] | None = None
) -> Scene:
    """Render a product on a background, with defects or without.

    The same (category, size, seed, index) gives the same product, pose, light and camera whether ``defective`` or not.

    Args:
        category: one of PRODUCTS.
        size: side of the square image in pixels, 32 or more; made for 64 to 1024.
        seed, index: together they name the picture; not negative.
        defective: paint one to four defects.
        defects: the types to draw from; None for all of DEFECTS.

    Raises:
        UserError: the category or a defect type is unknown, or the size is too small.
    """
    if category not in _DRAW:
        raise UserError(f"category: {category!r} is not a product; choose from {', '.join(PRODUCTS)}")
    if size < _SMALLEST:
        raise UserError(f"size: {size} is too small; give {_SMALLEST} pixels or more")
    settings = PaintSettings(
        defects=tuple(DEFECTS if defects is None else defects),
        count=(1, 4),
        contrast=0.25,
        contrast_range=(0.06, 0.6),
        expanse_share=0,
    )
    kind = PRODUCTS.index(category)
    canvas = _product(category, size, _stream(seed, _PRODUCT, index, kind), None)
    found: tuple[Region, ...] = ()
    if defective:
        rng = _stream(seed, _DEFECT, index, kind)
        canvas, found = _damage(canvas, category, size, settings, rng, lambda: _stream(seed, _PRODUCT, index, kind))
    image = _photograph(canvas.image, _stream(seed, _CAMERA, index, kind))
    whole = canvas.silhouette > 0.5
    parts = (Region(name, mask) for name, mask in canvas.parts if mask.sum() < _ALL * whole.sum())
    objects = (Region(category, whole), *parts)
    return Scene(image, category, objects, found)


def _product(category: str, size: int, rng: np.random.Generator, missing: int | None) -> Canvas:
    canvas = Canvas(size, rng, missing=missing)
    background(canvas)
    _DRAW[category](canvas)
    _distract(canvas)
    return canvas


def _damage(
    canvas: Canvas,
    category: str,
    size: int,
    settings: PaintSettings,
    rng: np.random.Generator,
    again: Callable[[], np.random.Generator],
) -> tuple[Canvas, tuple[Region, ...]]:
    """Paint defects on a drawn product; a missing part is the product drawn once more without it."""
    found: list[Region] = []
    others = tuple(name for name in settings.defects if name != "missing_part")
    share = 1 - len(others) / len(settings.defects)
    odds = 0.42 ** np.arange(settings.count[1])
    count = 1 + int(rng.choice(len(odds), p=odds / odds.sum()))
    least = settings.min_area * size**2 / 256**2
    if rng.random() < share and canvas.slots:
        for _ in range(3):  # a part outside the frame cannot be missed
            bare = _product(category, size, again(), int(rng.integers(canvas.slots)))
            if bare.lost is not None and bare.lost.sum() >= 2 * least:
                canvas = bare
                found.append(Region("missing_part", bare.lost))
                break
    names = others or settings.defects  # a chip at the edge stands in where no part could be taken out
    left = count - len(found)
    if left > 0:
        allowed = canvas.silhouette > 0.5
        if found:
            allowed &= ~found[0].mask
        painted = replace(settings, defects=names)
        found += paint_on(canvas.image, rng=rng, settings=painted, foreground=allowed, light=canvas.light, count=left)
    if not found:  # nothing fitted: a small hole always does
        small = PaintSettings(defects=names, expanse_share=0, size=0.03, size_range=(0.015, 0.1), contrast=0.25)
        for _ in range(20):
            whole = canvas.silhouette > 0.5
            found += paint_on(canvas.image, rng=rng, settings=small, foreground=whole, light=canvas.light, count=1)
            if found:
                break
    return canvas, tuple(found)


def render_shapes(*, size: int, seed: int, index: int) -> Scene:
    """Render generic objects, overlapping, on a textured background; ``objects`` holds what is visible of each.

    Raises:
        UserError: the size is too small.
    """
    if size < _SMALLEST:
        raise UserError(f"size: {size} is too small; give {_SMALLEST} pixels or more")
    objects: list[tuple[str, np.ndarray]] = []
    canvas = Canvas(size, _stream(seed, _SHAPES, index))
    while not objects:
        objects = draw_shapes(canvas)
    rng = _stream(seed, _CAMERA, index, len(PRODUCTS))
    focus = float(rng.choice([0.3, 0.6, 1.2]))
    image = _photograph(canvas.image, rng, focus=focus, grey=0.25)
    return Scene(image, "shapes", tuple(Region(kind, mask) for kind, mask in objects), ())


def render_surface(rng: np.random.Generator, kind: int, *, size: int) -> np.ndarray:
    """A photograph of nothing but brushed metal, cast metal, wood or cloth (``kind`` 0 to 3); (size, size, 3) uint8."""
    angle = rng.uniform(0, np.pi)
    tone, texture = (
        lambda: ((0.5, 0.51, 0.53), 0.08 * textures.brushed(rng, size, size, angle)),
        lambda: ((0.42, 0.42, 0.43), 0.1 * textures.pitted(rng, size, size, 5)),
        lambda: ((0.66, 0.48, 0.3), 0.1 * textures.wood_grain(rng, size, size, angle, 13)),
        lambda: ((0.3, 0.37, 0.5), 0.13 * textures.weave(rng, size, size, angle, 4)),
    )[kind]()
    canvas = Canvas(size, rng)
    canvas.backdrop(tone, texture + 0.05 * textures.fractal(rng, size, size, 90))
    return _photograph(canvas.image, rng, grey=0.0)
