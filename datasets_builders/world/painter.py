"""Paints defects on photographs: where, how large, how strong, and the exact mask of what changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from datasets_builders.world.defects import (
    BLEMISHES,
    DEFECTS,
    EXPANSES,
    KINDS,
    Kind,
    Look,
    Outline,
    Surface,
    photograph_expanses,
    photograph_kinds,
    texture_direction,
)
from visionsam_hf.data.errors import UserError

_CLEAR = 2.5  # an outline that is less steep than so many times the rest is a guess
_SIDE = 512


def estimate_foreground(image: np.ndarray) -> np.ndarray:
    """A guess at where the product is, for photographs on a plain background.

    The background is what resembles the border of the photograph. The whole photograph counts as product where that
    is most of it, or almost none, or where no edge parts the two: shading across a part is no background.

    Args:
        image: (H, W, 3) uint8 RGB.

    Returns:
        (H, W) bool.
    """
    height, width = image.shape[:2]
    if max(height, width) > _SIDE:  # an outline needs no more, and blurring a large photograph takes seconds
        scale = _SIDE / max(height, width)
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        guess = estimate_foreground(small).astype(np.uint8)
        return cv2.resize(guess, (width, height), interpolation=cv2.INTER_NEAREST) > 0
    smooth = cv2.GaussianBlur(image, (0, 0), max(1.0, max(height, width) / 200))
    lab = cv2.cvtColor(smooth, cv2.COLOR_RGB2LAB).astype(np.float32)
    band = max(1, min(height, width) // 40)
    sides = (lab[:band], lab[-band:], lab[:, :band], lab[:, -band:])
    border = np.concatenate([side.reshape(-1, 3) for side in sides])
    middle = np.median(border, 0)
    spread = np.median(np.abs(border - middle), 0) * 1.5 + 2
    distance = np.sqrt((((lab - middle) / spread) ** 2).mean(2))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * band + 1, 2 * band + 1))
    mask = cv2.morphologyEx((distance > 3).astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, kernel)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
    if count <= 1:
        return np.ones((height, width), bool)
    best = labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    outline, _ = cv2.findContours(best.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros((height, width), np.uint8)
    cv2.drawContours(filled, outline, -1, 1, -1)
    if not 0.03 < filled.mean() < 0.9 or _outline_strength(image, filled, band) < _CLEAR:
        return np.ones((height, width), bool)
    return filled.astype(bool)


def _outline_strength(image: np.ndarray, mask: np.ndarray, band: int) -> float:
    """How much steeper the picture is along the mask's outline than elsewhere; 1 for an outline out of nothing."""
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 2)
    steep = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    kernel = np.ones((5, 5), np.uint8)
    edge = cv2.dilate(mask, kernel) != cv2.erode(mask, kernel)
    edge[:band] = edge[-band:] = edge[:, :band] = edge[:, -band:] = False
    return float(steep[edge].mean()) / (float(np.median(steep)) + 0.1) if edge.any() else 0.0


@dataclass(frozen=True)
class Region:
    """One thing with an exact mask, (H, W) bool and never empty; ``kind``: a product, part, shape or defect type."""

    kind: str
    mask: np.ndarray


@dataclass(frozen=True)
class Palette:
    """How each defect type is made: ``kinds`` of limited size, ``expanses`` over a whole part."""

    kinds: Mapping[str, Kind]
    expanses: Mapping[str, tuple[tuple[Outline, ...], tuple[Look, ...], float]]


ALL_DEFECTS = DEFECTS + BLEMISHES
_ANYWHERE = Palette(KINDS, EXPANSES)


@dataclass(frozen=True)
class PaintSettings:
    """How many defects, of which types, how large and how strong.

    Sizes are fractions of the longer side of the image, contrasts are mean changes of brightness or colour (0 to 1).
    Both are log-normal around their typical value and clipped to their range: most are small and faint, few large.
    """

    defects: Sequence[str] = DEFECTS
    count: tuple[int, int] = (1, 3)  # fewest and most; one is likelier than two, two than three
    size: float = 0.075
    size_spread: float = 0.65
    size_range: tuple[float, float] = (0.012, 0.4)
    contrast: float = 0.17
    contrast_spread: float = 0.5
    contrast_range: tuple[float, float] = (0.05, 0.6)
    expanse_share: float = 0.5  # how often a type that can spreads over the part (bands, broken corners), no spot
    margin: float = 0.0  # without a foreground: keep this share of the shorter side free along the border
    min_area: float = 6.0  # smallest mask in pixels of a 256-pixel image; grows with the image's area

    def __post_init__(self) -> None:
        unknown = [name for name in self.defects if name not in ALL_DEFECTS]
        if unknown or not self.defects:
            raise UserError(
                f"defects: {unknown or 'an empty list'} is not a defect type; choose from {', '.join(ALL_DEFECTS)}"
            )
        for name in ("size_range", "contrast_range", "count"):
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                raise UserError(f"{name}: [{low}, {high}] is not a range; give the smaller number first")


def paint_defects(
    image: np.ndarray, *, rng: np.random.Generator, settings: PaintSettings, foreground: np.ndarray | None = None
) -> tuple[np.ndarray, tuple[Region, ...]]:
    """Paint defects on a defect-free photograph.

    Args:
        image: (H, W, 3) uint8 RGB, of any size; a grey photograph repeated over the channels stays grey.
        rng: the source of all chance.
        settings: how many, which, how large, how strong.
        foreground: (H, W) bool, where defects may lie; None allows everything but a margin.

    Returns:
        A painted copy, (H, W, 3) uint8, and one region a defect. No region where nothing could be placed
        (a foreground smaller than the smallest defect).
    """
    height, width = image.shape[:2]
    if foreground is None:
        margin = int(round(settings.margin * min(height, width)))
        foreground = np.zeros((height, width), bool)
        foreground[margin : height - margin, margin : width - margin] = True
    canvas = image.astype(np.float32) / 255
    grain = texture_direction(image)
    palette = Palette(KINDS | photograph_kinds(grain), EXPANSES | photograph_expanses(grain))
    regions = paint_on(canvas, rng=rng, settings=settings, foreground=foreground, palette=palette)
    return np.round(np.clip(canvas, 0, 1) * 255).astype(np.uint8), regions


def paint_on(
    canvas: np.ndarray,
    *,
    rng: np.random.Generator,
    settings: PaintSettings,
    foreground: np.ndarray,
    light: np.ndarray | None = None,
    count: int | None = None,
    palette: Palette = _ANYWHERE,
) -> tuple[Region, ...]:
    """Paint on a (H, W, 3) float32 image in 0..1, in place. Returns one region a defect, as ``paint_defects`` does.

    The palette must hold every type of the settings; by default those that need no photograph.
    """
    low, high = settings.count
    if count is None:
        odds = 0.42 ** np.arange(high - low + 1)
        count = low + int(rng.choice(high - low + 1, p=odds / odds.sum()))
    if light is None:
        angle = rng.uniform(0, 2 * np.pi)
        light = np.array([np.cos(angle), np.sin(angle)], np.float32)
    places = _Places(foreground)
    if not places.inside.size:
        return ()
    sample = canvas[::7, ::7]
    grey = bool((sample.max(2) - sample.min(2)).max() < 0.012)
    scene = _Scene(canvas, places, np.zeros(foreground.shape, bool), light, grey, palette)
    regions = []
    for _ in range(count):
        name = settings.defects[rng.integers(len(settings.defects))]
        for attempt in range(8):  # a place may be too tight for the shape: try others, then smaller ones
            region = _paint_one(scene, name, rng, settings, shrink=0.85**attempt)
            if region is not None:
                regions.append(region)
                break
    return tuple(regions)


class _Places:
    """Where defects may lie: pixels inside the foreground and pixels on its border, as flat indices."""

    def __init__(self, foreground: np.ndarray):
        self.shape = foreground.shape
        self.foreground = foreground.astype(np.uint8)
        self.soft = self.foreground.astype(np.float32)
        self.inside = np.flatnonzero(foreground)
        if self.inside.size:
            x, y, w, h = cv2.boundingRect(self.foreground)
            self.box = (y, x, h, w)
        inner = cv2.erode(self.foreground, np.ones((3, 3), np.uint8), borderValue=0)
        self.edge = np.flatnonzero(self.foreground - inner)

    def draw(self, rng: np.random.Generator, *, at_edge: bool) -> tuple[int, int]:
        pool = self.edge if at_edge and self.edge.size else self.inside
        return divmod(int(pool[rng.integers(pool.size)]), self.shape[1])


def _long_tailed(
    rng: np.random.Generator, typical: float, spread: float, limits: tuple[float, float], factor: float
) -> float:
    return float(np.clip(typical * factor * rng.lognormal(0, spread), *limits))


@dataclass(frozen=True)
class _Scene:
    """What is painted on; ``canvas`` and ``taken`` (the pixels that are defects already) change as it goes."""

    canvas: np.ndarray
    places: _Places
    taken: np.ndarray
    light: np.ndarray
    grey: bool
    palette: Palette


def _spot(
    kind: Kind, rng: np.random.Generator, settings: PaintSettings, places: _Places, shrink: float
) -> tuple[np.ndarray, tuple[slice, slice], float] | None:
    """A defect of limited size: its envelope within the image, its window, its extent; None where it does not fit."""
    height, width = places.shape
    unit = fine_unit(height, width)
    share = _long_tailed(rng, settings.size, settings.size_spread, settings.size_range, kind.scale)
    extent = max(height, width) * share
    alpha = kind.shape(rng, max(extent * shrink, 2.5 * unit), unit)
    at_edge = bool(rng.random() < kind.at_edge)
    y, x = places.draw(rng, at_edge=at_edge)
    h, w = alpha.shape
    top, left = y - h // 2, x - w // 2
    y0, x0, y1, x1 = max(0, top), max(0, left), min(height, top + h), min(width, left + w)
    whole = float((alpha > 0.4).sum())
    alpha = alpha[y0 - top : y1 - top, x0 - left : x1 - left] * places.soft[y0:y1, x0:x1]
    if (alpha > 0.4).sum() < (0.25 if at_edge else 0.6) * whole:
        return None
    return alpha, np.s_[y0:y1, x0:x1], extent


def _expanse(
    outlines: Sequence[Outline], rng: np.random.Generator, places: _Places
) -> tuple[np.ndarray, tuple[slice, slice], float] | None:
    """A defect that spreads over the part: as ``_spot``; None where it covers nearly all of the part."""
    y, x, h, w = places.box
    window = np.s_[y : y + h, x : x + w]
    alpha = outlines[rng.integers(len(outlines))](rng, h, w) * places.soft[window]
    rows, columns = (np.flatnonzero((alpha > 0.02).any(axis)) for axis in (1, 0))
    if not rows.size or (alpha > 0.4).sum() > 0.7 * places.inside.size:
        return None
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    crop = np.ascontiguousarray(alpha[top:bottom, left:right])
    return crop, np.s_[y + top : y + bottom, x + left : x + right], float(max(crop.shape))


def fine_unit(height: int, width: int) -> float:
    """Thickness in pixels of a fine line: 1 in a 256-pixel image, growing a little slower than the image."""
    return float((max(height, width) / 256) ** 0.8)


def _paint_one(
    scene: _Scene, name: str, rng: np.random.Generator, settings: PaintSettings, shrink: float
) -> Region | None:
    """Paint one defect in place, or change nothing and return None where it does not fit."""
    canvas, places, taken = scene.canvas, scene.places, scene.taken
    kind, expanse = scene.palette.kinds[name], scene.palette.expanses.get(name)
    height, width = places.shape
    least = settings.min_area * (height * width) / 256**2
    looks, typical, solid = kind.looks, kind.contrast, kind.solid
    spreads = expanse is not None and settings.expanse_share > 0 and rng.random() < settings.expanse_share
    if spreads and expanse is not None:
        found = _expanse(expanse[0], rng, places)
        looks, typical, solid = expanse[1], expanse[2], name != "crack"
    else:
        found = _spot(kind, rng, settings, places, shrink)
    if found is None:
        return None
    alpha, window, extent = found
    if (alpha > 0.4).sum() < least or min(alpha.shape) < 3 or taken[window][alpha > 0.4].any():
        return None
    under = canvas[window].copy()
    brightness = float(under[alpha > 0.4].mean())
    odds = float(brightness >= 0.85)
    if 0.12 < brightness < 0.85:
        odds = np.clip(kind.darker + (brightness - 0.4) * 0.5, 0, 1)
    h, w = alpha.shape
    sy, sx = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
    elsewhere = canvas[sy : sy + h, sx : sx + w][:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]
    darker, unit = bool(rng.random() < odds), fine_unit(height, width)
    surface = Surface(under, alpha, elsewhere, rng, scene.light, darker, scene.grey, unit)
    change = looks[rng.integers(len(looks))](surface) - under
    if scene.grey:
        change = np.repeat(change.mean(2, keepdims=True), 3, 2)
    change *= places.soft[window][..., None]
    wanted = _long_tailed(rng, settings.contrast, settings.contrast_spread, settings.contrast_range, typical)
    wanted *= float(np.clip(0.4 + brightness, 0.5, 1.1))  # the same damage changes a dark surface less
    # And the eye needs less of it where it is large.
    wanted *= float(np.clip((0.08 * max(height, width) / extent) ** 0.35, 0.45, 1.2))
    wanted = max(wanted, settings.contrast_range[0])
    if spreads:  # a region must stand out from the texture that it lies on
        wanted = max(wanted, min(0.4 * float(under[alpha > 0.4].std()), settings.contrast_range[1]))
    if name in BLEMISHES and darker:  # a photograph is seldom darkened to nothing
        wanted = min(wanted, 0.7 * brightness)
    change = _scaled(change, under, alpha, wanted)
    reach = max(3, min(min(alpha.shape) // 2, 31)) if solid else 3
    seen = cv2.blur(np.abs(change).max(2), (reach, reach))
    mask = (alpha > 0.4) & (seen > 0.3 * wanted)
    if mask.sum() < max(least, 0.3 * (alpha > 0.4).sum()):
        return None
    canvas[window] = under + change
    taken[window] |= mask
    full = np.zeros(places.shape, bool)
    full[window] = mask
    return Region(name, full)


def _scaled(change: np.ndarray, under: np.ndarray, alpha: np.ndarray, wanted: float) -> np.ndarray:
    """Scale a change so that its mean size inside the envelope is ``wanted``, within what 0..1 leaves room for."""
    inside = alpha > 0.4
    for _ in range(2):
        actual = float(np.abs(change).max(2)[inside].mean())
        change = change * np.float32(np.clip(wanted / max(actual, 1e-4), 0.15, 4.0))
        change = np.clip(under + change, 0, 1) - under
    return change
