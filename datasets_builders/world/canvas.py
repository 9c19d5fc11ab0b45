"""A float canvas on which products are drawn in their own coordinates, with light, shadows and exact part masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from datasets_builders.world import textures

Colour = Sequence[float]
_SHIFT = 4  # fractional bits of OpenCV's polygon coordinates


@dataclass(frozen=True)
class Patch:
    """Coverage of a drawn shape in a window of the canvas: ``alpha`` (h, w) float32 in 0..1, its corner at (x, y)."""

    y: int
    x: int
    alpha: np.ndarray

    @property
    def window(self) -> tuple[slice, slice]:
        h, w = self.alpha.shape
        return slice(self.y, self.y + h), slice(self.x, self.x + w)

    def without(self, other: Patch) -> Patch:
        """This patch with ``other`` cut out of it."""
        alpha = self.alpha.copy()
        y0, x0 = max(self.y, other.y), max(self.x, other.x)
        y1 = min(self.y + alpha.shape[0], other.y + other.alpha.shape[0])
        x1 = min(self.x + alpha.shape[1], other.x + other.alpha.shape[1])
        if y1 > y0 and x1 > x0:
            cut = other.alpha[y0 - other.y : y1 - other.y, x0 - other.x : x1 - other.x]
            alpha[y0 - self.y : y1 - self.y, x0 - self.x : x1 - self.x] *= 1 - cut
        return Patch(self.y, self.x, alpha)


class Canvas:
    """What a product draws on.

    Local coordinates run from about -1 to 1 over the product, y downwards; ``pose`` sets where that lands.
    ``missing`` is the number of the removable slot to leave out (see ``slot``), or None.
    """

    def __init__(self, size: int, rng: np.random.Generator, *, missing: int | None = None):
        self.size = size
        self.rng = rng
        self.image = np.zeros((size, size, 3), np.float32)
        self.unit = size / 256  # lengths that belong to the photograph rather than the product
        self.matrix = np.eye(2) * size / 2
        self.centre = np.array([size / 2, size / 2])
        angle = rng.uniform(0, 2 * np.pi)
        self.light = np.array([np.cos(angle), np.sin(angle)], np.float32)  # points towards the light
        self.parts: list[tuple[str, np.ndarray]] = []
        self.silhouette = np.zeros((size, size), np.float32)
        self.slots = 0
        self.missing = missing
        self.lost: np.ndarray | None = None

    def pose(
        self,
        *,
        scale: tuple[float, float],
        centre: tuple[float, float],
        lean: float | None = None,
        turns: int = 4,
        turn: float = np.pi / 2,
        tilt: tuple[float, float] | None = None,
    ) -> None:
        """Put local (0, 0) somewhere on the canvas by chance, every number between two limits.

        ``centre`` is in fractions of the canvas; ``scale`` 1 lets -1..1 fill it; ``tilt`` squeezes local y. At any angle,
        or, with ``lean``, about that far (radians) from one of ``turns`` multiples of ``turn``.
        """
        rng = self.rng
        size = rng.uniform(*scale)
        angle = rng.uniform(0, 2 * np.pi) if lean is None else rng.normal(0, lean) + turn * rng.integers(turns)
        squeezed = rng.uniform(*tilt) if tilt else 1.0
        c, s = np.cos(angle), np.sin(angle)
        self.matrix = np.array([[c, -s], [s, c]]) @ np.diag([1.0, squeezed]) * (size * self.size / 2)
        self.centre = rng.uniform(*centre, 2) * self.size

    @property
    def scale(self) -> float:
        """Pixels a local unit."""
        (a, b), (c, d) = self.matrix.tolist()
        return abs(a * d - b * c) ** 0.5

    @property
    def angle(self) -> float:
        """Direction of the local x axis on the canvas, radians."""
        return float(np.arctan2(self.matrix[1, 0], self.matrix[0, 0]))

    def to_pixels(self, points: np.ndarray) -> np.ndarray:
        return np.asarray(points, np.float64) @ self.matrix.T + self.centre

    def coordinates(self, patch: Patch) -> tuple[np.ndarray, np.ndarray]:
        """Local x and y of every pixel of the patch, (h, w) float32 each."""
        inverse = np.linalg.inv(self.matrix)
        h, w = patch.alpha.shape
        x = np.arange(patch.x, patch.x + w, dtype=np.float32)[None, :] - np.float32(self.centre[0])
        y = np.arange(patch.y, patch.y + h, dtype=np.float32)[:, None] - np.float32(self.centre[1])
        return tuple((np.float32(a) * x + np.float32(b) * y) for a, b in inverse)

    # shapes

    def polygon(self, *contours: np.ndarray) -> Patch:
        """Even-odd filled polygons given in local coordinates, (N, 2) each."""
        return self.pixel_polygon(*(self.to_pixels(contour) for contour in contours))

    def pixel_polygon(self, *contours: np.ndarray) -> Patch:
        points = contours[0] if len(contours) == 1 else np.concatenate(contours)
        x, y, buffer = self._window(points, 1.0)
        fixed = [np.rint((contour - (x, y)) * 2**_SHIFT).astype(np.int32) for contour in contours]
        cv2.fillPoly(buffer, fixed, 255, cv2.LINE_AA, _SHIFT)
        return Patch(y, x, buffer * np.float32(1 / 255))

    def _window(self, points: np.ndarray, pad: float) -> tuple[int, int, np.ndarray]:
        """Corner and empty buffer of the part of the canvas around pixel points; at least one pixel."""
        (x0, y0), (x1, y1) = points.min(0).tolist(), points.max(0).tolist()
        left = min(max(int(x0 - pad) - 1, 0), self.size - 1)
        top = min(max(int(y0 - pad) - 1, 0), self.size - 1)
        right = min(max(int(x1 + pad) + 2, left + 1), self.size)
        bottom = min(max(int(y1 + pad) + 2, top + 1), self.size)
        return left, top, np.zeros((bottom - top, right - left), np.uint8)

    def rectangle(
        self, x: float, y: float, width: float, height: float, *, corner: float = 0.0, angle: float = 0.0
    ) -> Patch:
        return self.polygon(rectangle_points(x, y, width, height, corner=corner, angle=angle))

    def ellipse(self, x: float, y: float, rx: float, ry: float | None = None) -> Patch:
        return self.polygon(ellipse_points(x, y, rx, ry))

    def annulus(self, x: float, y: float, outer: float, inner: float) -> Patch:
        return self.polygon(ellipse_points(x, y, outer), ellipse_points(x, y, inner))

    def stroke(self, points: np.ndarray, width: float) -> Patch:
        """A polyline ``width`` local units wide, with round joints."""
        return self.strokes([points], width)

    def strokes(self, lines: Sequence[np.ndarray], width: float) -> Patch:
        """Several polylines in one patch, as the strokes of a line of print."""
        placed = [self.to_pixels(points) for points in lines]
        pixels = np.concatenate(placed)
        half = width * self.scale / 2
        x, y, buffer = self._window(pixels, half + 1)
        fixed = [np.rint((line - (x, y)) * 2**_SHIFT).astype(np.int32) for line in placed]
        thickness = max(1, int(round(2 * half)))
        cv2.polylines(buffer, fixed, False, 255, thickness, cv2.LINE_AA, _SHIFT)
        faint = min(1.0, 2 * half)  # thinner than a pixel: fainter instead
        return Patch(y, x, buffer * np.float32(faint / 255))

    # paint

    def backdrop(self, colour: Colour, texture: np.ndarray | float = 0.0) -> None:
        """Cover everything with a colour modulated by (1 + texture)."""
        modulation = np.ascontiguousarray(np.broadcast_to(np.float32(1) + np.float32(texture), (self.size, self.size)))
        self.image[:] = _tinted(modulation, colour)

    def lay(self, patch: Patch, colour: Colour, shade: np.ndarray | float = 1.0, *, opacity: float = 1.0) -> None:
        """Blend colour * shade over the patch; ``shade`` is a number, (h, w) for the patch, or (size, size)."""
        if isinstance(shade, np.ndarray) and shade.shape != patch.alpha.shape:
            shade = shade[patch.window]
        if not patch.alpha.size:
            return
        view = self.image[patch.window]
        if isinstance(shade, np.ndarray):
            change = _tinted(shade.astype(np.float32, copy=False), colour)
            change -= view
        else:
            change = np.asarray(colour, np.float32) * np.float32(shade) - view
        change *= _spread(patch.alpha if opacity == 1.0 else patch.alpha * np.float32(opacity))
        view += change

    def multiply(self, patch: Patch, gain: np.ndarray | float) -> None:
        """Multiply what lies under the patch, keeping its texture."""
        if isinstance(gain, np.ndarray) and gain.shape != patch.alpha.shape:
            gain = gain[patch.window]
        if patch.alpha.size:
            self.image[patch.window] *= _spread(1 + patch.alpha * (np.asarray(gain, np.float32) - 1))

    def shadow(self, patch: Patch, distance: float, *, strength: float = 0.45) -> None:
        """A soft shadow ``distance`` photograph units away from the light, to be drawn before the thing itself."""
        distance *= self.unit
        away = -self.light * distance
        dark = self.blurred(Patch(patch.y, patch.x, patch.alpha), max(0.6, distance * 0.6), move=(away[0], away[1]))
        if dark.alpha.size:
            self.multiply(dark, 1 - strength)

    def blurred(self, patch: Patch, sigma: float, *, move: tuple[float, float] = (0.0, 0.0)) -> Patch:
        """The patch with soft edges (``sigma`` pixels), moved by (x, y) pixels and cut at the canvas; may be empty."""
        pad = int(np.ceil(2.5 * sigma)) + 2
        whole = (int(np.round(move[0])), int(np.round(move[1])))
        y, x = patch.y - pad + whole[1], patch.x - pad + whole[0]
        alpha = cv2.copyMakeBorder(patch.alpha, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=0)
        alpha = cv2.GaussianBlur(alpha, (0, 0), sigma)
        top, left = max(0, -y), max(0, -x)
        alpha = alpha[top : max(top, self.size - y), left : max(left, self.size - x)]
        return Patch(y + top, x + left, alpha)

    def bevel(self, patch: Patch, width: float, strength: float, *, raised: bool = True) -> None:
        """Light one side of the edge and darken the other over about ``width`` photograph units."""
        sigma = max(0.6, width * self.unit)
        soft = cv2.GaussianBlur(patch.alpha, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
        slope = textures.slope(soft, self.light)
        slope *= np.float32((-1 if raised else 1) * strength * sigma / 2)
        view = self.image[patch.window]
        view *= _spread(1 + patch.alpha * np.clip(slope, -0.85, 1.2))

    def rounding(self, patch: Patch, radius: float) -> tuple[np.ndarray, np.ndarray]:
        """Height and lit slope of the patch seen as a body rounded over ``radius`` local units from its edge.

        Returns:
            (h, w) float32 height in 0..1 and (h, w) float32 slope towards the light in about -1..1.
        """
        inside = cv2.copyMakeBorder((patch.alpha > 0.5).astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_REPLICATE)
        distance = cv2.distanceTransform(inside, cv2.DIST_L2, 5)[1:-1, 1:-1]
        reach = max(1.5, radius * self.scale)
        ramp = np.clip(distance / np.float32(reach), 0, 1)
        ramp = cv2.GaussianBlur(ramp, (0, 0), max(0.7, reach * 0.08))
        slope = textures.slope(ramp, self.light) * np.float32(-reach / 8)
        height = np.sqrt(np.clip(ramp * (2 - ramp), 0, 1))
        return height, slope * (1 - ramp)

    def tube(
        self, points: np.ndarray, width: float, colour: Colour, texture: np.ndarray | float = 0.0, *, gloss: float = 0.3
    ) -> Patch:
        """A round rod or wire along a polyline, shaded; returns its patch."""
        patch = self.stroke(points, width)
        height, slope = self.rounding(patch, width / 2)
        if isinstance(texture, np.ndarray):
            texture = texture[patch.window]
        self.lay(patch, colour, (0.25 + 0.75 * height + 0.4 * slope) * (1 + texture))
        shine = np.clip(height + 0.5 * slope - 0.75, 0, 1) ** 2 * 8
        self.lay(Patch(patch.y, patch.x, patch.alpha * np.clip(shine, 0, 1)), (1, 1, 1), opacity=gloss)
        return patch

    def coloured(self, colour: Colour, amount: float = 0.06) -> np.ndarray:
        """The colour, varied a little in brightness and hue."""
        value = np.asarray(colour, float) * self.rng.uniform(1 - 2 * amount, 1 + 2 * amount)
        return np.clip(value + self.rng.uniform(-amount, amount, 3) * 0.5, 0.01, 1.0)

    def pick(self, *colours: Colour, amount: float = 0.06) -> np.ndarray:
        """One of the colours, varied a little."""
        return self.coloured(colours[self.rng.integers(len(colours))], amount)

    def block(
        self,
        patch: Patch,
        colour: Colour,
        shade: np.ndarray | float = 1.0,
        *,
        shadow: float = 0.0,
        strength: float = 0.45,
        bevel: tuple[float, float],
        raised: bool = True,
        part: str = "",
    ) -> None:
        """A thing with an edge: its shadow (none for 0), its colour, its bevel; recorded if it is a ``part``."""
        if shadow:
            self.shadow(patch, shadow, strength=strength)
        self.lay(patch, colour, shade)
        self.bevel(patch, *bevel, raised=raised)
        if part:
            self.part(part, patch)

    def lettering(
        self,
        count: int,
        at: tuple[float, float],
        step: float,
        size: tuple[float, float],
        width: float,
        ink: Colour,
        *,
        points: int = 3,
        opacity: float = 1.0,
    ) -> None:
        """A line of print from ``at`` on: strokes of a few points that read as text, not as damage."""
        x, y = at
        glyphs = [self.rng.integers(0, 3, (points, 2)) / 2 * size + (x + k * step, y) for k in range(count)]
        self.lay(self.strokes(glyphs, width), ink, opacity=opacity)

    # what the picture shows

    def part(self, kind: str, patch: Patch) -> None:
        """Record the patch as an object or a part; parts too small to see or out of the frame are left out."""
        mask = self.full(patch)
        if mask.sum() >= 20 * self.unit**2:
            self.parts.append((kind, mask))

    def body(self, patch: Patch) -> Patch:
        """Count the patch as part of the product's silhouette; returns it."""
        view = self.silhouette[patch.window]
        np.maximum(view, patch.alpha, out=view)
        return patch

    def full(self, patch: Patch) -> np.ndarray:
        mask = np.zeros((self.size, self.size), bool)
        mask[patch.window] = patch.alpha > 0.5
        return mask

    def slot(
        self, kind: str, footprint: Patch, draw: Callable[[], None], *, empty: Callable[[], None] | None = None
    ) -> None:
        """Draw a removable part with ``draw``, or leave it out where its number is ``missing`` and draw ``empty``.

        The random numbers of the part are used up either way, so that nothing else in the picture changes; ``empty``
        must not draw any.
        """
        number, self.slots = self.slots, self.slots + 1
        if number != self.missing:
            draw()
            self.part(kind, self.body(footprint))
            return
        before = self.image.copy()
        draw()
        self.image = before
        if empty is not None:
            empty()
        self.lost = self.full(footprint)


def _spread(field: np.ndarray) -> np.ndarray:
    """(h, w) to (h, w, 3). Whole arrays multiply several times faster than a broadcast last axis of three."""
    field = np.ascontiguousarray(field, np.float32)
    return cv2.merge((field, field, field))


def _tinted(field: np.ndarray, colour: Colour) -> np.ndarray:
    """field * colour, (h, w) float32 and three numbers to (h, w, 3) float32."""
    return cv2.merge([field * np.float32(channel) for channel in colour])


def unit_vector(angle: float) -> np.ndarray:
    """(2,) the direction of an angle in radians."""
    return np.array([np.cos(angle), np.sin(angle)])


@lru_cache(maxsize=64)
def _circle(count: int) -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([np.cos(t), np.sin(t)], 1)


def rectangle_points(
    x: float, y: float, width: float, height: float, *, corner: float = 0.0, angle: float = 0.0
) -> np.ndarray:
    """Outline of a rectangle about (x, y) with rounded corners of radius ``corner``. Returns (N, 2)."""
    a, b = width / 2, height / 2
    if corner <= 0:
        points = np.array([[-a, -b], [a, -b], [a, b], [-a, b]])
    else:
        corner = min(corner, a, b)
        quarter = np.linspace(0, np.pi / 2, 7)
        arc = np.stack([np.cos(quarter), np.sin(quarter)], 1) * corner
        turns = ((1, 1), (-1, 1), (-1, -1), (1, -1))
        arcs = []
        for index, (sx, sy) in enumerate(turns):
            rotated = arc[::-1] if index % 2 else arc
            arcs.append(rotated * (sx, sy) + np.array([sx * (a - corner), sy * (b - corner)]))
        points = np.concatenate(arcs)
    c, s = np.cos(angle), np.sin(angle)
    return points @ np.array([[c, s], [-s, c]]) + (x, y)


def ellipse_points(x: float, y: float, rx: float, ry: float | None = None, *, count: int = 72) -> np.ndarray:
    """Outline of an ellipse. Returns (count, 2)."""
    return _circle(count) * (rx, rx if ry is None else ry) + (x, y)


def blob_points(
    rng: np.random.Generator, x: float, y: float, radius: float, wobble: float, *, count: int = 64
) -> np.ndarray:
    """A closed smooth outline whose radius varies by about ``wobble``. Returns (count, 2)."""
    t = np.linspace(0, 2 * np.pi, count, endpoint=False)
    r = np.ones(count)
    for k in range(2, 7):
        r += wobble / k * rng.normal() * np.cos(k * t + rng.uniform(0, 2 * np.pi))
    r = radius * np.clip(r, 0.25, 2.0)
    return np.stack([x + r * np.cos(t), y + r * np.sin(t)], 1)


def smooth_path(points: np.ndarray, count: int = 48) -> np.ndarray:
    """A smooth curve through a few control points (Catmull-Rom). Returns (count, 2)."""
    points = np.asarray(points, float)
    padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    t = np.linspace(0, len(points) - 1 - 1e-9, count)
    i = t.astype(int)
    f = (t - i)[:, None]
    p0, p1, p2, p3 = (padded[i + k] for k in range(4))
    return 0.5 * (2 * p1 + (p2 - p0) * f + (2 * p0 - 5 * p1 + 4 * p2 - p3) * f**2 + (3 * p1 - p0 - 3 * p2 + p3) * f**3)
