"""Defects that are no spots: uneven bands, worn tongues, broken corners, cracks across the whole part.

An outline fills a whole window: (rng, height, width) -> (height, width) float32 envelope in 0..1.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from datasets_builders.world import textures
from datasets_builders.world.defects import Surface, fracture_look, missing_look

Outline = Callable[[np.random.Generator, int, int], np.ndarray]
Look = Callable[[Surface], np.ndarray]


def _frame(rng: np.random.Generator, height: int, width: int, *, lean: float) -> tuple[np.ndarray, np.ndarray]:
    """Depth 0..1 away from a random side of the window and place -1..1 along it, turned by about ``lean`` radians."""
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :] + np.zeros((height, 1), np.float32)
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None] + np.zeros((1, width), np.float32)
    turn = np.float32(rng.integers(4) * np.pi / 2 + rng.normal(0, lean))
    depth = np.cos(turn) * x + np.sin(turn) * y
    return (depth + 1) / 2, np.cos(turn) * y - np.sin(turn) * x


def _edge(distance: np.ndarray, softness: float) -> np.ndarray:
    """Turn a signed distance (positive inside, in shares of the window) into an envelope."""
    alpha = np.clip(distance / np.float32(softness) + np.float32(0.5), 0, 1)
    return alpha * alpha * (3 - 2 * alpha)


def _softness(rng: np.random.Generator, height: int, width: int) -> float:
    """Mostly a sharp edge of a pixel or two, now and then a soft one."""
    return max(1.5 / min(height, width), 0.004 * rng.lognormal(0, 1.2))


def _shaken(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    cell = max(4.0, rng.uniform(0.08, 0.6) * min(height, width))
    return np.float32(0.02 * rng.lognormal(0, 0.5)) * textures.fractal(rng, height, width, cell, octaves=4)


def band(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """From one side up to a wavy line, or between two of them."""
    depth, along = _frame(rng, height, width, lean=0.06)
    wave = rng.normal(0, 0.03) * along * along + _shaken(rng, height, width)
    start = 0.0 if rng.random() < 0.55 else rng.uniform(0.15, 0.8)
    stop = start + float(np.clip(rng.lognormal(np.log(0.22), 0.6), 0.05, 0.6))
    soft = _softness(rng, height, width)
    inside = _edge(stop - depth + wave, soft)
    if start > 0:
        inside = inside * _edge(depth - start + _shaken(rng, height, width), soft)
    if rng.random() < 0.35:  # not over the whole length
        centre, half = rng.uniform(-0.5, 0.5), rng.uniform(0.3, 0.8)
        inside = inside * _edge((half - np.abs(along - np.float32(centre))) / 2 + wave, soft)
    return inside


def tongue(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A rounded or pointed region growing from one side inwards."""
    depth, along = _frame(rng, height, width, lean=0.12)
    reach = float(np.clip(rng.lognormal(np.log(0.4), 0.5), 0.08, 0.95))
    half = float(np.clip(reach * rng.uniform(0.25, 1.2), 0.06, 0.7))
    centre = rng.uniform(-0.8, 0.8)
    u = np.abs(along - np.float32(centre)) / np.float32(half)
    outline = np.float32(reach) * (1 - u ** np.float32(rng.uniform(1, 3)))
    return _edge(outline - depth + _shaken(rng, height, width), _softness(rng, height, width))


def patch(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A large rounded region anywhere."""
    x = np.linspace(0, 1, width, dtype=np.float32)[None, :] * np.float32(width / max(height, width))
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None] * np.float32(height / max(height, width))
    cx, cy = rng.uniform(0.1, 0.9) * x[0, -1], rng.uniform(0.1, 0.9) * y[-1, 0]
    radius = float(np.clip(rng.lognormal(np.log(0.16), 0.4), 0.07, 0.4))
    turn, aspect = rng.uniform(0, np.pi), rng.uniform(0.45, 1)
    u = np.float32(np.cos(turn)) * (x - cx) + np.float32(np.sin(turn)) * (y - cy)
    v = (np.float32(np.cos(turn)) * (y - cy) - np.float32(np.sin(turn)) * (x - cx)) / np.float32(aspect)
    return _edge(
        np.float32(radius) - np.sqrt(u * u + v * v) + _shaken(rng, height, width), _softness(rng, height, width)
    )


def corner(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A piece broken off at a side: shallow, with a curved or angular fracture line."""
    depth, along = _frame(rng, height, width, lean=0.25)
    half = float(np.clip(rng.lognormal(np.log(0.16), 0.6), 0.04, 0.6))
    reach = half * rng.uniform(0.2, 0.9) / 2 * 1.4
    centre = rng.choice([-1.0, 1.0]) if rng.random() < 0.35 else rng.uniform(-0.9, 0.9)
    u = np.abs(along - np.float32(centre)) / np.float32(half)
    outline = np.float32(reach) * (1 - u ** np.float32(rng.choice([1.0, 2.0, 3.0])))
    return _edge(outline - depth + 0.5 * _shaken(rng, height, width), _softness(rng, height, width))


def fissure(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A thin line from a side far into the part, or right through it."""
    depth, along = _frame(rng, height, width, lean=0.15)
    side = max(height, width)
    knots = rng.normal(0, 1, int(rng.integers(6, 24)))
    wander = np.cumsum(knots) * rng.uniform(0.01, 0.05) + rng.uniform(-0.8, 0.8)
    path = np.interp(np.linspace(0, 1, 512), np.linspace(0, 1, len(wander)), wander).astype(np.float32)
    path += np.float32(0.006) * cv2.GaussianBlur(rng.standard_normal((1, 512), dtype=np.float32), (0, 0), 3)[0] * 3
    away = np.abs(along - path[np.clip((depth * 511).astype(np.int32), 0, 511)]) * (side / 2)
    thin = max(0.5, side / 256 * 0.45 * rng.lognormal(0, 0.45))
    length = 2.0 if rng.random() < 0.25 else float(np.clip(rng.lognormal(np.log(0.3), 0.6), 0.08, 1.0))
    width_here = np.float32(thin) * np.clip((np.float32(length) - depth) / np.float32(min(length, 1.0)) * 1.6, 0, 1)
    return np.clip(width_here - away + np.float32(0.75), 0, 1) * (width_here > 0.15)


def uneven_look(s: Surface) -> np.ndarray:
    """The same surface finished differently: lighter or darker, its marks stronger or weaker, in places less so."""
    base = cv2.GaussianBlur(s.under, (0, 0), max(2.0, 6 * s.unit), borderType=cv2.BORDER_REFLECT)
    marks = s.under - base
    gain = np.float32(1 + (-1 if s.darker else 1) * s.rng.uniform(0.08, 0.3))
    target = base * gain + marks * np.float32(s.rng.choice([0.3, 0.7, 1.0, 1.6, 2.4]))
    if s.rng.random() < 0.4:
        drift = 0.75 + 0.3 * textures.value_noise(s.rng, *s.alpha.shape, *(0.7 * np.array(s.alpha.shape)))
        target = s.under + np.clip(drift, 0.3, 1.3)[..., None] * (target - s.under)
    return s.under + s.alpha[..., None] * (target - s.under)


def worn_look(s: Surface) -> np.ndarray:
    """Another material laid bare: the finish is gone, a fine grain is left, and the rim may catch the light."""
    base = cv2.GaussianBlur(s.under, (0, 0), max(3.0, 0.06 * max(s.alpha.shape)), borderType=cv2.BORDER_REFLECT)
    gain = np.float32(1 + (-1 if s.darker else 1) * s.rng.uniform(0.05, 0.4))
    noise = textures.fractal(s.rng, *s.alpha.shape, s.rng.uniform(1.5, 6) * s.unit, octaves=3, roughness=0.8)
    target = base * gain * (1 + np.float32(s.rng.uniform(0.02, 0.1)) * noise)[..., None]
    target += np.float32(s.rng.uniform(0, 0.6)) * (s.under - base)
    out = s.under + s.alpha[..., None] * (target - s.under)
    if s.rng.random() < 0.4:
        soft = cv2.GaussianBlur(s.alpha, (0, 0), 1.2 * s.unit)
        rim = np.clip(soft * (1 - soft) * 4 - 0.2, 0, 1) * np.clip(
            textures.value_noise(s.rng, *s.alpha.shape, 12 * s.unit, 12 * s.unit), 0, 1
        )
        out = out * (1 + s.rng.choice([-0.3, 0.5]) * rim * (s.alpha > 0.2))[..., None]
    return out


def fissure_look(s: Surface) -> np.ndarray:
    return s.under + (s.alpha * np.float32(0.9))[..., None] * (s.under * np.float32(0.3 if s.darker else 1.6) - s.under)


# name of the defect type -> outlines, looks, typical contrast as a share of the settings' contrast
EXPANSES: dict[str, tuple[tuple[Outline, ...], tuple[Look, ...], float]] = {
    "discolouration": ((band, band, patch), (uneven_look,), 0.45),
    "stain": ((patch, tongue, band), (uneven_look, worn_look), 0.6),
    "burr": ((tongue, tongue, patch), (worn_look, fracture_look), 0.6),
    "missing_part": ((corner,), (missing_look, worn_look, worn_look, fracture_look), 1.0),
    "crack": ((fissure,), (fissure_look,), 1.0),
}
