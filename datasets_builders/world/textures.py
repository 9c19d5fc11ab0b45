"""Procedural surface textures: zero-mean float32 fields of about unit spread, meant to modulate brightness.

Beside them the one operator of light and shade: how a field slopes towards a lamp.
"""

from functools import lru_cache

import cv2
import numpy as np


def value_noise(rng: np.random.Generator, height: int, width: int, cell_y: float, cell_x: float) -> np.ndarray:
    """Smooth random field whose features are about ``cell_y`` by ``cell_x`` pixels.

    Returns:
        (height, width) float32, mean near 0, standard deviation near 1.
    """
    rows = max(2, int(np.ceil(height / cell_y)) + 1)
    columns = max(2, int(np.ceil(width / cell_x)) + 1)
    grid = grain(rng, min(rows, height + 1), min(columns, width + 1))
    smooth = cv2.INTER_CUBIC if max(cell_x, cell_y) > 2 else cv2.INTER_LINEAR
    return cv2.resize(grid, (width, height), interpolation=smooth)


def fractal(
    rng: np.random.Generator, height: int, width: int, cell: float, *, octaves: int = 4, roughness: float = 0.55
) -> np.ndarray:
    """Sum of value noises, each octave half the cell and ``roughness`` times the weight of the one before.

    Returns:
        (height, width) float32, mean near 0, standard deviation near 1.
    """
    grids: list[tuple[int, int]] = []
    while len(grids) < octaves and (cell >= 1.0 or not grids):
        grids.append((min(height, max(2, int(height / cell) + 2)), min(width, max(2, int(width / cell) + 2))))
        cell /= 2
    total, weight = np.zeros(grids[0], np.float32), 1.0
    for grid in grids:  # each octave is added on the coarsest grid that can hold it; only the sum is enlarged
        if total.shape != grid:
            total = cv2.resize(total, grid[::-1], interpolation=cv2.INTER_CUBIC)
        total += np.float32(weight) * rng.standard_normal(grid, dtype=np.float32)
        weight *= roughness
    total *= np.float32(np.sqrt((1 - roughness**2) / (1 - roughness ** (2 * len(grids)))))
    return cv2.resize(total, (width, height), interpolation=cv2.INTER_CUBIC)


_POOL = 768


@lru_cache(maxsize=1)
def _pool() -> np.ndarray:
    """White noise to cut pieces from: drawing it afresh would cost more than anything else in a picture."""
    return np.random.default_rng(20).standard_normal((_POOL, _POOL), dtype=np.float32)


def grain(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """White noise of one pixel. Returns (height, width) float32."""
    if max(height, width) > _POOL - 128:
        return rng.standard_normal((height, width), dtype=np.float32)
    y, x = rng.integers(_POOL - height), rng.integers(_POOL - width)
    return _pool()[y : y + height, x : x + width] * np.float32(rng.choice([-1, 1]))


def _rotated(field: np.ndarray, height: int, width: int, angle: float) -> np.ndarray:
    matrix = cv2.getRotationMatrix2D((field.shape[1] / 2, field.shape[0] / 2), np.degrees(angle), 1.0)
    matrix[:, 2] += (width - field.shape[1]) / 2, (height - field.shape[0]) / 2
    return cv2.warpAffine(field, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def brushed(rng: np.random.Generator, height: int, width: int, angle: float, *, streak: float = 40.0) -> np.ndarray:
    """Brushed metal: streaks ``streak`` pixels long along ``angle`` (radians). Returns (height, width) float32."""
    side = int(np.ceil(np.hypot(height, width)))
    field = value_noise(rng, side, side, 1.0, streak) * 0.7 + value_noise(rng, side, side, 3.0, streak * 3) * 0.6
    return _rotated(field, height, width, angle)


def wood_grain(rng: np.random.Generator, height: int, width: int, angle: float, ring: float) -> np.ndarray:
    """Wood: wavy year rings about ``ring`` pixels wide, with pores along them. Returns (height, width) float32."""
    side = int(np.ceil(np.hypot(height, width)))
    across = np.arange(side, dtype=np.float32)[:, None] / ring
    wave = value_noise(rng, side, side, side / 2.5, side / 1.2) * 1.6
    phase = across + (wave + value_noise(rng, side, side, ring * 2, side / 3) * 0.25)
    rings = np.abs(phase - np.floor(phase) - 0.35) * 3.0 - 0.9
    rings *= 0.7 + 0.3 * np.sin(np.floor(phase) * 2.4)
    pores = np.minimum(value_noise(rng, side, side, 1.2, ring * 2.5), 0.0)
    return _rotated(rings.astype(np.float32) + 0.55 * pores, height, width, angle)


def weave(rng: np.random.Generator, height: int, width: int, angle: float, pitch: float) -> np.ndarray:
    """Plain-woven fabric with threads ``pitch`` pixels apart. Returns (height, width) float32."""
    side = int(np.ceil(np.hypot(height, width)))
    wave = np.sin(np.arange(side, dtype=np.float32) * np.float32(np.pi / pitch))
    size = np.abs(wave)
    over = (wave[:, None] > 0) == (wave[None, :] > 0)
    threads = np.where(over, size[None, :], size[:, None])
    noise = value_noise(rng, side, side, pitch, pitch * 4)
    field = (threads - np.float32(0.6)) * np.float32(2.2) + np.float32(0.5) * noise
    return _rotated(field, height, width, angle)


def pitted(rng: np.random.Generator, height: int, width: int, cell: float) -> np.ndarray:
    """Cast or sand-blasted metal: noise whose relief is lit from the upper left. Returns (height, width) float32."""
    relief = fractal(rng, height, width, cell, octaves=3, roughness=0.7)
    lit = relief - np.roll(relief, (1, 1), (0, 1))
    return (lit / (lit.std() + 1e-6) * 0.8 + relief * 0.35).astype(np.float32)


def turned(rng: np.random.Generator, height: int, width: int, centre: tuple[float, float], pitch: float) -> np.ndarray:
    """Lathe marks: concentric rings about ``centre`` (x, y). Returns (height, width) float32."""
    x = np.arange(width, dtype=np.float32)[None, :] - np.float32(centre[0])
    y = np.arange(height, dtype=np.float32)[:, None] - np.float32(centre[1])
    radius = np.sqrt(x * x + y * y) / np.float32(pitch)
    profile = rng.standard_normal(4096, dtype=np.float32)
    low = np.minimum(radius.astype(np.int32), 4094)
    part = radius - low.astype(np.float32)
    return profile[low] * (1 - part) + profile[low + 1] * part


def slope(field: np.ndarray, light: np.ndarray) -> np.ndarray:
    """How steeply a (h, w) float32 field rises towards the light (x, y), unscaled; (h, w) float32."""
    return cv2.Sobel(field, cv2.CV_32F, 1, 0) * light[0] + cv2.Sobel(field, cv2.CV_32F, 0, 1) * light[1]
