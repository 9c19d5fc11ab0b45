"""Long products: cable, capacitor, cylinder, screw, wood."""

import numpy as np

from datasets_builders.world import textures
from datasets_builders.world.canvas import Canvas, Patch, ellipse_points, smooth_path

_WIRES = (
    (0.72, 0.1, 0.1),
    (0.12, 0.22, 0.65),
    (0.85, 0.72, 0.12),
    (0.16, 0.5, 0.2),
    (0.36, 0.22, 0.14),
    (0.85, 0.85, 0.82),
)
_COPPER = (0.78, 0.47, 0.3)
_STEEL = (0.62, 0.63, 0.65)


def _across(canvas: Canvas, patch: Patch, half: float) -> np.ndarray:
    """Shade of a cylinder lying along local x, whose half width is ``half``: bright line, dark rims. Returns (h, w)."""
    _, v = canvas.coordinates(patch)
    v = np.clip(v / half, -1, 1)
    lit = 0.45 * float(np.sin(np.arctan2(canvas.light[1], canvas.light[0]) - canvas.angle))
    base = 0.3 + 0.7 * np.sqrt(1 - 0.97 * (v - lit * 0.3) ** 2 / (1 + abs(lit) * 0.3) ** 2)
    return (
        base + 0.55 * np.exp(-(((v - lit) / 0.13) ** 2)) + 0.12 * np.exp(-(((v + 0.75 * np.sign(lit)) / 0.1) ** 2))
    ).astype(np.float32)


def draw_cable(canvas: Canvas) -> None:
    """A jacketed cable whose stripped end fans out into insulated wires with bare copper tips."""
    rng = canvas.rng
    canvas.pose(scale=(0.85, 1.15), centre=(0.42, 0.58))
    n, width = canvas.size, rng.uniform(0.34, 0.5)
    jacket = canvas.pick((0.1, 0.1, 0.11), (0.55, 0.55, 0.56), (0.8, 0.42, 0.1), (0.88, 0.88, 0.85))
    rubber = 0.05 * textures.grain(rng, n, n) + 0.05 * textures.fractal(rng, n, n, 16 * canvas.unit)
    twist = 0.1 * textures.brushed(rng, n, n, canvas.angle + 0.7, streak=6)
    bend = rng.uniform(-0.3, 0.3)
    sheath = smooth_path([(-2.2, bend * 2), (-1.2, bend), (-0.6, bend * 0.15), (-0.05, 0)])
    count = int(rng.integers(3, 6))
    order = rng.permutation(len(_WIRES))[:count]
    ends = np.linspace(-1, 1, count) * rng.uniform(0.4, 0.7)
    thick = min(0.24, 1.5 * width / count)
    outer = canvas.stroke(sheath, width)
    for wire, end in zip(order, ends):
        reach = rng.uniform(0.55, 0.8)
        root = end / 0.7 * width * 0.3
        path = smooth_path([(-0.15, root), (0.05, root), (reach * 0.55, end * rng.uniform(0.6, 0.9)), (reach, end)])
        strip = rng.uniform(0.18, 0.3)
        ahead = path[-1] - path[-6]
        ahead = ahead / np.linalg.norm(ahead)
        tip = np.stack([path[-1] - ahead * 0.02, path[-1] + ahead * strip])
        colour = canvas.coloured(_WIRES[wire])
        copper = canvas.stroke(tip, thick * 0.55)
        canvas.shadow(canvas.stroke(path, thick), 4)

        def bare(tip=tip, copper=copper):
            canvas.shadow(copper, 3)
            canvas.tube(tip, thick * 0.55, _COPPER, twist, gloss=0.5)

        canvas.slot("conductor", copper, bare)
        canvas.part("wire", canvas.body(canvas.tube(path, thick, colour, rubber * 0.5, gloss=0.35)).without(outer))
    canvas.shadow(outer, 7)
    canvas.part("jacket", canvas.body(canvas.tube(sheath, width, jacket, rubber, gloss=0.2)))
    if rng.random() < 0.7:  # printed line and metre marks along the jacket
        ink = (0.8, 0.8, 0.8) if jacket.mean() < 0.4 else (0.15, 0.15, 0.15)
        middle = sheath[6:-4] + (0, width * rng.uniform(-0.2, 0.2))
        for k in range(0, len(middle) - 2, 3):
            if rng.random() < 0.7:
                canvas.lay(canvas.stroke(middle[k : k + 3], 0.012), ink, opacity=0.7)
                canvas.lay(canvas.stroke(middle[k + 1 : k + 2] + [(0, -0.03), (0, 0.03)], 0.012), ink, opacity=0.7)


def draw_capacitor(canvas: Canvas) -> None:
    """An electrolytic capacitor on its side: sleeve with a polarity stripe, crimped bottom, two leads."""
    rng = canvas.rng
    canvas.pose(scale=(0.75, 1.05), centre=(0.44, 0.56))
    n, half = canvas.size, rng.uniform(0.36, 0.5)
    left, right = -rng.uniform(0.75, 0.9), rng.uniform(0.25, 0.4)
    sleeve = canvas.pick((0.09, 0.1, 0.14), (0.1, 0.16, 0.42), (0.12, 0.3, 0.24), (0.36, 0.14, 0.1), (0.3, 0.22, 0.4))
    film = 0.04 * textures.fractal(rng, n, n, 10 * canvas.unit) + 0.03 * textures.grain(rng, n, n)
    metal = 0.08 * textures.brushed(rng, n, n, canvas.angle + np.pi / 2)
    for sign, length in ((-1, rng.uniform(0.5, 0.65)), (1, rng.uniform(0.6, 0.85))):
        y = sign * half * 0.45
        lead = np.array([(right - 0.02, y), (right + length * 0.6, y * 1.1), (right + length, y * rng.uniform(1, 1.5))])
        footprint = canvas.stroke(lead, 0.06)

        def wire(lead=lead, footprint=footprint):
            canvas.shadow(footprint, 5)
            canvas.tube(lead, 0.06, (0.78, 0.78, 0.76), metal, gloss=0.7)

        canvas.slot("lead", footprint, wire)
    can = canvas.rectangle((left + right) / 2, 0, right - left, 2 * half, corner=0.09)
    canvas.shadow(can, 9, strength=0.55)
    canvas.body(can)
    u, v = canvas.coordinates(can)
    shade = _across(canvas, can, half)
    canvas.lay(can, sleeve, shade * (1 + film[can.window]))
    canvas.part("sleeve", can)
    groove = right - rng.uniform(0.1, 0.16)
    canvas.multiply(
        can,
        (1 - 0.5 * np.exp(-(((u - groove) / 0.03) ** 2)) + 0.4 * np.exp(-(((u - groove - 0.05) / 0.02) ** 2))).astype(
            np.float32
        ),
    )
    top = canvas.rectangle(left + 0.045, 0, 0.09, 2 * half * 0.97, corner=0.05)
    canvas.lay(top, (0.75, 0.76, 0.78), _across(canvas, top, half) * (1 + metal[top.window]))
    canvas.part("vent", top)
    stripe_y = rng.uniform(-0.5, 0.5) * half
    stripe = canvas.rectangle((left + groove) / 2 + 0.04, stripe_y, groove - left - 0.16, 0.3 * half)
    pale = canvas.coloured((0.78, 0.8, 0.78))
    canvas.lay(stripe, pale, _across(canvas, stripe, half) * (1 + film[stripe.window]), opacity=0.9)
    canvas.part("stripe", stripe)
    for x in np.arange(left + 0.2, groove - 0.12, 0.2):
        canvas.lay(canvas.rectangle(x, stripe_y, 0.09, 0.035), sleeve)
    _print_rows(canvas, left + 0.2, stripe_y + (0.5 if stripe_y < 0 else -0.62) * half, pale)


def _print_rows(canvas: Canvas, x: float, y: float, ink: np.ndarray, *, rows: int = 2, height: float = 0.075) -> None:
    """Printed lettering: rows of small strokes that read as text, not as damage."""
    for row in range(rows):
        at, count = (x, y + row * height * 1.7), int(canvas.rng.integers(4, 9))
        size = (height * 0.6, height)
        canvas.lettering(count, at, height * 0.95, size, height * 0.18, ink, points=4, opacity=0.8)


def draw_cylinder(canvas: Canvas) -> None:
    """A turned steel cylinder seen obliquely: its end face, ring grooves, a bore and a set screw."""
    rng = canvas.rng
    canvas.pose(scale=(0.75, 1.1), centre=(0.44, 0.56))
    n, half = canvas.size, rng.uniform(0.42, 0.6)
    flat = rng.uniform(0.3, 0.55)
    left, right = -0.85, rng.uniform(0.35, 0.6)
    tone = canvas.pick(_STEEL, (0.72, 0.58, 0.32), (0.45, 0.46, 0.5), (0.74, 0.75, 0.76))
    marks = rng.uniform(0.05, 0.13) * textures.brushed(rng, n, n, canvas.angle + np.pi / 2, streak=60)
    rough = 0.05 * textures.fractal(rng, n, n, 6 * canvas.unit)
    t = np.linspace(np.pi / 2, 3 * np.pi / 2, 36)
    back = np.stack([left + half * flat * np.cos(t), half * np.sin(t)], 1)
    front = np.stack([right - half * flat * np.cos(t), -half * np.sin(t)], 1)
    side = canvas.polygon(np.concatenate([back, front]))
    canvas.shadow(side, 10, strength=0.5)
    canvas.body(side)
    u, v = canvas.coordinates(side)
    arc = u + half * flat * np.sqrt(np.clip(1 - (v / half) ** 2, 0, 1))  # follows the rim, so that grooves look round
    canvas.lay(side, tone, _across(canvas, side, half) * (1 + marks[side.window] + rough[side.window]))
    face = canvas.ellipse(right, 0, half * flat, half)
    canvas.part("barrel", side.without(face))
    for _ in range(int(rng.integers(1, 4))):
        x, wide = rng.uniform(left + 0.25, right), rng.uniform(0.015, 0.05)
        ring = (
            1
            - 0.55 * np.exp(-(((arc - x) / wide) ** 2))
            + 0.3 * np.exp(-(((arc - x - 1.8 * wide) / (0.6 * wide)) ** 2))
        )
        canvas.multiply(side, ring.astype(np.float32))
    canvas.body(face)
    x, y = canvas.to_pixels([(right, 0)])[0]
    lathe = 0.1 * textures.turned(rng, n, n, (x, y), 1.6 * canvas.unit)
    canvas.block(
        face, tone * rng.uniform(0.8, 1.25), 1 + lathe[face.window] + rough[face.window], bevel=(1.5, 1.2), part="face"
    )
    bore = rng.uniform(0.2, 0.5)
    if rng.random() < 0.7:
        hole = canvas.ellipse(right, 0, half * flat * bore, half * bore)
        canvas.block(hole, (0.06, 0.06, 0.07), 1 + 3 * rough[hole.window], bevel=(2, 1.5), raised=False, part="bore")
    place = rng.uniform(left + 0.3, right - 0.35), rng.uniform(-0.45, 0.45) * half
    head = canvas.ellipse(*place, 0.09, 0.1)

    def screw():
        canvas.block(head, (0.3, 0.3, 0.32), 1 + rough[head.window], bevel=(1.5, 1.5))
        canvas.lay(canvas.rectangle(*place, 0.12, 0.03, angle=rng.uniform(0, 3)), (0.05, 0.05, 0.05))

    def socket():
        canvas.block(head, (0.1, 0.1, 0.1), bevel=(2, 1.5), raised=False)

    canvas.slot("set_screw", head, screw, empty=socket)


def draw_screw(canvas: Canvas) -> None:
    """A screw from the side: head, shank, thread, pointed tip, with a washer under the head."""
    rng = canvas.rng
    canvas.pose(scale=(0.85, 1.1), centre=(0.44, 0.56))
    n = canvas.size
    tone = canvas.pick((0.6, 0.61, 0.63), (0.72, 0.6, 0.3), (0.22, 0.22, 0.24), (0.68, 0.66, 0.6))
    rough = 0.06 * textures.fractal(rng, n, n, 8 * canvas.unit) + 0.03 * textures.grain(rng, n, n)
    core, pitch = rng.uniform(0.12, 0.19), rng.uniform(0.085, 0.13)
    start, end, tip = -rng.uniform(0.1, 0.35), rng.uniform(0.6, 0.7), 0.92
    depth = core * 0.32
    x = np.linspace(start, tip, 240)
    taper = np.clip((tip - x) / (tip - end), 0.03, 1)
    saw = np.abs(((x / pitch) % 1) - 0.5) * 2
    edge = (core + depth * saw) * taper
    other = (core + depth * np.abs((((x / pitch) + 0.5) % 1) - 0.5) * 2) * taper
    thread = canvas.polygon(np.concatenate([np.stack([x, -edge], 1), np.stack([x[::-1], other[::-1]], 1)]))
    shank = canvas.rectangle((start - 0.72) / 2 + 0.02, 0, start + 0.76, 2 * core)
    head_half = core * rng.uniform(2.0, 2.5)
    pan = rng.random() < 0.5
    cap = rng.uniform(0.16, 0.24)
    head = canvas.polygon(_head_outline(pan, head_half, cap, core))
    for patch in (thread, shank, head):
        canvas.shadow(patch, 7, strength=0.5)
    canvas.lay(canvas.body(shank), tone, _across(canvas, shank, core) * (1 + rough[shank.window]))
    canvas.body(thread)
    u, v = canvas.coordinates(thread)
    phase = (u - v * pitch * 0.5 / core) / pitch  # the thread leans
    flank = 0.75 + 0.5 * np.cos(2 * np.pi * phase) + 0.25 * np.cos(4 * np.pi * phase + 0.6)
    canvas.lay(
        thread, tone, _across(canvas, thread, core + depth) * np.clip(flank, 0.15, 1.5) * (1 + rough[thread.window])
    )
    canvas.part("thread", thread)
    canvas.body(head)
    canvas.block(head, tone, _across(canvas, head, head_half) * (1 + rough[head.window]), bevel=(2, 1.0), part="head")
    if pan:
        canvas.lay(canvas.rectangle(-0.72 - cap * 0.83, 0, cap * 0.35, core * 0.5), (0.05, 0.05, 0.05), opacity=0.8)
    washer_half = head_half * 1.12
    ring_x = -0.72 + (0.04 if pan else cap + 0.03)
    washer = canvas.rectangle(ring_x, 0, 0.07, 2 * washer_half, corner=0.03)

    def ring():
        shade = _across(canvas, washer, washer_half) * (1 + rough[washer.window])
        canvas.block(washer, np.clip(tone * 1.15, 0, 1), shade, bevel=(1, 1.2))

    canvas.slot("washer", washer, ring)


def _head_outline(pan: bool, half: float, height: float, core: float) -> np.ndarray:
    """A pan head, or a countersunk one."""
    if pan:
        t = np.linspace(np.pi / 2, 3 * np.pi / 2, 30)
        return np.stack([-0.72 + height * np.cos(t), half * np.sin(t)], 1)
    edge, flat, neck = -0.72 - 0.06, -0.72, -0.72 + height
    return np.array([(edge, -half), (edge, half), (flat, half), (neck, core), (neck, -core), (flat, -half)])


def draw_wood(canvas: Canvas) -> None:
    """A planed plank with grain, a knot and dowels."""
    rng = canvas.rng
    canvas.pose(scale=(0.9, 1.3), lean=0.25, turns=2, centre=(0.45, 0.55))
    n = canvas.size
    tone = canvas.pick((0.72, 0.53, 0.33), (0.5, 0.32, 0.18), (0.83, 0.7, 0.5), (0.6, 0.36, 0.22), amount=0.05)
    rings = textures.wood_grain(rng, n, n, canvas.angle, rng.uniform(7, 16) * canvas.unit)
    figure = rng.uniform(0.07, 0.16) * rings + 0.03 * textures.grain(rng, n, n)
    wide = rng.uniform(1.1, 1.6)
    plank = canvas.rectangle(0, 0, rng.uniform(1.7, 2.6), wide, corner=0.02)
    canvas.block(canvas.body(plank), tone, 1 + figure[plank.window], shadow=9, bevel=(1.5, 1.0), part="plank")
    for _ in range(int(rng.integers(0, 3))):  # knots are wood, not damage
        x, y, r = rng.uniform(-0.7, 0.7), rng.uniform(-0.4, 0.4) * wide, rng.uniform(0.05, 0.11)
        zone = canvas.ellipse(x, y, r * 2.4, r * 1.6)
        u, v = canvas.coordinates(zone)
        d = np.sqrt(((u - x) / (1.4 * r)) ** 2 + ((v - y) / r) ** 2)
        eye = 0.45 * np.exp(-((d / 0.75) ** 2)) + 0.14 * np.cos(d * 11) * np.exp(-d)
        canvas.multiply(zone, (1 - np.clip(1.7 - d, 0, 1) * eye).astype(np.float32))
    for k in range(int(rng.integers(1, 4))):
        x, y, r = (k - 1) * 0.5 + rng.uniform(-0.1, 0.1), rng.uniform(-0.36, 0.36) * wide, rng.uniform(0.07, 0.1)
        dowel = canvas.polygon(ellipse_points(x, y, r))

        def plug(dowel=dowel):
            texture = 0.1 * textures.fractal(rng, *dowel.alpha.shape, 4 * canvas.unit)
            canvas.block(dowel, canvas.coloured(tone * 0.85), 1 + texture, bevel=(1, 0.8))

        def bored(dowel=dowel):
            canvas.block(dowel, tone * 0.25, 1 + figure[dowel.window], bevel=(2, 1.5), raised=False)

        canvas.slot("dowel", dowel, plug, empty=bored)
    if rng.random() < 0.3:  # joint between two boards
        y = rng.uniform(-0.3, 0.3) * wide
        canvas.multiply(canvas.stroke(np.array([(-1.3, y), (1.3, y)]), 0.012), 0.45)
