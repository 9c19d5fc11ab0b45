"""Where a defect is: envelopes, (h, w) float32 in 0..1, 1 where it changes the surface fully.

A shape has a limited extent, (rng, extent in pixels, unit = thickness of a fine line in pixels) -> envelope. An outline
fills a whole window, (rng, height, width) -> envelope: uneven bands, worn tongues, broken corners, cracks across a part.
"""

import cv2
import numpy as np

from datasets_builders.world import textures

# shapes


def _centred(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates x (1, side) and y (side, 1) about the middle."""
    at = np.arange(side, dtype=np.float32) - side / 2
    return at[None, :], at[:, None]


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
            thickness = max(1, round(float(thick) * fine))
            cv2.line(buffer, tuple(map(int, a)), tuple(map(int, b)), 255, thickness, cv2.LINE_8, 4)
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
        twig = walk(rng, extent * rng.uniform(0.12, 0.4), max(1.5, min(4 * unit, extent / 8)), bend=0.15, jitter=0.5)
        paths.append((twig + root, taper(rng, len(twig) - 1, width * 0.7)))
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
    x, y = _centred(side)
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
        axes = max(1, round(2 * a)), max(1, round(2 * b))
        cv2.ellipse(buffer, (int(2 * x), int(2 * y)), axes, rng.uniform(0, 180), 0, 360, 255, -1)
    return cv2.resize(buffer, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def dent_shape(rng: np.random.Generator, extent: float, unit: float) -> np.ndarray:
    return blob(rng, extent, aspect=rng.uniform(0.4, 1), rough=rng.uniform(0, 0.5), edge=rng.uniform(1.0, 1.6))


def stain_shape(rng: np.random.Generator, extent: float, unit: float) -> np.ndarray:
    return blob(rng, extent, aspect=rng.uniform(0.3, 1), rough=rng.uniform(0.4, 1.3), edge=rng.uniform(0.08, 0.5))


def hole_shape(rng: np.random.Generator, extent: float, unit: float) -> np.ndarray:
    return blob(rng, extent, aspect=rng.uniform(0.5, 1), rough=rng.uniform(0, 0.6), edge=rng.uniform(0.1, 0.35))


def contamination_shape(rng: np.random.Generator, extent: float, unit: float) -> np.ndarray:
    if rng.random() < 0.55:
        return _specks(rng, extent, unit)
    return blob(rng, extent, aspect=rng.uniform(0.4, 1), rough=rng.uniform(0.6, 1.4), edge=0.1, cell=0.2)


def discolouration_shape(rng: np.random.Generator, extent: float, unit: float) -> np.ndarray:
    aspect, rough = rng.uniform(0.25, 1), rng.uniform(0.1, 0.9)
    return blob(rng, extent, aspect=aspect, rough=rough, edge=rng.uniform(0.15, 0.8), cell=0.6)


def burr_shape(rng: np.random.Generator, extent: float, unit: float) -> np.ndarray:
    if rng.random() < 0.5:
        return chip_shape(rng, extent, unit)
    return blob(rng, extent, aspect=rng.uniform(0.25, 0.7), rough=1.2, edge=0.1, cell=0.15)


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
    x, y = _centred(side)
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
    x, y = _centred(side)
    u, v = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    away = np.sqrt(u * u + (v / rng.uniform(0.3, 0.9)) ** 2).astype(np.float32) / np.float32(extent / 2)
    streaks = textures.brushed(rng, side, side, -turn, streak=max(6.0, 0.35 * extent))
    field = 0.75 - away + rng.uniform(0.15, 0.35) * streaks
    return core(np.clip(field * np.float32(6) + 0.5, 0, 1).astype(np.float32))


def zone_shape(rng: np.random.Generator, extent: float, unit: float) -> np.ndarray:
    """A large zone with a soft or a sharp outline."""
    aspect, rough = rng.uniform(0.3, 1), rng.uniform(0, 0.6)
    return blob(rng, extent, aspect=aspect, rough=rough, edge=rng.choice([0.03, 0.3]), cell=0.6)


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


# outlines


def _frame(rng: np.random.Generator, height: int, width: int, *, lean: float) -> tuple[np.ndarray, np.ndarray]:
    """Depth 0..1 away from a random side of the window and place -1..1 along it, turned by about ``lean`` radians."""
    x, y = np.meshgrid(np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32))
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
    inside = np.float32(radius) - np.sqrt(u * u + v * v) + _shaken(rng, height, width)
    return _edge(inside, _softness(rng, height, width))


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
