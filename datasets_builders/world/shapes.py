"""Scenes of generic objects: what teaches a model where a thing ends, whatever the thing is."""

import cv2
import numpy as np

from datasets_builders.world import textures
from datasets_builders.world.canvas import Canvas, Patch, blob_points, ellipse_points, rectangle_points, smooth_path


def background(canvas: Canvas, *, busy: float = 0.35) -> None:
    """Cover the canvas with a random surface; with probability ``busy`` something lies about on it."""
    rng, n, unit = canvas.rng, canvas.size, canvas.unit
    angle = rng.uniform(0, np.pi)
    large = 0.06 * textures.fractal(rng, n, n, 90 * unit)
    match rng.integers(7):
        case 0:
            canvas.backdrop(canvas.coloured((0.45, 0.46, 0.48)), large + 0.07 * textures.brushed(rng, n, n, angle))
        case 1:
            tone = canvas.pick((0.16, 0.17, 0.2), (0.3, 0.36, 0.5), (0.55, 0.52, 0.46))
            canvas.backdrop(tone, large + 0.14 * textures.weave(rng, n, n, angle, rng.uniform(2.5, 6) * unit))
        case 2:
            canvas.backdrop(canvas.coloured((0.86, 0.86, 0.85)), large * 0.5 + 0.015 * textures.grain(rng, n, n))
        case 3:
            tone = canvas.pick((0.55, 0.4, 0.26), (0.36, 0.25, 0.18), (0.7, 0.6, 0.46))
            canvas.backdrop(tone, large + 0.09 * textures.wood_grain(rng, n, n, angle, rng.uniform(9, 22) * unit))
        case 4:
            canvas.backdrop(canvas.coloured((0.05, 0.05, 0.06), 0.15), 3 * large)
        case 5:
            tone = canvas.pick((0.2, 0.4, 0.3), (0.45, 0.45, 0.42), (0.2, 0.3, 0.45), (0.6, 0.56, 0.5))
            canvas.backdrop(tone, large + 0.07 * textures.pitted(rng, n, n, rng.uniform(3, 10) * unit))
        case _:
            canvas.backdrop(canvas.coloured(rng.uniform(0.15, 0.8, 3)), 2 * large + 0.02 * textures.grain(rng, n, n))
    if rng.random() < busy:
        _litter(canvas)


def _litter(canvas: Canvas) -> None:
    """Things near the product that are no product: offcuts, cables, tape, seams of the bench."""
    rng, n = canvas.rng, canvas.size
    for _ in range(int(rng.integers(1, 5))):
        at = rng.uniform(0, n, 2)
        tone = canvas.coloured(rng.uniform(0.1, 0.85) * (1 + rng.normal(0, 0.15, 3)))
        if rng.random() < 0.5:
            points = blob_points(rng, *at, rng.uniform(0.04, 0.16) * n, 0.4)
            patch = canvas.pixel_polygon(points)
            canvas.block(patch, tone, shadow=4, bevel=(2, 1.0))
        else:
            along = rng.normal(0, 1, 2)
            along = along / np.linalg.norm(along) * n
            across = np.array([-along[1], along[0]]) * rng.uniform(0.004, 0.03)
            corners = [at - along + across, at + along + across, at + along - across, at - along - across]
            canvas.multiply(canvas.pixel_polygon(np.stack(corners)), rng.uniform(0.55, 1.35))


_KINDS = ("blob", "polygon", "star", "ring", "bar", "ellipse", "rectangle", "curve", "frame", "cross", "crescent")


def draw_shapes(canvas: Canvas) -> list[tuple[str, np.ndarray]]:
    """Fill the canvas with overlapping objects.

    Returns:
        (kind, visible mask) of every object, the lowest first; (H, W) bool, none empty.
    """
    rng, n = canvas.rng, canvas.size
    if rng.random() < 0.25:
        tone = rng.uniform(0.1, 0.85, 3) * rng.uniform(0.6, 1.2)
        tone = canvas.coloured(np.clip(tone, 0.05, 0.95))
        strength = rng.uniform(0.03, 0.3)
        canvas.backdrop(tone, strength * textures.fractal(rng, n, n, rng.uniform(3, 60) * canvas.unit))
    else:
        background(canvas, busy=0.2)
    if rng.random() < 0.3:
        _divide(canvas)
    things: list[list] = []
    count = int(rng.integers(4, 15))
    for number in range(count):
        kind = _KINDS[rng.integers(len(_KINDS))]
        smallest = 0.2 if number < 2 else 0.03  # large things first, so that they carry the small ones
        side = float(np.clip(np.exp(rng.uniform(np.log(smallest), np.log(0.78))), 0.03, 0.7))
        at = rng.uniform(0.04, 0.96, 2) * n
        if rng.random() < 0.08:
            things += _row(canvas, kind, side * n * 0.35, at, things)
            continue
        patch = _outline(canvas, kind, side * n, at)
        if rng.random() < 0.25:  # one thing made of two outlines
            kind = "compound"
            shape, long = _KINDS[rng.integers(len(_KINDS))], side * n * rng.uniform(0.4, 0.9)
            patch = _union(patch, _outline(canvas, shape, long, at + rng.normal(0, side * n / 4, 2)))
        mask = canvas.full(patch)
        if mask.sum() < 25 * canvas.unit**2:
            continue
        _dress(canvas, patch, side * n)
        for thing in things:
            thing[1] &= ~mask
        things.append([kind, mask])
        if rng.random() < 0.3 and side > 0.12:  # a part on the object
            centre = np.argwhere(mask)[rng.integers(int(mask.sum()))][::-1]
            shape = _KINDS[rng.integers(len(_KINDS))]
            inner = _outline(canvas, shape, side * n * rng.uniform(0.2, 0.55), centre.astype(float))
            inner = Patch(inner.y, inner.x, inner.alpha * mask[inner.window])
            part = canvas.full(inner)
            if part.sum() >= 25 * canvas.unit**2:
                _dress(canvas, inner, side * n * 0.4)
                things.append(["part", part])
    if rng.random() < 0.5:
        _clutter(canvas)
    least = max(12, 20 * canvas.unit**2)
    return [(kind, mask) for kind, mask in things if mask.sum() >= least]


def _union(a: Patch, b: Patch) -> Patch:
    y, x = min(a.y, b.y), min(a.x, b.x)
    bottom = max(a.y + a.alpha.shape[0], b.y + b.alpha.shape[0])
    right = max(a.x + a.alpha.shape[1], b.x + b.alpha.shape[1])
    alpha = np.zeros((bottom - y, right - x), np.float32)
    for patch in (a, b):
        view = alpha[patch.y - y :, patch.x - x :][: patch.alpha.shape[0], : patch.alpha.shape[1]]
        np.maximum(view, patch.alpha, out=view)
    return Patch(y, x, alpha)


def _row(canvas: Canvas, kind: str, side: float, at: np.ndarray, below: list[list]) -> list[list]:
    """The same thing several times in a line, as holes, keys and pins are. Returns [kind, mask] of each."""
    rng = canvas.rng
    things: list[list] = []
    angle, gap = rng.uniform(0, 2 * np.pi), side * rng.uniform(1.1, 1.8)
    step = np.array([np.cos(angle), np.sin(angle)]) * gap
    outline, dress = rng.integers(2**31, size=2)
    for k in range(int(rng.integers(3, 9))):
        canvas.rng = np.random.default_rng(int(outline))  # the same chance each time: the same thing each time
        patch = _outline(canvas, kind, side, at + k * step)
        mask = canvas.full(patch)
        if mask.sum() >= 25 * canvas.unit**2:
            canvas.rng = np.random.default_rng(int(dress))
            _dress(canvas, patch, side)
            for thing in below + things:
                thing[1] &= ~mask
            things.append([kind, mask])
    canvas.rng = rng
    return things


def _divide(canvas: Canvas) -> None:
    """A second surface over a part of the ground, up to a straight edge: no object, though it has an edge."""
    rng, n = canvas.rng, canvas.size
    angle = rng.uniform(0, 2 * np.pi)
    ahead = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-ahead[1], ahead[0]])
    start = rng.uniform(0.2, 0.8, 2) * n
    corners = np.stack([-across, across, across + ahead, ahead - across])
    patch = canvas.pixel_polygon(start + corners * 2 * n)
    gain = rng.uniform(0.5, 1.5) * (1 + 0.05 * textures.fractal(rng, n, n, 12 * canvas.unit))
    canvas.multiply(patch, gain.astype(np.float32))


def _outline(canvas: Canvas, kind: str, side: float, centre: np.ndarray) -> Patch:
    """A shape about ``side`` pixels long at ``centre`` (x, y)."""
    rng, r = canvas.rng, side / 2
    angle = rng.uniform(0, 2 * np.pi)
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s], [s, c]]) @ np.diag([1, rng.uniform(0.4, 1)])
    match kind:
        case "blob":
            contours = [blob_points(rng, 0, 0, r, rng.uniform(0.1, 0.6))]
        case "polygon":
            t = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 9))))
            contours = [np.stack([np.cos(t), np.sin(t)], 1) * r * rng.uniform(0.6, 1, (len(t), 1))]
        case "star":
            count = int(rng.integers(4, 10))
            t = np.arange(2 * count) * np.pi / count
            reach = np.where(np.arange(2 * count) % 2, rng.uniform(0.35, 0.75), 1)
            contours = [np.stack([np.cos(t), np.sin(t)], 1) * r * reach[:, None]]
        case "ring":
            contours = [ellipse_points(0, 0, r), ellipse_points(0, 0, r * rng.uniform(0.35, 0.8))]
        case "bar":
            contours = [rectangle_points(0, 0, side, side * rng.uniform(0.06, 0.3), corner=rng.choice([0, 0.1]) * side)]
        case "ellipse":
            contours = [ellipse_points(0, 0, r, r * rng.uniform(0.4, 1))]
        case "rectangle":
            contours = [rectangle_points(0, 0, side, side * rng.uniform(0.4, 1), corner=rng.choice([0, 0.12]) * side)]
        case "curve":
            path = smooth_path(rng.uniform(-r, r, (int(rng.integers(3, 6)), 2)), 40)
            ahead = np.gradient(path, axis=0)
            across = np.stack([-ahead[:, 1], ahead[:, 0]], 1) / (np.linalg.norm(ahead, axis=1, keepdims=True) + 1e-6)
            half = side * rng.uniform(0.03, 0.1)
            contours = [np.concatenate([path + across * half, (path - across * half)[::-1]])]
        case "frame":
            share, tall = rng.uniform(0.5, 0.8), side * rng.uniform(0.5, 1)
            contours = [rectangle_points(0, 0, side, tall), rectangle_points(0, 0, side * share, tall * share)]
        case "cross":
            a = r * rng.uniform(0.15, 0.45)
            x, y = np.array([(-a, -r), (a, -r), (a, -a)]).T  # one arm, turned by right angles
            contours = [np.concatenate([np.stack(arm, 1) for arm in ((x, y), (-y, x), (-x, -y), (y, -x))])]
        case _:
            t = np.linspace(0.25, 2 * np.pi - 0.25, 50)
            moon = np.stack([np.cos(t), np.sin(t)], 1) * r
            inner = moon * rng.uniform(0.6, 0.85) + (r * 0.35, 0)
            contours = [np.concatenate([moon, inner[::-1]])]
    return canvas.pixel_polygon(*(contour @ turn.T + centre for contour in contours))


def _dress(canvas: Canvas, patch: Patch, side: float) -> None:
    """Give a shape a surface: a colour near or far from the ground's, texture, shading, shadow; a few are soft."""
    rng = canvas.rng
    h, w = patch.alpha.shape
    under = canvas.image[patch.window].reshape(-1, 3).mean(0)
    if rng.random() < 0.3:  # nearly the colour of what is under it
        tone = under * (1 + rng.choice([-1, 1]) * rng.uniform(0.12, 0.35)) + rng.normal(0, 0.03, 3)
    else:
        tone = rng.uniform(0.04, 0.95) * (1 + rng.normal(0, rng.choice([0.05, 0.4]), 3))
    tone = np.clip(tone, 0.02, 0.98)
    strength = rng.choice([0.02, 0.06, 0.14, 0.28])
    unit = canvas.unit
    match rng.integers(6):
        case 0:
            texture = textures.fractal(rng, h, w, rng.uniform(3, 40) * unit)
        case 1:
            texture = textures.brushed(rng, h, w, rng.uniform(0, np.pi), streak=rng.uniform(10, 60))
        case 2:
            texture = textures.weave(rng, h, w, rng.uniform(0, np.pi), rng.uniform(2, 9) * unit)
        case 3:
            texture = textures.pitted(rng, h, w, rng.uniform(2, 8) * unit)
        case 4:
            texture = textures.wood_grain(rng, h, w, rng.uniform(0, np.pi), rng.uniform(4, 14) * unit)
        case _:
            y, x = np.mgrid[0:h, 0:w].astype(np.float32)
            angle, pitch = rng.uniform(0, np.pi), rng.uniform(3, 24) * unit
            texture = np.sign(np.sin((x * np.cos(angle) + y * np.sin(angle)) / np.float32(pitch) * 3))
            texture = texture.astype(np.float32)
    shade = 1 + np.float32(strength) * texture
    if rng.random() < 0.7:
        canvas.shadow(patch, rng.uniform(1, 10), strength=rng.uniform(0.1, 0.6))
    if rng.random() < 0.35:
        canvas.centre, canvas.matrix = np.zeros(2), np.eye(2)
        height, slope = canvas.rounding(patch, side * rng.uniform(0.1, 0.5))
        shade = shade * (0.35 + 0.65 * height + 0.5 * slope)
    elif rng.random() < 0.5:
        y, x = np.mgrid[0:h, 0:w].astype(np.float32)
        along, down = np.float32(rng.uniform(-0.3, 0.3)), np.float32(rng.uniform(-0.3, 0.3))
        shade = shade * (1 + along * (x / w - 0.5) + down * (y / h - 0.5))
    soft = patch
    if rng.random() < 0.2:
        sigma = rng.uniform(0.6, 1.6) * unit
        alpha = cv2.GaussianBlur(patch.alpha, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
        soft = Patch(patch.y, patch.x, alpha)
    canvas.lay(soft, tone, shade.astype(np.float32), opacity=1.0 if rng.random() < 0.85 else rng.uniform(0.6, 0.9))
    if rng.random() < 0.5:
        canvas.bevel(patch, rng.uniform(0.8, 3), rng.uniform(0.4, 1.6), raised=rng.random() < 0.7)


def _clutter(canvas: Canvas) -> None:
    """Marks that are no objects: thin lines, light patches, specks."""
    rng, n = canvas.rng, canvas.size
    canvas.centre, canvas.matrix = np.zeros(2), np.eye(2)
    for _ in range(int(rng.integers(1, 6))):
        match rng.integers(3):
            case 0:
                line = canvas.stroke(rng.uniform(0, n, (2, 2)), rng.uniform(0.5, 1.8) * canvas.unit)
                canvas.multiply(line, rng.uniform(0.5, 1.6))
            case 1:
                glow = canvas.pixel_polygon(ellipse_points(*rng.uniform(0, n, 2), *rng.uniform(0.03, 0.3, 2) * n))
                canvas.multiply(canvas.blurred(glow, 8 * canvas.unit), rng.uniform(0.8, 1.35))
            case _:
                for x, y in rng.uniform(0, n, (int(rng.integers(3, 20)), 2)):
                    speck = ellipse_points(x, y, rng.uniform(0.6, 1.6) * canvas.unit, count=10)
                    canvas.multiply(canvas.pixel_polygon(speck), rng.uniform(0.5, 1.6))
