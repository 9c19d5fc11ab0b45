"""Round and machined products: casting, groove, hemisphere, lens, ring."""

import cv2
import numpy as np

from datasets_builders.world import textures
from datasets_builders.world.canvas import Canvas, Patch, ellipse_points, rectangle_points, unit_vector

_METALS = ((0.62, 0.63, 0.65), (0.5, 0.5, 0.52), (0.72, 0.58, 0.34), (0.74, 0.74, 0.75), (0.36, 0.37, 0.4))


def _metal(canvas: Canvas) -> np.ndarray:
    return canvas.coloured(_METALS[canvas.rng.integers(len(_METALS))])


def _conic(canvas: Canvas, patch: Patch) -> np.ndarray:
    """The bright bow-tie a turned face shows under a lamp. Returns (h, w) float32 around 1."""
    u, v = canvas.coordinates(patch)
    c, s = canvas.light  # cosine of twice the angle to the light, without the angle
    uu, vv = u * u, v * v
    cosine = ((uu - vv) * (c * c - s * s) + 4 * c * s * u * v) / (uu + vv + np.float32(1e-6))
    return 1 + np.float32(0.28) * cosine * cosine * cosine


def _sunk(canvas: Canvas, patch: Patch, *, tone: float = 0.07) -> None:
    canvas.block(patch, (tone, tone, tone * 1.1), bevel=(2, 1.6), raised=False)


def draw_ring(canvas: Canvas) -> None:
    """A bearing: outer and inner race with balls between them."""
    rng = canvas.rng
    canvas.pose(scale=(0.78, 1.12), tilt=(0.8, 1), centre=(0.43, 0.57))
    n, tone = canvas.size, _metal(canvas)
    centre = tuple(canvas.centre)
    lathe = rng.uniform(0.04, 0.1) * textures.turned(rng, n, n, centre, 1.5 * canvas.unit) + 0.04 * textures.fractal(
        rng, n, n, 20 * canvas.unit
    )
    inner = rng.uniform(0.3, 0.45)
    width = (0.9 - inner) * rng.uniform(0.24, 0.32)
    whole = canvas.annulus(0, 0, 0.9, inner)
    canvas.shadow(whole, 9, strength=0.5)
    canvas.body(whole)
    channel = canvas.annulus(0, 0, 0.9 - width, inner + width)
    canvas.lay(whole, tone * 0.3, 1 + lathe[whole.window])
    middle, radius = (0.9 + inner) / 2, (0.9 - inner) / 2 - width
    count = int(2 * np.pi * middle / (2.35 * radius))
    turn = rng.uniform(0, 2 * np.pi)
    for k in range(count):
        angle = turn + 2 * np.pi * k / count
        x, y = middle * np.cos(angle), middle * np.sin(angle)
        ball = canvas.ellipse(x, y, radius * 1.04)

        def sphere(ball=ball):
            height, slope = canvas.rounding(ball, radius)
            canvas.lay(ball, (0.7, 0.71, 0.73), 0.25 + 0.75 * height + 0.6 * slope)
            spot = np.clip(height + 0.9 * slope - 0.95, 0, 1) * 6
            canvas.lay(Patch(ball.y, ball.x, ball.alpha * np.clip(spot, 0, 1)), (1, 1, 1))

        canvas.slot("ball", ball, sphere)
    for kind, outer, bore in (("outer_race", 0.9, 0.9 - width), ("inner_race", inner + width, inner)):
        race = canvas.annulus(0, 0, outer, bore)
        canvas.block(
            race, tone, _conic(canvas, race) * (1 + lathe[race.window]), shadow=2, strength=0.3, bevel=(1.6, 1.3)
        )
        canvas.part(kind, race)
    canvas.part("channel", channel)
    if rng.random() < 0.6:  # engraved lettering on the outer race
        start = rng.uniform(0, 2 * np.pi)
        for k in range(int(rng.integers(5, 12))):
            angle = start + k * 0.075
            at = (0.9 - width / 2) * unit_vector(angle)
            glyph = at + rng.normal(0, width * 0.13, (4, 2))
            canvas.multiply(canvas.stroke(glyph, 0.014), 0.45)


def draw_casting(canvas: Canvas) -> None:
    """A sand-cast part: rough flange with bolt holes, a raised hub with a machined face, ribs."""
    rng = canvas.rng
    canvas.pose(scale=(0.78, 1.1), tilt=(0.85, 1), centre=(0.44, 0.56))
    n = canvas.size
    tone = canvas.pick((0.48, 0.48, 0.49), (0.36, 0.36, 0.38), (0.58, 0.57, 0.55), (0.42, 0.36, 0.32))
    cast = rng.uniform(0.06, 0.13) * textures.pitted(
        rng, n, n, rng.uniform(3, 6) * canvas.unit
    ) + 0.06 * textures.fractal(rng, n, n, 50 * canvas.unit)
    bolts = int(rng.integers(3, 7))
    t = np.linspace(0, 2 * np.pi, 144, endpoint=False)
    radius = 0.76 + 0.13 * np.cos(bolts * t) ** (1 if rng.random() < 0.5 else 3)
    flange = canvas.polygon(np.stack([radius * np.cos(t), radius * np.sin(t)], 1))
    canvas.block(
        canvas.body(flange), tone, 1 + cast[flange.window], shadow=11, strength=0.55, bevel=(3, 1.4), part="flange"
    )
    hub_radius = rng.uniform(0.34, 0.45)
    for k in range(bolts):
        angle = 2 * np.pi * k / bolts
        along = unit_vector(angle)
        rib = canvas.stroke(np.stack([along * hub_radius * 0.9, along * 0.6]), 0.1)
        canvas.multiply(rib, 1.12)
        canvas.bevel(rib, 2, 1.2)
        hole = canvas.ellipse(*(along * 0.74), 0.085)

        def bolt(hole=hole, angle=angle):
            canvas.block(hole, (0.66, 0.66, 0.66), 1 + cast[hole.window] * 0.5, shadow=2, bevel=(1.5, 1.6))
            x, y = 0.74 * np.cos(angle), 0.74 * np.sin(angle)
            hexagon = canvas.polygon(ellipse_points(x, y, 0.045, count=6))
            canvas.lay(hexagon, (0.12, 0.12, 0.12))

        canvas.slot("bolt", hole, bolt, empty=lambda hole=hole: _sunk(canvas, hole))
    hub = canvas.ellipse(0, 0, hub_radius)
    canvas.block(
        hub, np.clip(tone * 1.05, 0, 1), 1 + cast[hub.window], shadow=7, strength=0.4, bevel=(3, 1.6), part="hub"
    )
    face = canvas.annulus(0, 0, hub_radius * 0.82, hub_radius * 0.45)
    lathe = 0.06 * textures.turned(rng, n, n, tuple(canvas.centre), 1.7 * canvas.unit)
    canvas.lay(face, np.clip(tone * 1.4, 0, 1), _conic(canvas, face) * (1 + lathe[face.window]))
    canvas.part("face", face)
    bore = canvas.ellipse(0, 0, hub_radius * 0.45)
    _sunk(canvas, bore, tone=0.09)
    canvas.part("bore", bore)


def draw_groove(canvas: Canvas) -> None:
    """A machined block with parallel grooves and dowel pins."""
    rng = canvas.rng
    canvas.pose(scale=(0.85, 1.25), tilt=(0.85, 1), centre=(0.44, 0.56))
    n, tone = canvas.size, _metal(canvas)
    milled = rng.uniform(0.05, 0.12) * textures.brushed(rng, n, n, canvas.angle + rng.choice([0, np.pi / 2]), streak=50)
    milled = milled + 0.04 * textures.fractal(rng, n, n, 30 * canvas.unit)
    long, wide = rng.uniform(1.6, 1.9), rng.uniform(1.1, 1.6)
    block = canvas.rectangle(0, 0, long, wide, corner=rng.uniform(0, 0.12))
    canvas.block(
        canvas.body(block), tone, 1 + milled[block.window], shadow=10, strength=0.5, bevel=(2.5, 1.3), part="block"
    )
    count = int(rng.integers(2, 5))
    gap = wide / (count + 0.4)
    for k in range(count):
        y = (k - (count - 1) / 2) * gap
        cut = canvas.rectangle(0, y, long * rng.uniform(0.78, 0.84), gap * rng.uniform(0.34, 0.5), corner=gap * 0.25)
        canvas.lay(cut, tone * 0.5, 1 + 1.3 * milled[cut.window])
        u, v = canvas.coordinates(cut)
        canvas.multiply(cut, (0.8 + 0.35 * np.cos((v - y) / gap * 5)).astype(np.float32))
        canvas.bevel(cut, 2.5, 1.8, raised=False)
        canvas.part("groove", cut)
    for k in range(count - 1):
        y = (k - (count - 2) / 2) * gap
        for x in (-0.44 * long, 0.44 * long):
            pin = canvas.ellipse(x, y, gap * 0.17)

            def dowel(pin=pin):
                canvas.block(pin, (0.8, 0.8, 0.8), 1 + 0.5 * milled[pin.window], bevel=(1.5, 1.8))

            canvas.slot("pin", pin, dowel, empty=lambda pin=pin: _sunk(canvas, pin))


def draw_hemisphere(canvas: Canvas) -> None:
    """A dome on a round flange held by rivets."""
    rng = canvas.rng
    canvas.pose(scale=(0.78, 1.12), centre=(0.44, 0.56))
    n = canvas.size
    tone = (
        _metal(canvas)
        if rng.random() < 0.6
        else canvas.pick((0.7, 0.16, 0.12), (0.16, 0.3, 0.6), (0.85, 0.84, 0.8), (0.15, 0.15, 0.16))
    )
    skin = rng.uniform(0.01, 0.04) * textures.fractal(
        rng, n, n, 5 * canvas.unit, roughness=0.8
    ) + 0.02 * textures.fractal(rng, n, n, 40 * canvas.unit)
    dome_radius = rng.uniform(0.6, 0.74)
    flange = canvas.ellipse(0, 0, 0.92)
    canvas.shadow(flange, 8, strength=0.5)
    lathe = 0.07 * textures.turned(rng, n, n, tuple(canvas.centre), 1.5 * canvas.unit)
    plate = canvas.coloured((0.55, 0.55, 0.57))
    canvas.block(canvas.body(flange), plate, _conic(canvas, flange) * (1 + lathe[flange.window]), bevel=(1.6, 1.3))
    canvas.part("flange", canvas.annulus(0, 0, 0.92, dome_radius))
    count = int(rng.integers(4, 9))
    for k in range(count):
        angle = 2 * np.pi * k / count
        at = (0.92 + dome_radius) / 2 * unit_vector(angle)
        rivet = canvas.ellipse(*at, (0.92 - dome_radius) * 0.3)

        def head(rivet=rivet):
            canvas.shadow(rivet, 1.5)
            height, slope = canvas.rounding(rivet, 0.05)
            canvas.lay(rivet, (0.62, 0.62, 0.6), 0.4 + 0.6 * height + 0.6 * slope)

        canvas.slot("rivet", rivet, head, empty=lambda rivet=rivet: _sunk(canvas, rivet))
    dome = canvas.ellipse(0, 0, dome_radius)
    canvas.shadow(dome, 9, strength=0.5)
    u, v = canvas.coordinates(dome)
    u, v = u / dome_radius, v / dome_radius
    z = np.sqrt(np.clip(1 - u * u - v * v, 0, 1))
    c, s = np.cos(-canvas.angle), np.sin(-canvas.angle)
    lx, ly = c * canvas.light[0] - s * canvas.light[1], s * canvas.light[0] + c * canvas.light[1]
    facing = 0.62 * (u * lx + v * ly) + 0.78 * z
    canvas.lay(dome, tone, np.clip(0.3 + 0.95 * facing, 0.15, 2) * (1 + skin[dome.window]))
    hot = np.clip(facing - 0.93, 0, 1) / 0.07
    canvas.lay(Patch(dome.y, dome.x, dome.alpha * np.clip(hot, 0, 1) ** 2), (1, 1, 1), opacity=rng.uniform(0.4, 0.95))
    rim = np.clip(1 - z, 0, 1) ** 3 * np.clip(-(u * lx + v * ly), 0, 1)  # light thrown back by the flange
    canvas.lay(Patch(dome.y, dome.x, dome.alpha * rim.astype(np.float32)), tone, opacity=0.5)
    canvas.part("dome", dome)


def draw_lens(canvas: Canvas) -> None:
    """A glass lens in a ribbed barrel: what is behind it appears magnified, with coated reflections over it."""
    rng, n = canvas.rng, canvas.size
    canvas.pose(scale=(0.8, 1.12), centre=(0.44, 0.56))
    behind = canvas.image.copy()
    ridges = rng.integers(40, 90)
    t = np.linspace(0, 2 * np.pi, 6 * int(ridges), endpoint=False)
    r = 0.9 + 0.015 * np.sign(np.sin(ridges * t))
    barrel = canvas.body(canvas.polygon(np.stack([r * np.cos(t), r * np.sin(t)], 1)))
    tone = canvas.pick((0.08, 0.08, 0.09), (0.2, 0.2, 0.22), (0.6, 0.6, 0.62))
    lathe = 0.1 * textures.turned(rng, n, n, tuple(canvas.centre), 1.8 * canvas.unit) + 0.04 * textures.grain(rng, n, n)
    shade = _conic(canvas, barrel) * (1 + lathe[barrel.window])
    canvas.block(barrel, tone, shade, shadow=9, strength=0.5, bevel=(2, 1.2))
    radius = rng.uniform(0.64, 0.76)
    canvas.part("barrel", canvas.annulus(0, 0, 0.9, radius))
    ledge = canvas.annulus(0, 0, radius + 0.05, radius)
    canvas.block(ledge, tone * 0.4, bevel=(1.2, 1.4), raised=False)
    glass = canvas.ellipse(0, 0, radius)
    _refraction(canvas, glass, radius, behind)
    canvas.part("glass", glass)
    _reflections(canvas, glass, radius)
    count = int(rng.integers(2, 5))
    for k in range(count):
        angle = 2 * np.pi * k / count + 0.4
        at = (radius + 0.02) * unit_vector(angle)
        tab = canvas.polygon(rectangle_points(*at, 0.16, 0.13, corner=0.03, angle=angle))

        def clip(tab=tab):
            canvas.block(tab, (0.68, 0.68, 0.66), 1 + lathe[tab.window], shadow=2, bevel=(1.3, 1.3))

        canvas.slot("clip", tab, clip)


def _from_middle(canvas: Canvas, glass: Patch, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Local x and y of a lens's pixels, and their distance from its middle, 1 at the rim; (h, w) float32 each."""
    u, v = canvas.coordinates(glass)
    return u, v, np.sqrt(u * u + v * v) / np.float32(radius)


def _refraction(canvas: Canvas, glass: Patch, radius: float, behind: np.ndarray) -> None:
    rng = canvas.rng
    _, _, rho = _from_middle(canvas, glass, radius)
    zoom = np.float32(rng.uniform(0.35, 0.6)) * (1 + np.float32(0.5) * rho * rho)
    h, w = glass.alpha.shape
    px = np.arange(glass.x, glass.x + w, dtype=np.float32)[None, :]
    py = np.arange(glass.y, glass.y + h, dtype=np.float32)[:, None]
    cx, cy = np.float32(canvas.centre)
    x, y = cx + (px - cx) * zoom, cy + (py - cy) * zoom
    refracted = cv2.remap(behind, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    tint = canvas.pick((0.75, 0.85, 0.95), (0.8, 0.95, 0.85), (0.9, 0.8, 0.95), (0.95, 0.95, 0.95))
    dusty = 1 + 0.02 * textures.fractal(rng, h, w, 12 * canvas.unit)
    fading = (np.float32(1.05) - np.float32(0.75) * rho * rho * rho) * dusty
    gain = tint * rng.uniform(0.75, 1.25)
    seen = refracted * cv2.merge([fading * np.float32(channel) for channel in gain])
    view = canvas.image[glass.window]
    view += cv2.merge([glass.alpha] * 3) * (seen - view)


def _reflections(canvas: Canvas, glass: Patch, radius: float) -> None:
    """Of the coating, arcs towards the lamp; and of the window of the room."""
    rng = canvas.rng
    u, v, rho = _from_middle(canvas, glass, radius)
    lx, ly = np.linalg.solve(canvas.matrix, canvas.light) * canvas.scale
    for place, strength in ((0.55, 0.35), (-0.35, 0.2), (0.8, 0.15)):
        off = (rho - np.float32(abs(place))) * np.float32(20)
        ahead = (u * np.float32(lx) + v * np.float32(ly)) * np.float32(np.sign(place) / radius)
        towards = np.clip(ahead / (rho + np.float32(1e-3)), 0, 1)
        arc = np.exp(-off * off) * np.square(towards * towards * towards)
        colour = canvas.pick((0.7, 0.75, 1), (0.8, 0.6, 0.95), (0.65, 0.95, 0.75), (1, 1, 1))
        canvas.lay(Patch(glass.y, glass.x, glass.alpha * arc), colour, opacity=strength * rng.uniform(0.6, 2.2))
    if rng.random() < 0.7:
        pane = canvas.rectangle(lx * 0.3, ly * 0.3, 0.16, 0.22, corner=0.03, angle=0.2)
        canvas.lay(pane, (1, 1, 1), opacity=rng.uniform(0.15, 0.5))
