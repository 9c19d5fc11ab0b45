"""A hard folder of photographs: hairlines on a rough, unevenly lit ground, with stains that are no defect.

`python tests/thin_cracks.py DIR [COUNT [SIDE]]` writes images/crack-000.jpg and masks/crack-000.png.
"""

import sys
from pathlib import Path

import cv2
import numpy as np


def _ground(rng: np.random.Generator, side: int) -> np.ndarray:
    """(side, side) float32 greys around 130: grain of several sizes, a gradient, a few soft stains."""
    grey = np.full((side, side), 130.0, np.float32)
    for cells, strength in ((4, 14), (side // 24, 9), (side // 6, 9), (side, 9)):
        grain = rng.standard_normal((max(cells, 2), max(cells, 2))).astype(np.float32)
        grey += strength * cv2.resize(grain, (side, side), interpolation=cv2.INTER_CUBIC)
    for _ in range(rng.integers(1, 4)):
        stain = np.zeros((side, side), np.float32)
        centre = tuple(int(value) for value in rng.uniform(0.1, 0.9, 2) * side)
        axes = tuple(int(value) for value in rng.uniform(0.02, 0.08, 2) * side + 1)
        cv2.ellipse(stain, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1.0, -1)
        grey += float(rng.choice([-1, 1])) * 30 * cv2.GaussianBlur(stain, (0, 0), side / 128)
    return grey


def _walk(rng: np.random.Generator, start: np.ndarray, heading: float, length: float, step: float) -> np.ndarray:
    points = [start]
    for _ in range(max(int(length / step), 2)):
        heading += rng.normal(0, 0.35)
        points.append(points[-1] + step * np.array([np.cos(heading), np.sin(heading)]))
    return np.array(points)


def crack(rng: np.random.Generator, side: int) -> tuple[np.ndarray, np.ndarray]:
    """A photograph (side, side, 3) uint8 and its mask (side, side) bool: one hairline, often with a branch."""
    drawn = np.zeros((side, side), np.uint8)
    heading = rng.uniform(0, 2 * np.pi)
    middle = side * (0.5 + rng.uniform(-0.2, 0.2, 2))
    length = rng.uniform(0.3, 0.8) * side
    start = middle - 0.5 * length * np.array([np.cos(heading), np.sin(heading)])
    lines = [_walk(rng, start, heading, length, side / 48)]
    if rng.random() < 0.6:
        fork = lines[0][rng.integers(1, len(lines[0]))]
        lines.append(_walk(rng, fork, heading + rng.choice([-1, 1]) * rng.uniform(0.5, 1.2), length / 3, side / 48))
    for line in lines:
        width = max(1, round(float(rng.uniform(1, 4)) * side / 512))
        cv2.polylines(drawn, [np.round(line).astype(np.int32)], False, 1, width)
    mask = drawn.astype(bool)
    contrast = rng.uniform(22, 55)
    grey = _ground(rng, side) - contrast * cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.6)
    tint = np.array([1.0, 0.98, 0.94]) + rng.uniform(-0.03, 0.03, 3)
    return (grey[..., None] * tint).clip(0, 255).astype(np.uint8), mask


def write_cracks(directory: Path, count: int = 60, side: int = 512, seed: int = 0) -> Path:
    """A folder in the layout images/ and masks/."""
    for name in ("images", "masks"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels, mask = crack(np.random.default_rng([seed, number]), side)
        cv2.imwrite(str(directory / "images" / f"crack-{number:03d}.jpg"), pixels[..., ::-1])
        cv2.imwrite(str(directory / "masks" / f"crack-{number:03d}.png"), mask.astype(np.uint8) * 255)
    return directory


if __name__ == "__main__":
    write_cracks(Path(sys.argv[1]), *map(int, sys.argv[2:4]))
