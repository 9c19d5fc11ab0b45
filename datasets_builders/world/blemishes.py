"""Defect types that need a photograph: they follow its texture, break from its borders or change its finish.

The ten types of ``defects`` could happen to anything; these six copy what inspection photographs of machined and cast
surfaces show. A shape is an envelope, a look a damaged surface, as in ``defects``; an outline fills a window, as in
``expanses``. Each also takes the direction of the photograph's texture.
"""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np

from datasets_builders.world import textures
from datasets_builders.world.defects import (
    Kind,
    Surface,
    blob,
    chip_shape,
    core,
    crack_look,
    drawn,
    smeared,
    taper,
    walk,
)
from datasets_builders.world.expanses import Look, Outline, band, patch, tongue

BLEMISHES = ("chip", "breakout", "uneven", "fray", "hairline", "pore")
_COHERENT = 0.12  # below it a texture has no direction: a die or a sandblasted face


def texture_direction(image: np.ndarray) -> float | None:
    """The direction that most edges of a photograph run along: grain, brush marks, threads.

    Args:
        image: (H, W, 3) uint8 RGB.

    Returns:
        Radians from the x axis in 0..pi, or None where no direction prevails.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    side = max(grey.shape)
    if side > 512:
        grey = cv2.resize(grey, None, fx=512 / side, fy=512 / side, interpolation=cv2.INTER_AREA)
    fine = cv2.GaussianBlur(grey, (0, 0), 1.0)
    dx, dy = cv2.Sobel(fine, cv2.CV_32F, 1, 0), cv2.Sobel(fine, cv2.CV_32F, 0, 1)
    # An outline of the part is not its texture: a strong edge may count no more than a typical one.
    limit = 3 * float(np.median(np.hypot(dx, dy))) + 1e-3
    damp = limit / np.maximum(np.hypot(dx, dy), limit)
    dx, dy = dx * damp, dy * damp
    xx, yy, xy = float((dx * dx).mean()), float((dy * dy).mean()), float((dx * dy).mean())
    if np.hypot(xx - yy, 2 * xy) < _COHERENT * (xx + yy) + 1e-6:
        return None
    return float((0.5 * np.arctan2(2 * xy, xx - yy) + np.pi / 2) % np.pi)


# shapes: (rng, extent, unit, grain) -> envelope


def pore_shape(rng: np.random.Generator, extent: float, unit: float) -> np.ndarray:
    """A gas hole: round and smooth, or torn and long."""
    if rng.random() < 0.7:
        return blob(rng, extent, aspect=rng.uniform(0.6, 1), rough=rng.uniform(0, 0.3), edge=rng.uniform(0.2, 0.7))
    return blob(rng, extent * 1.3, aspect=rng.uniform(0.25, 0.6), rough=rng.uniform(0.5, 1.2), edge=0.25, cell=0.2)


def shell_shape(rng: np.random.Generator, extent: float, unit: float) -> np.ndarray:
    """One to four scallops side by side, as brittle material flakes."""
    if rng.random() < 0.3:
        return chip_shape(rng, extent, unit)
    side = int(np.ceil(extent * 1.3)) + 6
    x = np.arange(side, dtype=np.float32)[None, :] - side / 2
    y = np.arange(side, dtype=np.float32)[:, None] - side / 2
    angle, aspect = rng.uniform(0, np.pi), rng.uniform(0.35, 1)
    inside = np.full((side, side), -1, np.float32)
    count = int(rng.integers(1, 5))
    for place in np.linspace(-0.5, 0.5, count) if count > 1 else (0.0,):
        cx, cy = place * 0.6 * extent * np.array([np.cos(angle), np.sin(angle)]) + rng.normal(0, 0.05 * extent, 2)
        u = np.cos(angle) * (x - cx) + np.sin(angle) * (y - cy)
        v = (np.cos(angle) * (y - cy) - np.sin(angle) * (x - cx)) / aspect
        radius = extent * rng.uniform(0.28, 0.5) / (1 + 0.25 * (count - 1))
        inside = np.maximum(inside, 1 - np.sqrt(u * u + v * v).astype(np.float32) / np.float32(radius))
    inside += 0.1 * textures.fractal(rng, side, side, max(2.0, 0.15 * extent), octaves=3, roughness=0.65)
    return core(np.clip(inside * np.float32(extent / (4 * max(1.0, 0.6 * unit))) + 0.5, 0, 1))


def fray_shape(rng: np.random.Generator, extent: float, unit: float, *, grain: float | None) -> np.ndarray:
    """A smooth island where the finish did not take, or a crumbled one that runs out along the grain."""
    if rng.random() < 0.5:
        return blob(rng, extent, aspect=rng.uniform(0.45, 1), rough=rng.uniform(0.05, 0.5), edge=0.04, cell=0.8)
    side = int(np.ceil(extent * 1.2)) + 6
    turn = rng.uniform(0, np.pi) if grain is None else grain + rng.normal(0, 0.1)
    x = np.arange(side, dtype=np.float32)[None, :] - side / 2
    y = np.arange(side, dtype=np.float32)[:, None] - side / 2
    u, v = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    away = np.sqrt(u * u + (v / rng.uniform(0.3, 0.9)) ** 2).astype(np.float32) / np.float32(extent / 2)
    streaks = textures.brushed(rng, side, side, -turn, streak=max(6.0, 0.35 * extent))
    field = 0.75 - away + rng.uniform(0.15, 0.35) * streaks
    return core(np.clip(field * np.float32(6) + 0.5, 0, 1).astype(np.float32))


def zone_shape(rng: np.random.Generator, extent: float, unit: float) -> np.ndarray:
    """A large zone with a soft or a sharp outline."""
    return blob(
        rng, extent, aspect=rng.uniform(0.3, 1), rough=rng.uniform(0, 0.6), edge=rng.choice([0.03, 0.3]), cell=0.6
    )


def hairline_shape(rng: np.random.Generator, extent: float, unit: float, *, grain: float | None) -> np.ndarray:
    """A fine crack: nearly straight along or across the grain, shaking a little, now and then forked."""
    step = max(1.5, min(3 * unit, extent / 10))
    heading = rng.uniform(0, 2 * np.pi)
    if grain is not None and rng.random() < 0.8:
        heading = grain + rng.choice([0, 0, 1, 1, 1, 2, 3]) * np.pi / 2 + rng.normal(0, 0.08)
    width = unit * float(np.clip(rng.lognormal(0.55, 0.4), 0.9, 5))

    def path(length: float, towards: float) -> np.ndarray:
        points = walk(rng, length, step, bend=0.03, jitter=0.35)
        course = np.arctan2(*(points[-1] - points[0])[::-1])
        c, s = np.cos(towards - course), np.sin(towards - course)
        return points @ np.array([[c, s], [-s, c]])

    main = path(extent, heading)
    paths = [(main, taper(rng, len(main) - 1, width))]
    for _ in range(rng.choice(3, p=[0.6, 0.3, 0.1])):
        twig = path(extent * rng.uniform(0.1, 0.3), heading + rng.choice([-1, 1]) * rng.uniform(0.3, 0.9))
        paths.append((twig + main[rng.integers(len(main))], taper(rng, len(twig) - 1, 0.7 * width)))
    alpha = drawn(paths, unit)
    return np.clip(cv2.GaussianBlur(alpha, (0, 0), 0.5 * unit) * 1.4, 0, 1)


# looks: (Surface) -> the damaged surface


def _bare(s: Surface, sigma: float) -> np.ndarray:
    """The surface without its marks, but with the camera's noise: a floor without any looks pasted in."""
    noise = s.under - cv2.GaussianBlur(s.under, (0, 0), 0.8, borderType=cv2.BORDER_REFLECT)
    return smeared(s, sigma) + np.float32(s.rng.uniform(0.3, 0.9)) * noise


def pore_look(s: Surface) -> np.ndarray:
    """A hollow: its floor takes little light, its far rim catches some."""
    base = _bare(s, 0.15 * max(s.alpha.shape))
    floor = base * np.float32(s.rng.uniform(0.3, 0.65) if s.darker else s.rng.uniform(1.4, 1.9))
    floor = floor * (1 + 0.06 * textures.fractal(s.rng, *s.alpha.shape, 3 * s.unit))[..., None]
    out = s.under + s.alpha[..., None] * (floor - s.under)
    slope = cv2.Sobel(s.alpha, cv2.CV_32F, 1, 0) * s.light[0] + cv2.Sobel(s.alpha, cv2.CV_32F, 0, 1) * s.light[1]
    rim = np.clip(slope if s.darker else -slope, 0, None)
    rim = rim / (float(rim.max()) + 1e-6) * s.rng.choice([0.0, 0.0, 0.3, 0.6])
    return out * (1 + rim)[..., None]


def shell_look(s: Surface) -> np.ndarray:
    """Flaked material: smooth hollows with faint ripples, a step to the surface, a fresh edge in places."""
    base = _bare(s, 0.1 * max(s.alpha.shape))
    h, w = s.alpha.shape
    cx, cy = s.rng.uniform(-0.2, 1.2) * w, s.rng.uniform(-0.2, 1.2) * h
    x, y = np.arange(w, dtype=np.float32)[None, :] - cx, np.arange(h, dtype=np.float32)[:, None] - cy
    ripple = np.sin(np.sqrt(x * x + y * y) / np.float32(max(2.0 * s.unit, s.rng.uniform(0.03, 0.1) * max(h, w))))
    rough = textures.fractal(s.rng, h, w, s.rng.uniform(5, 12) * s.unit, octaves=3, roughness=0.6)
    gain = np.float32(s.rng.uniform(0.35, 0.8) if s.darker else s.rng.uniform(1.15, 1.6))
    relief = s.rng.uniform(0.02, 0.1) * ripple + s.rng.uniform(0.03, 0.12) * rough
    out = s.under + s.alpha[..., None] * (base * gain * (1 + relief)[..., None] - s.under)
    return _stepped(s, out)


def broken_look(s: Surface) -> np.ndarray:
    """Broken-out material: a rough floor below the surface, in its own light and shade."""
    base = _bare(s, 0.12 * max(s.alpha.shape))
    rough = textures.fractal(s.rng, *s.alpha.shape, s.rng.uniform(4, 14) * s.unit, roughness=0.7)
    shift = np.float32([[1, 0, 1.5 * s.unit * s.light[0]], [0, 1, 1.5 * s.unit * s.light[1]]])
    lit = rough - cv2.warpAffine(rough, shift, s.alpha.shape[::-1], borderMode=cv2.BORDER_REFLECT)
    gain = np.float32(s.rng.uniform(0.4, 0.8) if s.darker else s.rng.uniform(1.1, 1.5))
    floor = base * gain * (1 + s.rng.uniform(0.05, 0.15) * rough + s.rng.uniform(0.1, 0.25) * lit)[..., None]
    return _stepped(s, s.under + s.alpha[..., None] * (floor - s.under))


def _stepped(s: Surface, out: np.ndarray) -> np.ndarray:
    """The step down from the surface: in shade towards the light, bright opposite, never all the way round."""
    deep = cv2.GaussianBlur(s.alpha, (0, 0), max(0.8, 1.2 * s.unit))
    slope = cv2.Sobel(deep, cv2.CV_32F, 1, 0) * s.light[0] + cv2.Sobel(deep, cv2.CV_32F, 0, 1) * s.light[1]
    slope /= float(np.abs(slope).max()) + 1e-6
    partly = np.clip(0.6 + 0.6 * textures.value_noise(s.rng, *s.alpha.shape, 14 * s.unit, 14 * s.unit), 0, 1)
    return out * (1 + s.rng.uniform(0.1, 0.5) * partly * np.where(slope > 0, -0.7 * slope, -slope) * s.alpha)[..., None]


def unfinished_look(s: Surface) -> np.ndarray:
    """The finish is missing: the marks of machining are gone or weak, the bare material has a fine grain."""
    base = smeared(s, max(3 * s.unit, 0.04 * max(s.alpha.shape)))
    gain = np.float32(s.rng.uniform(0.6, 0.92) if s.darker else s.rng.uniform(1.08, 1.35))
    fine = s.rng.uniform(0.01, 0.05) * textures.fractal(s.rng, *s.alpha.shape, 2 * s.unit, octaves=2)
    target = base * gain * (1 + fine)[..., None] + np.float32(s.rng.uniform(0, 0.45)) * (s.under - base)
    return s.under + s.alpha[..., None] * (target - s.under)


def streaked_look(s: Surface, *, grain: float | None) -> np.ndarray:
    """Finished otherwise: marks along the grain stronger or weaker, a little lighter or darker as a whole."""
    base = smeared(s, max(2.0, 5 * s.unit))
    marks = s.under - base
    turn = s.rng.uniform(0, np.pi) if grain is None else grain
    gain = np.float32(1 + (-1 if s.darker else 1) * s.rng.uniform(0.02, 0.2))
    target = base * gain
    if s.rng.random() < 0.65:
        streaks = textures.brushed(s.rng, *s.alpha.shape, -turn, streak=s.rng.uniform(60, 400) * s.unit)
        level = float(marks.std()) * s.rng.uniform(0.5, 1.6) + 0.004
        target = target + marks + (level * np.clip(streaks, -1.5, 3))[..., None]
    else:
        target = target + np.float32(s.rng.choice([0.3, 0.5, 1.8])) * marks
    return s.under + s.alpha[..., None] * (target - s.under)


# outlines: (rng, height, width) -> envelope over a whole window


def sheet(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """One side of a straight line across the part, at any slant."""
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    turn = np.float32(rng.choice([0, 1, 2, 3]) * np.pi / 2 + rng.normal(0, rng.choice([0.03, 0.35])))
    wave = rng.normal(0, 0.03) * textures.value_noise(rng, height, width, 0.5 * height, 0.5 * width)
    away = np.cos(turn) * x + np.sin(turn) * y + wave - np.float32(rng.uniform(-0.1, 0.8))
    soft = max(2.0 / min(height, width), 0.01 * rng.lognormal(0, 1.2))
    alpha = np.clip(away / np.float32(soft) + 0.5, 0, 1)
    return alpha * alpha * (3 - 2 * alpha)


def photograph_kinds(grain: float | None) -> dict[str, Kind]:
    """How each blemish is made on a photograph whose texture runs along ``grain`` (radians, or None)."""
    return {
        "chip": Kind(shell_shape, (shell_look, shell_look, broken_look), 2.2, 1.0, 0.88, at_edge=0.9, solid=True),
        "breakout": Kind(shell_shape, (broken_look, shell_look), 2.8, 0.9, 0.85, at_edge=0.45, solid=True),
        "uneven": Kind(zone_shape, (partial(streaked_look, grain=grain),), 5.0, 0.5, 0.5, at_edge=0.5, solid=True),
        "fray": Kind(partial(fray_shape, grain=grain), (unfinished_look,), 3.0, 0.7, 0.75, at_edge=0.4, solid=True),
        "hairline": Kind(partial(hairline_shape, grain=grain), (crack_look,), 4.5, 1.1, 0.95, at_edge=0.75),
        "pore": Kind(pore_shape, (pore_look,), 0.6, 1.25, 0.92, solid=True),
    }


def photograph_expanses(grain: float | None) -> dict[str, tuple[tuple[Outline, ...], tuple[Look, ...], float]]:
    """The blemishes that spread over a part: outlines, looks and typical contrast, as ``expanses.EXPANSES``."""
    return {
        "uneven": ((sheet, sheet, sheet, band, patch), (partial(streaked_look, grain=grain),), 0.35),
        "fray": ((tongue, patch), (unfinished_look,), 0.55),
    }
