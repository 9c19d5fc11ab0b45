"""The synthetic world: a picture by (category, seed, index), with exact masks of its objects and its defects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from datasets_builders.world import products_boards, products_long, products_round
from datasets_builders.world.backgrounds import background
from datasets_builders.world.camera import photograph
from datasets_builders.world.canvas import Canvas
from datasets_builders.world.defects import DEFECTS
from datasets_builders.world.distractors import distract
from datasets_builders.world.painter import PaintSettings, Region, paint_on
from datasets_builders.world.shapes import draw_shapes
from visionsam_hf.errors import UserError

__all__ = ["DEFECTS", "PRODUCTS", "Region", "Scene", "render_product", "render_shapes"]

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
    image = photograph(canvas.image, _stream(seed, _CAMERA, index, kind))
    whole = canvas.silhouette > 0.5
    parts = (Region(name, mask) for name, mask in canvas.parts if mask.sum() < _ALL * whole.sum())
    objects = (Region(category, whole), *parts)
    return Scene(image, category, objects, found)


def _product(category: str, size: int, rng: np.random.Generator, missing: int | None) -> Canvas:
    canvas = Canvas(size, rng, missing=missing)
    background(canvas)
    _DRAW[category](canvas)
    distract(canvas)
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
            found += paint_on(
                canvas.image, rng=rng, settings=small, foreground=canvas.silhouette > 0.5, light=canvas.light, count=1
            )
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
    image = photograph(canvas.image, rng, focus=focus, grey=0.25)
    return Scene(image, "shapes", tuple(Region(kind, mask) for kind, mask in objects), ())
