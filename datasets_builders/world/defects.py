"""Shapes and looks of the ten defect types.

A shape is an envelope: (h, w) float32 in 0..1, 1 where the defect changes the surface fully. A look turns the surface
under an envelope into the damaged surface; it keeps the surface's own texture and light wherever the real thing would.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from datasets_builders.world import textures

DEFECTS = (
    "scratch", "crack", "dent", "stain", "hole", "burr", "fibre", "contamination", "missing_part", "discolouration",
)  # fmt: skip
_WEIGHTS = np.float32((0.299, 0.587, 0.114))


# shapes: (rng, extent in pixels, unit = thickness of a fine line in pixels) -> envelope


def drawn(paths: list[tuple[np.ndarray, np.ndarray]], unit: float) -> np.ndarray:
    """Rasterise polylines, (N, 2) points with (N - 1,) widths in pixels, into the smallest envelope that holds them."""
    fine = 4 if unit < 2 else 2
    every = np.concatenate([points for points, _ in paths])
    pad = max(float(np.max(widths)) for _, widths in paths) + 2
    low = every.min(0) - pad
    width, height = np.ceil(every.max(0) + pad - low).astype(int)
    buffer = np.zeros((height * fine, width * fine), np.uint8)
    for points, widths in paths:
        fixed = np.round((points - low) * fine * 16).astype(int)
        for a, b, thick in zip(fixed[:-1], fixed[1:], widths):
            cv2.line(
                buffer, tuple(map(int, a)), tuple(map(int, b)), 255, max(1, round(float(thick) * fine)), cv2.LINE_8, 4
            )
    return cv2.resize(buffer, (int(width), int(height)), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def walk(rng: np.random.Generator, extent: float, step: float, *, bend: float, jitter: float) -> np.ndarray:
    """A path of about ``extent`` pixels whose heading drifts by ``bend`` and shakes by ``jitter`` radians a step."""
    count = max(3, int(extent / step))
    drift = np.cumsum(rng.normal(0, bend, count))
    heading = rng.uniform(0, 2 * np.pi) + drift + rng.normal(0, jitter, count)
    steps = np.stack([np.cos(heading), np.sin(heading)], 1) * step * rng.uniform(0.5, 1.5, (count, 1))
    return np.concatenate([np.zeros((1, 2)), np.cumsum(steps, 0)])


def taper(rng: np.random.Generator, count: int, width: float) -> np.ndarray:
    t = np.linspace(0.04, 0.96, count)
    return width * np.sin(np.pi * t) ** 0.4 * rng.uniform(0.7, 1.3, count)


def scratch_shape(rng: np.random.Generator, extent: float, unit: float) -> np.ndarray:
    """One to three nearly straight tapered lines, now and then interrupted."""
    width = unit * min(3.5, rng.lognormal(0.3, 0.4))
    path = walk(rng, extent, max(2.0, extent / 16), bend=rng.choice([0.02, 0.1]), jitter=0.02)
    paths = [(path, taper(rng, len(path) - 1, width))]
    for _ in range(rng.choice(3, p=[0.7, 0.2, 0.1])):
        side = path + rng.normal(0, 3 * unit + 0.05 * extent, 2)
        first = int(rng.integers(0, max(1, len(side) // 2)))
        part = side[first : first + max(3, len(side) // 2)]
        paths.append((part, taper(rng, len(part) - 1, width * 0.8)))
    alpha = drawn(paths, unit)
    if rng.random() < 0.4:
        alpha *= np.clip(0.8 + 0.45 * textures.value_noise(rng, *alpha.shape, 10 * unit, 10 * unit), 0.15, 1)
    return alpha


def crack_shape(rng: np.random.Generator, extent: float, unit: float) -> np.ndarray:
    """A jagged branching line of uneven width."""
    width = unit * min(3.5, rng.lognormal(0.3, 0.4))
    main = walk(rng, extent * 1.15, max(1.5, min(4 * unit, extent / 6)), bend=0.14, jitter=0.45)
    paths = [(main, taper(rng, len(main) - 1, width))]
    for _ in range(rng.choice(4, p=[0.4, 0.3, 0.2, 0.1])):
        root = main[rng.integers(0, len(main))]
        twig = (
            walk(rng, extent * rng.uniform(0.12, 0.4), max(1.5, min(4 * unit, extent / 8)), bend=0.15, jitter=0.5)
            + root
        )
        paths.append((twig, taper(rng, len(twig) - 1, width * 0.7)))
    return drawn(paths, unit)


def fibre_shape(rng: np.random.Generator, extent: float, unit: float) -> np.ndarray:
    """A thin curling thread of even width."""
    path = walk(rng, extent * rng.uniform(1.1, 2.2), max(1.5, extent / 24), bend=rng.uniform(0.1, 0.35), jitter=0.03)
    return drawn([(path, np.full(len(path) - 1, unit * rng.uniform(0.9, 2.2)))], unit)


def blob(
    rng: np.random.Generator, extent: float, *, aspect: float, rough: float, edge: float, cell: float = 0.35
) -> np.ndarray:
    """A turned ellipse ``extent`` long, its outline shaken by noise; ``edge``: softness as a share of the radius."""
    angle, side = rng.uniform(0, np.pi), int(np.ceil(extent * (1 + 0.4 * rough + 0.5 * edge))) + 5
    c, s = np.cos(angle), np.sin(angle)
    x = np.arange(side, dtype=np.float32)[None, :] - side / 2
    y = np.arange(side, dtype=np.float32)[:, None] - side / 2
    rho = np.sqrt((c * x + s * y) ** 2 + ((c * y - s * x) / aspect) ** 2) / (extent / 2)
    if rough > 0:
        rho = rho + rough * 0.35 * textures.fractal(rng, side, side, max(2.0, extent * cell), octaves=3, roughness=0.6)
    edge = max(edge, 1.2 / max(extent * aspect / 2, 1.0))
    alpha = np.clip((1 - rho) / edge + 0.5, 0, 1).astype(np.float32)
    return core(alpha * alpha * (3 - 2 * alpha))


def core(alpha: np.ndarray) -> np.ndarray:
    """Keep the largest connected piece (and its soft edge), cropped to what is left."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats((alpha > 0.02).astype(np.uint8))
    if count <= 1:
        return alpha
    best = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    x, y, w, h = stats[best, :4]
    window = np.s_[y : y + h, x : x + w]
    return np.where(labels[window] == best, alpha[window], 0).astype(np.float32)


def chip_shape(rng: np.random.Generator, extent: float, unit: float) -> np.ndarray:
    """A chipped-off piece: an angular outline with a crumbly edge."""
    count = int(rng.integers(4, 9))
    t = np.sort(rng.uniform(0, 2 * np.pi, count)) + rng.uniform(0, 0.2, count)
    r = extent / 2 * rng.uniform(0.45, 1.0, count)
    points = np.stack([np.cos(t), np.sin(t) * rng.uniform(0.35, 1)], 1) * r[:, None]
    turn = rng.uniform(0, np.pi)
    points = points @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    low = points.min(0) - 3
    width, height = np.ceil(points.max(0) + 3 - low).astype(int)
    buffer = np.zeros((height, width), np.uint8)
    cv2.fillPoly(buffer, [np.round((points - low) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    soft = cv2.GaussianBlur(buffer.astype(np.float32) / 255, (0, 0), max(0.8, extent * 0.03))
    crumble = 0.2 * textures.fractal(rng, int(height), int(width), max(2.0, extent * 0.12), octaves=3, roughness=0.7)
    return core(np.clip((soft + crumble * (soft > 0.02) - 0.5) * 4 + 0.5, 0, 1).astype(np.float32))


def _specks(rng: np.random.Generator, extent: float, unit: float) -> np.ndarray:
    """A cluster of grains."""
    side = int(np.ceil(extent)) + 6
    buffer = np.zeros((side * 2, side * 2), np.uint8)
    for _ in range(int(rng.integers(4, 22))):
        x, y = np.clip(rng.normal(side / 2, extent / 5, 2), 3, side - 3)
        a, b = unit * rng.lognormal(0.1, 0.45, 2) * max(1.0, extent / (40 * unit)) ** 0.5
        cv2.ellipse(
            buffer,
            (int(2 * x), int(2 * y)),
            (max(1, round(2 * a)), max(1, round(2 * b))),
            rng.uniform(0, 180),
            0,
            360,
            255,
            -1,
        )
    return cv2.resize(buffer, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def dent_shape(rng, extent, unit):
    return blob(rng, extent, aspect=rng.uniform(0.4, 1), rough=rng.uniform(0, 0.5), edge=rng.uniform(1.0, 1.6))


def stain_shape(rng, extent, unit):
    return blob(rng, extent, aspect=rng.uniform(0.3, 1), rough=rng.uniform(0.4, 1.3), edge=rng.uniform(0.08, 0.5))


def hole_shape(rng, extent, unit):
    return blob(rng, extent, aspect=rng.uniform(0.5, 1), rough=rng.uniform(0, 0.6), edge=rng.uniform(0.1, 0.35))


def contamination_shape(rng, extent, unit):
    if rng.random() < 0.55:
        return _specks(rng, extent, unit)
    return blob(rng, extent, aspect=rng.uniform(0.4, 1), rough=rng.uniform(0.6, 1.4), edge=0.1, cell=0.2)


def discolouration_shape(rng, extent, unit):
    return blob(
        rng, extent, aspect=rng.uniform(0.25, 1), rough=rng.uniform(0.1, 0.9), edge=rng.uniform(0.15, 0.8), cell=0.6
    )


def burr_shape(rng, extent, unit):
    return (
        chip_shape(rng, extent, unit)
        if rng.random() < 0.5
        else blob(rng, extent, aspect=rng.uniform(0.25, 0.7), rough=1.2, edge=0.1, cell=0.15)
    )


# looks: (Surface) -> the damaged surface, (h, w, 3)


@dataclass(frozen=True)
class Surface:
    """What a look may use: the surface under the envelope and what surrounds the choice."""

    under: np.ndarray  # (h, w, 3) float32 in 0..1
    alpha: np.ndarray  # (h, w) float32 envelope
    elsewhere: np.ndarray  # (h, w, 3) another place of the same photograph
    rng: np.random.Generator
    light: np.ndarray  # (2,) towards the light
    darker: bool  # which way the change should go, where the look leaves it open
    grey: bool  # the photograph has no colour
    unit: float

    def colour(self, low: float, high: float, spread: float) -> np.ndarray:
        """A random colour of brightness low..high, (3,) float32; grey on a grey photograph."""
        value = self.rng.uniform(low, high)
        tint = np.zeros(3) if self.grey else self.rng.normal(0, spread, 3)
        return np.clip(value * (1 + tint), 0, 1).astype(np.float32)


def _mix(surface: Surface, target: np.ndarray, alpha: np.ndarray | None = None) -> np.ndarray:
    weight = (surface.alpha if alpha is None else alpha)[..., None]
    return surface.under + weight * (target - surface.under)


def _gain(surface: Surface, strength: float = 0.5) -> np.ndarray:
    gain = 1 - strength if surface.darker else 1 + strength
    tint = 1.0 if surface.grey else 1 + surface.rng.normal(0, 0.05, 3)
    return np.float32(gain * tint)


def _relief(surface: Surface, height: np.ndarray, strength: float) -> np.ndarray:
    """Light the envelope as a height field over the surface, keeping its texture."""
    slope = (
        cv2.Sobel(height, cv2.CV_32F, 1, 0) * surface.light[0] + cv2.Sobel(height, cv2.CV_32F, 0, 1) * surface.light[1]
    )
    peak = float(np.abs(slope).max()) + 1e-6
    return surface.under * (1 + strength * slope / peak)[..., None]


def smeared(surface: Surface, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(surface.under, (0, 0), max(0.8, sigma), borderType=cv2.BORDER_REFLECT)


def scratch_look(s: Surface) -> np.ndarray:
    target = _mix(s, s.under * _gain(s, 0.6) + (0.0 if s.darker else 0.12))
    shift = cv2.warpAffine(
        s.alpha, np.float32([[1, 0, s.unit * s.light[0]], [0, 1, s.unit * s.light[1]]]), s.alpha.shape[::-1]
    )
    lip = np.clip(shift - s.alpha, 0, 1) * s.rng.uniform(0, 0.5)  # the raised lip catches the opposite light
    return target * (1 + (lip if s.darker else -lip))[..., None]


def crack_look(s: Surface) -> np.ndarray:
    depth = np.clip(0.75 + 0.3 * textures.value_noise(s.rng, *s.alpha.shape, 8 * s.unit, 8 * s.unit), 0.35, 1)
    return _mix(s, s.under * 0.25 if s.darker else np.minimum(s.under * 1.3 + 0.1, 1), s.alpha * depth)


def dent_look(s: Surface) -> np.ndarray:
    sign = 1 if s.rng.random() < 0.75 else -1
    smooth = cv2.GaussianBlur(s.alpha, (0, 0), max(0.7, s.rng.uniform(0.03, 0.1) * max(s.alpha.shape)))
    lit = _relief(s, smooth, sign * 0.7)
    return lit * (1 + (-0.25 if s.darker else 0.2) * s.alpha * s.rng.uniform(0.2, 1))[..., None]


def stain_look(s: Surface) -> np.ndarray:
    gain = s.colour(0.45, 0.75, 0.14) if s.darker else 1 + s.colour(0.2, 0.5, 0.2)
    alpha = s.alpha
    if s.rng.random() < 0.4:  # dried at its rim
        inner = cv2.GaussianBlur(alpha, (0, 0), max(1.0, 0.08 * max(alpha.shape)))
        alpha = alpha * np.clip(1.15 - 0.6 * inner**3, 0, 1)
    alpha = alpha * np.clip(0.9 + 0.2 * textures.fractal(s.rng, *alpha.shape, 12 * s.unit), 0.4, 1)
    return _mix(s, s.under * gain, alpha)


def hole_look(s: Surface) -> np.ndarray:
    floor = s.colour(0.02, 0.3, 0.1) if s.darker else s.colour(0.75, 1.0, 0.05)
    noise = 1 + 0.12 * textures.fractal(s.rng, *s.alpha.shape, 4 * s.unit)
    inside = 0.75 * floor * noise[..., None] + 0.25 * s.under * (0.5 if s.darker else 1.4)
    rim = cv2.GaussianBlur(s.alpha, (0, 0), max(0.8, 0.1 * max(s.alpha.shape)))
    lit = _relief(s, -rim, s.rng.uniform(0, 0.4))
    return lit + s.alpha[..., None] * (inside - lit)


def fracture_look(s: Surface) -> np.ndarray:
    """Freshly broken or frayed material: rough, without the surface's finish, its own light and shade."""
    base = smeared(s, 0.12 * max(s.alpha.shape))
    rough = textures.fractal(s.rng, *s.alpha.shape, s.rng.uniform(4, 9) * s.unit, roughness=0.75)
    lit = rough - np.roll(rough, (1, 1), (0, 1))
    target = base * _gain(s, s.rng.uniform(0.3, 0.6)) * (1 + 0.14 * rough + 0.2 * lit)[..., None]
    return _relief(
        Surface(_mix(s, target), s.alpha, s.elsewhere, s.rng, s.light, s.darker, s.grey, s.unit),
        -s.alpha,
        s.rng.uniform(0, 0.3),
    )


def transplant_look(s: Surface) -> np.ndarray:
    """Material from another place of the photograph, brought to the level of the place and off it a little."""
    level = s.under.mean((0, 1)) - s.elsewhere.mean((0, 1))
    return _mix(s, np.clip((s.elsewhere + 0.7 * level) * _gain(s, 0.3), 0, 1))


def missing_look(s: Surface) -> np.ndarray:
    flat = s.colour(0.02, 0.25, 0.1) if s.darker else s.colour(0.7, 0.98, 0.06)
    noise = 1 + 0.08 * textures.fractal(s.rng, *s.alpha.shape, 6 * s.unit)
    shade = 1 + 0.25 * (s.alpha - cv2.GaussianBlur(s.alpha, (0, 0), max(1.0, 0.06 * max(s.alpha.shape))))
    return _mix(s, flat * (noise * shade)[..., None])


def fibre_look(s: Surface) -> np.ndarray:
    thread = s.colour(0.05, 0.3, 0.4) if s.darker else s.colour(0.7, 1.0, 0.15)
    moved = np.float32([[1, 0, -1.6 * s.unit * s.light[0]], [0, 1, -1.6 * s.unit * s.light[1]]])
    cast = cv2.GaussianBlur(cv2.warpAffine(s.alpha, moved, s.alpha.shape[::-1]), (0, 0), s.unit)
    under = s.under * (1 - 0.3 * cast)[..., None]
    return under + (0.85 * s.alpha)[..., None] * (thread - under)


def contamination_look(s: Surface) -> np.ndarray:
    tone = s.colour(0.05, 0.35, 0.35) if s.darker else s.colour(0.65, 0.95, 0.15)
    lumps = 1 + 0.2 * textures.fractal(s.rng, *s.alpha.shape, 3 * s.unit)
    body = _relief(
        Surface(
            np.broadcast_to(tone * lumps[..., None], s.under.shape),
            s.alpha,
            s.elsewhere,
            s.rng,
            s.light,
            s.darker,
            s.grey,
            s.unit,
        ),
        -s.alpha,
        0.35,
    )
    return _mix(s, body * 0.85 + s.under * 0.15)


def discolouration_look(s: Surface) -> np.ndarray:
    if s.grey or s.rng.random() < 0.4:
        return _mix(s, s.under * _gain(s, 0.35))
    hue = s.colour(1.0, 1.0, 0.0) * (1 + s.rng.normal(0, 0.25, 3)).astype(np.float32)
    return _mix(s, np.clip(s.under * hue / max(float(hue @ _WEIGHTS), 0.3) * _gain(s, 0.12), 0, 1))


@dataclass(frozen=True)
class Kind:
    """How one defect type is made."""

    shape: Callable[[np.random.Generator, float, float], np.ndarray]
    looks: tuple[Callable[[Surface], np.ndarray], ...]
    scale: float  # typical extent, times the extent drawn from the settings
    contrast: float  # typical contrast, times the contrast drawn from the settings
    darker: float  # how often the change is towards dark, when the surface allows either
    at_edge: float = 0.0  # how often it sits on the border of the foreground
    solid: bool = False  # light and shade cross zero inside it, which is still inside


KINDS = {
    "scratch": Kind(scratch_shape, (scratch_look,), 1.9, 1.2, 0.4),
    "crack": Kind(crack_shape, (crack_look,), 1.7, 1.4, 0.85, at_edge=0.3),
    "dent": Kind(dent_shape, (dent_look,), 1.1, 0.9, 0.5, solid=True),
    "stain": Kind(stain_shape, (stain_look, stain_look, transplant_look), 1.2, 0.9, 0.7),
    "hole": Kind(hole_shape, (hole_look,), 0.55, 1.7, 0.8),
    "burr": Kind(burr_shape, (fracture_look,), 1.5, 1.2, 0.5, at_edge=0.85),
    "fibre": Kind(fibre_shape, (fibre_look,), 1.3, 1.5, 0.4),
    "contamination": Kind(contamination_shape, (contamination_look,), 0.8, 1.4, 0.6),
    "missing_part": Kind(chip_shape, (missing_look, fracture_look, transplant_look), 1.7, 1.4, 0.75, at_edge=0.85),
    "discolouration": Kind(discolouration_shape, (discolouration_look,), 1.9, 0.7, 0.6),
}
