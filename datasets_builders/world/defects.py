"""How a defect looks, and the types of defects: which envelopes and which looks each has.

A look turns the surface under an envelope into the damaged surface; it keeps the surface's own texture and light wherever
the real thing would. The ten types of `DEFECTS` could happen to anything. The six of `BLEMISHES` need a photograph: they
follow its texture, break from its borders or change its finish, as inspection photographs of machined and cast surfaces
show.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np

from datasets_builders.world import envelopes, textures

DEFECTS = (
    "scratch", "crack", "dent", "stain", "hole", "burr", "fibre", "contamination", "missing_part", "discolouration",
)  # fmt: skip  # fmt: skip
BLEMISHES = ("chip", "breakout", "uneven", "fray", "hairline", "pore")
_WEIGHTS = np.float32((0.299, 0.587, 0.114))
_COHERENT = 0.12  # below it a texture has no direction: a die or a sandblasted face

Outline = Callable[[np.random.Generator, int, int], np.ndarray]
Look = Callable[["Surface"], np.ndarray]


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
    slope = textures.slope(height, surface.light)
    peak = float(np.abs(slope).max()) + 1e-6
    return surface.under * (1 + strength * slope / peak)[..., None]


def smeared(surface: Surface, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(surface.under, (0, 0), max(0.8, sigma), borderType=cv2.BORDER_REFLECT)


def _moved(s: Surface, field: np.ndarray, distance: float, *, border: int = cv2.BORDER_CONSTANT) -> np.ndarray:
    """The field moved by so many units of a fine line towards the light."""
    x, y = distance * s.unit * s.light[0], distance * s.unit * s.light[1]
    return cv2.warpAffine(field, np.float32([[1, 0, x], [0, 1, y]]), field.shape[::-1], borderMode=border)


def scratch_look(s: Surface) -> np.ndarray:
    target = _mix(s, s.under * _gain(s, 0.6) + (0.0 if s.darker else 0.12))
    shift = _moved(s, s.alpha, 1.0)
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
    return _relief(replace(s, under=_mix(s, target)), -s.alpha, s.rng.uniform(0, 0.3))


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
    cast = cv2.GaussianBlur(_moved(s, s.alpha, -1.6), (0, 0), s.unit)
    under = s.under * (1 - 0.3 * cast)[..., None]
    return under + (0.85 * s.alpha)[..., None] * (thread - under)


def contamination_look(s: Surface) -> np.ndarray:
    tone = s.colour(0.05, 0.35, 0.35) if s.darker else s.colour(0.65, 0.95, 0.15)
    lumps = 1 + 0.2 * textures.fractal(s.rng, *s.alpha.shape, 3 * s.unit)
    body = _relief(replace(s, under=tone * lumps[..., None]), -s.alpha, 0.35)
    return _mix(s, body * 0.85 + s.under * 0.15)


def discolouration_look(s: Surface) -> np.ndarray:
    if s.grey or s.rng.random() < 0.4:
        return _mix(s, s.under * _gain(s, 0.35))
    hue = s.colour(1.0, 1.0, 0.0) * (1 + s.rng.normal(0, 0.25, 3)).astype(np.float32)
    return _mix(s, np.clip(s.under * hue / max(float(hue @ _WEIGHTS), 0.3) * _gain(s, 0.12), 0, 1))


def uneven_look(s: Surface) -> np.ndarray:
    """The same surface finished differently: lighter or darker, its marks stronger or weaker, in places less so."""
    base = cv2.GaussianBlur(s.under, (0, 0), max(2.0, 6 * s.unit), borderType=cv2.BORDER_REFLECT)
    marks = s.under - base
    gain = np.float32(1 + (-1 if s.darker else 1) * s.rng.uniform(0.08, 0.3))
    target = base * gain + marks * np.float32(s.rng.choice([0.3, 0.7, 1.0, 1.6, 2.4]))
    if s.rng.random() < 0.4:
        drift = 0.75 + 0.3 * textures.value_noise(s.rng, *s.alpha.shape, *(0.7 * np.array(s.alpha.shape)))
        target = s.under + np.clip(drift, 0.3, 1.3)[..., None] * (target - s.under)
    return _mix(s, target)


def worn_look(s: Surface) -> np.ndarray:
    """Another material laid bare: the finish is gone, a fine grain is left, and the rim may catch the light."""
    base = cv2.GaussianBlur(s.under, (0, 0), max(3.0, 0.06 * max(s.alpha.shape)), borderType=cv2.BORDER_REFLECT)
    gain = np.float32(1 + (-1 if s.darker else 1) * s.rng.uniform(0.05, 0.4))
    noise = textures.fractal(s.rng, *s.alpha.shape, s.rng.uniform(1.5, 6) * s.unit, octaves=3, roughness=0.8)
    target = base * gain * (1 + np.float32(s.rng.uniform(0.02, 0.1)) * noise)[..., None]
    target += np.float32(s.rng.uniform(0, 0.6)) * (s.under - base)
    out = _mix(s, target)
    if s.rng.random() < 0.4:
        soft = cv2.GaussianBlur(s.alpha, (0, 0), 1.2 * s.unit)
        rim = np.clip(soft * (1 - soft) * 4 - 0.2, 0, 1) * np.clip(
            textures.value_noise(s.rng, *s.alpha.shape, 12 * s.unit, 12 * s.unit), 0, 1
        )
        out = out * (1 + s.rng.choice([-0.3, 0.5]) * rim * (s.alpha > 0.2))[..., None]
    return out


def fissure_look(s: Surface) -> np.ndarray:
    return _mix(s, s.under * np.float32(0.3 if s.darker else 1.6), s.alpha * np.float32(0.9))


def _bare(s: Surface, sigma: float) -> np.ndarray:
    """The surface without its marks, but with the camera's noise: a floor without any looks pasted in."""
    noise = s.under - cv2.GaussianBlur(s.under, (0, 0), 0.8, borderType=cv2.BORDER_REFLECT)
    return smeared(s, sigma) + np.float32(s.rng.uniform(0.3, 0.9)) * noise


def pore_look(s: Surface) -> np.ndarray:
    """A hollow: its floor takes little light, its far rim catches some."""
    base = _bare(s, 0.15 * max(s.alpha.shape))
    floor = base * np.float32(s.rng.uniform(0.3, 0.65) if s.darker else s.rng.uniform(1.4, 1.9))
    floor = floor * (1 + 0.06 * textures.fractal(s.rng, *s.alpha.shape, 3 * s.unit))[..., None]
    out = _mix(s, floor)
    slope = textures.slope(s.alpha, s.light)
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
    out = _mix(s, base * gain * (1 + relief)[..., None])
    return _stepped(s, out)


def broken_look(s: Surface) -> np.ndarray:
    """Broken-out material: a rough floor below the surface, in its own light and shade."""
    base = _bare(s, 0.12 * max(s.alpha.shape))
    rough = textures.fractal(s.rng, *s.alpha.shape, s.rng.uniform(4, 14) * s.unit, roughness=0.7)
    lit = rough - _moved(s, rough, 1.5, border=cv2.BORDER_REFLECT)
    gain = np.float32(s.rng.uniform(0.4, 0.8) if s.darker else s.rng.uniform(1.1, 1.5))
    floor = base * gain * (1 + s.rng.uniform(0.05, 0.15) * rough + s.rng.uniform(0.1, 0.25) * lit)[..., None]
    return _stepped(s, _mix(s, floor))


def _stepped(s: Surface, out: np.ndarray) -> np.ndarray:
    """The step down from the surface: in shade towards the light, bright opposite, never all the way round."""
    deep = cv2.GaussianBlur(s.alpha, (0, 0), max(0.8, 1.2 * s.unit))
    slope = textures.slope(deep, s.light)
    slope /= float(np.abs(slope).max()) + 1e-6
    partly = np.clip(0.6 + 0.6 * textures.value_noise(s.rng, *s.alpha.shape, 14 * s.unit, 14 * s.unit), 0, 1)
    return out * (1 + s.rng.uniform(0.1, 0.5) * partly * np.where(slope > 0, -0.7 * slope, -slope) * s.alpha)[..., None]


def unfinished_look(s: Surface) -> np.ndarray:
    """The finish is missing: the marks of machining are gone or weak, the bare material has a fine grain."""
    base = smeared(s, max(3 * s.unit, 0.04 * max(s.alpha.shape)))
    gain = np.float32(s.rng.uniform(0.6, 0.92) if s.darker else s.rng.uniform(1.08, 1.35))
    fine = s.rng.uniform(0.01, 0.05) * textures.fractal(s.rng, *s.alpha.shape, 2 * s.unit, octaves=2)
    target = base * gain * (1 + fine)[..., None] + np.float32(s.rng.uniform(0, 0.45)) * (s.under - base)
    return _mix(s, target)


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
    return _mix(s, target)


@dataclass(frozen=True)
class Kind:
    """How one defect type is made."""

    shape: Callable[[np.random.Generator, float, float], np.ndarray]
    looks: tuple[Look, ...]
    scale: float  # typical extent, times the extent drawn from the settings
    contrast: float  # typical contrast, times the contrast drawn from the settings
    darker: float  # how often the change is towards dark, when the surface allows either
    at_edge: float = 0.0  # how often it sits on the border of the foreground
    solid: bool = False  # light and shade cross zero inside it, which is still inside


KINDS = {
    "scratch": Kind(envelopes.scratch_shape, (scratch_look,), 1.9, 1.2, 0.4),
    "crack": Kind(envelopes.crack_shape, (crack_look,), 1.7, 1.4, 0.85, at_edge=0.3),
    "dent": Kind(envelopes.dent_shape, (dent_look,), 1.1, 0.9, 0.5, solid=True),
    "stain": Kind(envelopes.stain_shape, (stain_look, stain_look, transplant_look), 1.2, 0.9, 0.7),
    "hole": Kind(envelopes.hole_shape, (hole_look,), 0.55, 1.7, 0.8),
    "burr": Kind(envelopes.burr_shape, (fracture_look,), 1.5, 1.2, 0.5, at_edge=0.85),
    "fibre": Kind(envelopes.fibre_shape, (fibre_look,), 1.3, 1.5, 0.4),
    "contamination": Kind(envelopes.contamination_shape, (contamination_look,), 0.8, 1.4, 0.6),
    "missing_part": Kind(
        envelopes.chip_shape, (missing_look, fracture_look, transplant_look), 1.7, 1.4, 0.75, at_edge=0.85
    ),
    "discolouration": Kind(envelopes.discolouration_shape, (discolouration_look,), 1.9, 0.7, 0.6),
}
# name of the defect type -> outlines, looks, typical contrast as a share of the settings' contrast
EXPANSES: dict[str, tuple[tuple[Outline, ...], tuple[Look, ...], float]] = {
    "discolouration": ((envelopes.band, envelopes.band, envelopes.patch), (uneven_look,), 0.45),
    "stain": ((envelopes.patch, envelopes.tongue, envelopes.band), (uneven_look, worn_look), 0.6),
    "burr": ((envelopes.tongue, envelopes.tongue, envelopes.patch), (worn_look, fracture_look), 0.6),
    "missing_part": ((envelopes.corner,), (missing_look, worn_look, worn_look, fracture_look), 1.0),
    "crack": ((envelopes.fissure,), (fissure_look,), 1.0),
}


def photograph_kinds(grain: float | None) -> dict[str, Kind]:
    """How each blemish is made on a photograph whose texture runs along ``grain`` (radians, or None)."""
    return {
        "chip": Kind(
            envelopes.shell_shape, (shell_look, shell_look, broken_look), 2.2, 1.0, 0.88, at_edge=0.9, solid=True
        ),
        "breakout": Kind(envelopes.shell_shape, (broken_look, shell_look), 2.8, 0.9, 0.85, at_edge=0.45, solid=True),
        "uneven": Kind(
            envelopes.zone_shape, (partial(streaked_look, grain=grain),), 5.0, 0.5, 0.5, at_edge=0.5, solid=True
        ),
        "fray": Kind(
            partial(envelopes.fray_shape, grain=grain), (unfinished_look,), 3.0, 0.7, 0.75, at_edge=0.4, solid=True
        ),
        "hairline": Kind(partial(envelopes.hairline_shape, grain=grain), (crack_look,), 4.5, 1.1, 0.95, at_edge=0.75),
        "pore": Kind(envelopes.pore_shape, (pore_look,), 0.6, 1.25, 0.92, solid=True),
    }


def photograph_expanses(grain: float | None) -> dict[str, tuple[tuple[Outline, ...], tuple[Look, ...], float]]:
    """The blemishes that spread over a part: outlines, looks and typical contrast, as ``expanses.EXPANSES``."""
    return {
        "uneven": (
            (envelopes.sheet, envelopes.sheet, envelopes.sheet, envelopes.band, envelopes.patch),
            (partial(streaked_look, grain=grain),),
            0.35,
        ),
        "fray": ((envelopes.tongue, envelopes.patch), (unfinished_look,), 0.55),
    }
