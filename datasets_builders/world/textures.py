"""Procedural surface textures: zero-mean float32 fields of about unit spread, meant to modulate brightness."""

import cv2
import numpy as np


def value_noise(rng: np.random.Generator, height: int, width: int, cell_y: float, cell_x: float) -> np.ndarray:
    """Smooth random field whose features are about ``cell_y`` by ``cell_x`` pixels.

    Returns:
        (height, width) float32, mean near 0, standard deviation near 1.
    """
    rows = max(2, int(np.ceil(height / cell_y)) + 1)
    columns = max(2, int(np.ceil(width / cell_x)) + 1)
    grid = rng.standard_normal((min(rows, height + 1), min(columns, width + 1)), dtype=np.float32)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)


def fractal(
    rng: np.random.Generator, height: int, width: int, cell: float, *, octaves: int = 4, roughness: float = 0.55
) -> np.ndarray:
    """Sum of value noises, each octave half the cell and ``roughness`` times the weight of the one before.

    Returns:
        (height, width) float32, mean near 0, standard deviation near 1.
    """
    total = np.zeros((height, width), np.float32)
    weight, power = 1.0, 0.0
    for _ in range(octaves):
        if cell < 1.0:
            break
        total += weight * value_noise(rng, height, width, cell, cell)
        power += weight**2
        weight *= roughness
        cell /= 2
    return total / np.float32(np.sqrt(max(power, 1e-6)))


def grain(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """White noise of one pixel. Returns (height, width) float32."""
    return rng.standard_normal((height, width), dtype=np.float32)


def _rotated(field: np.ndarray, height: int, width: int, angle: float) -> np.ndarray:
    matrix = cv2.getRotationMatrix2D((field.shape[1] / 2, field.shape[0] / 2), np.degrees(angle), 1.0)
    matrix[:, 2] += (width - field.shape[1]) / 2, (height - field.shape[0]) / 2
    return cv2.warpAffine(field, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def brushed(rng: np.random.Generator, height: int, width: int, angle: float, *, streak: float = 40.0) -> np.ndarray:
    """Brushed metal: fine streaks about ``streak`` pixels long along ``angle`` (radians). Returns (height, width) float32."""
    side = int(np.ceil(np.hypot(height, width)))
    field = value_noise(rng, side, side, 1.0, streak) * 0.7 + value_noise(rng, side, side, 3.0, streak * 3) * 0.6
    return _rotated(field, height, width, angle)


def wood_grain(rng: np.random.Generator, height: int, width: int, angle: float, ring: float) -> np.ndarray:
    """Wood: wavy year rings about ``ring`` pixels wide, with pores along them. Returns (height, width) float32."""
    side = int(np.ceil(np.hypot(height, width)))
    across = np.arange(side, dtype=np.float32)[:, None] / ring
    wave = value_noise(rng, side, side, side / 2.5, side / 1.2) * 1.6 + value_noise(rng, side, side, ring * 2, side / 3) * 0.25
    phase = across + wave
    rings = np.abs(phase - np.floor(phase) - 0.35) * 3.0 - 0.9
    rings *= 0.7 + 0.3 * np.sin(np.floor(phase) * 2.4)
    pores = np.minimum(value_noise(rng, side, side, 1.2, ring * 2.5), 0.0)
    return _rotated(rings.astype(np.float32) + 0.55 * pores, height, width, angle)


def weave(rng: np.random.Generator, height: int, width: int, angle: float, pitch: float) -> np.ndarray:
    """Plain-woven fabric with threads ``pitch`` pixels apart. Returns (height, width) float32."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    c, s = np.cos(angle), np.sin(angle)
    u, v = (c * x + s * y) * (np.pi / pitch), (c * y - s * x) * (np.pi / pitch)
    over = np.sin(u) * np.sin(v)
    threads = np.where(over > 0, np.abs(np.sin(u)), np.abs(np.sin(v)))
    field = (threads - 0.6) * 2.2 + 0.5 * value_noise(rng, height, width, pitch, pitch * 4)
    return field.astype(np.float32)


def pitted(rng: np.random.Generator, height: int, width: int, cell: float) -> np.ndarray:
    """Cast or sand-blasted metal: rough noise with its own relief lit from the upper left. Returns (height, width) float32."""
    relief = fractal(rng, height, width, cell, octaves=3, roughness=0.7)
    lit = relief - np.roll(relief, (1, 1), (0, 1))
    return (lit / (lit.std() + 1e-6) * 0.8 + relief * 0.35).astype(np.float32)


def turned(rng: np.random.Generator, height: int, width: int, centre: tuple[float, float], pitch: float) -> np.ndarray:
    """Lathe marks: concentric rings about ``centre`` (x, y). Returns (height, width) float32."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    radius = cv2.magnitude(x - np.float32(centre[0]), y - np.float32(centre[1])) / np.float32(pitch)
    profile = rng.standard_normal(4096).astype(np.float32)
    low = np.minimum(radius.astype(np.int32), 4094)
    part = radius - low
    return profile[low] * (1 - part) + profile[low + 1] * part
