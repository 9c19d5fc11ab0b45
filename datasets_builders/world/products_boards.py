"""Boards and assemblies: console, electronics, pcb_1, pcb_2."""

import numpy as np

from datasets_builders.world import textures
from datasets_builders.world.canvas import Canvas, Patch, ellipse_points, rectangle_points, unit_vector

_TIN = (0.74, 0.75, 0.76)
_GOLD = (0.8, 0.64, 0.3)


def _pads(canvas: Canvas, points: list[tuple[float, float]], width: float, height: float, angle: float = 0.0) -> None:
    pads = canvas.polygon(*(rectangle_points(x, y, width, height, angle=angle) for x, y in points))
    canvas.block(pads, _TIN, canvas.rng.uniform(0.85, 1.1), bevel=(1, 1.2))


def _chip(
    canvas: Canvas, x: float, y: float, width: float, height: float, texture: np.ndarray, *, pins: str = "sides"
) -> None:
    """A black package with pins: a removable slot with its solder pads beneath."""
    body = canvas.rectangle(x, y, width, height, corner=0.01)
    pitch = 0.055
    feet = []
    if pins in ("sides", "all"):
        ys = np.arange(y - height / 2 + pitch * 0.8, y + height / 2 - pitch * 0.4, pitch)
        feet += [(x + s * (width / 2 + 0.02), v, 0.06, 0.026) for v in ys for s in (-1, 1)]
    if pins == "all":
        xs = np.arange(x - width / 2 + pitch * 0.8, x + width / 2 - pitch * 0.4, pitch)
        feet += [(u, y + s * (height / 2 + 0.02), 0.026, 0.06) for u in xs for s in (-1, 1)]
    canvas.lay(canvas.polygon(*(rectangle_points(*foot) for foot in feet)), _TIN, 1 + 2 * texture)

    def package():
        canvas.block(
            body,
            canvas.coloured((0.1, 0.1, 0.11)),
            1 + 2 * texture[body.window],
            shadow=3,
            strength=0.5,
            bevel=(1.2, 1.2),
        )
        mark = canvas.ellipse(x - width * 0.35, y - height * 0.35, 0.018)
        canvas.multiply(mark, 1.9)
        ink = (0.6, 0.6, 0.58)
        rows = int(max(1, min(3, height // 0.09)))
        for row in range(rows):
            at = (x - width * 0.3, y - 0.03 * rows + row * 0.07)
            canvas.lettering(max(1, int(width / 0.06) - 2), at, 0.045, (0.025, 0.04), 0.008, ink, opacity=0.55)

    canvas.slot("chip", body, package)


def _passive(canvas: Canvas, x: float, y: float, long: float, angle: float) -> None:
    """A two-terminal surface-mount part, a removable slot over its pads."""
    rng = canvas.rng
    c, s = np.cos(angle), np.sin(angle)
    off = long * 0.42
    _pads(canvas, [(x - c * off, y - s * off), (x + c * off, y + s * off)], long * 0.4, long * 0.62, angle)
    body = canvas.rectangle(x, y, long, long * 0.5, angle=angle)

    def block():
        canvas.shadow(body, 1.5)
        canvas.lay(body, _TIN)
        tone = ((0.09, 0.09, 0.1), (0.55, 0.4, 0.26), (0.7, 0.66, 0.55), (0.12, 0.16, 0.3))[rng.integers(4)]
        canvas.lay(canvas.rectangle(x, y, long * 0.62, long * 0.5, angle=angle), canvas.coloured(tone))
        canvas.bevel(body, 1, 1.2)

    canvas.slot("passive", body, block)


def _board(canvas: Canvas, tones: tuple, *, wide: tuple[float, float], corner: float) -> np.ndarray:
    """The bare board with copper fill and traces under its solder mask. Returns its fibre texture."""
    rng, n = canvas.rng, canvas.size
    tone = canvas.coloured(tones[rng.integers(len(tones))])
    fibre = 0.035 * textures.weave(rng, n, n, canvas.angle, 2.4 * canvas.unit) + 0.03 * textures.fractal(
        rng, n, n, 40 * canvas.unit
    )
    board = canvas.rectangle(0, 0, *wide, corner=corner)
    canvas.shadow(board, 6)
    canvas.lay(canvas.body(board), tone, 1 + fibre[board.window])
    canvas.part("board", board)
    bright = np.clip(tone * 1.35 + 0.03, 0, 1)
    a, b = wide[0] / 2 - 0.06, wide[1] / 2 - 0.06
    for _ in range(int(rng.integers(10, 18))):  # buses of parallel traces with 45 degree bends
        start = rng.uniform((-a, -b), (a, b))
        turn = rng.integers(0, 4) * np.pi / 2
        points = [start]
        for leg in range(3):
            direction = turn + (np.pi / 4) * (leg % 2) * rng.choice([-1, 1])
            points.append(points[-1] + rng.uniform(0.12, 0.5) * unit_vector(direction))
        points = np.clip(np.array(points), (-a, -b), (a, b))
        shift = np.array([-np.sin(turn), np.cos(turn)]) * 0.04
        lanes = [np.clip(points + lane * shift, (-a, -b), (a, b)) for lane in range(int(rng.integers(1, 5)))]
        canvas.lay(canvas.strokes(lanes, 0.018), bright, opacity=0.75)
    vias = rng.uniform((-a, -b), (a, b), (int(rng.integers(12, 30)), 2))
    for radius, metal in ((0.02, _TIN), (0.009, (0.05, 0.05, 0.05))):
        canvas.lay(canvas.polygon(*(ellipse_points(*via, radius, count=16) for via in vias)), metal, opacity=0.85)
    canvas.bevel(board, 1.2, 0.8)
    corners = [(sx * (a - 0.06), sy * (b - 0.06)) for sx in (-1, 1) for sy in (-1, 1)]
    for radius, metal in ((0.075, _GOLD), (0.045, (0.06, 0.06, 0.06))):
        for x, y in corners:
            canvas.lay(canvas.ellipse(x, y, radius), metal)
    return fibre


def _free_places(
    rng: np.random.Generator, limits: tuple[float, float], taken: list, size: tuple[float, float], tries: int
) -> list[tuple[float, float]]:
    """Centres where a box of ``size`` fits beside all in ``taken`` (x, y, w, h); each one found is added to it."""
    found = []
    for _ in range(tries):
        x, y = rng.uniform((-limits[0], -limits[1]), limits)
        if all(abs(x - u) > (size[0] + w) / 2 or abs(y - v) > (size[1] + h) / 2 for u, v, w, h in taken):
            taken.append((x, y, *size))
            found.append((x, y))
    return found


def draw_pcb_1(canvas: Canvas) -> None:
    """A populated green board: chips, passives, a connector."""
    rng = canvas.rng
    canvas.pose(scale=(0.9, 1.3), lean=0.15, turns=4, centre=(0.45, 0.55))
    wide = (1.8, rng.uniform(1.2, 1.7))
    fibre = _board(canvas, ((0.06, 0.3, 0.16), (0.1, 0.36, 0.2), (0.04, 0.24, 0.18)), wide=wide, corner=0.05)
    taken = [(sx * 0.78, sy * (wide[1] / 2 - 0.12), 0.2, 0.2) for sx in (-1, 1) for sy in (-1, 1)]
    y = wide[1] / 2 - 0.14
    taken.append((0, y, 0.9, 0.26))
    header = canvas.rectangle(0, y, 0.8, 0.16, corner=0.02)
    canvas.shadow(header, 4)
    canvas.lay(
        header, canvas.coloured((0.85, 0.84, 0.78) if rng.random() < 0.5 else (0.1, 0.1, 0.1)), 1 + fibre[header.window]
    )
    canvas.bevel(header, 1.5, 1.2)
    canvas.part("connector", header)
    canvas.lay(canvas.polygon(*(rectangle_points(-0.33 + k * 0.094, y, 0.04, 0.05) for k in range(8))), _GOLD)
    reach = (0.68, wide[1] / 2 - 0.26)
    side = rng.uniform(0.36, 0.46)
    for x, y in _free_places(rng, reach, taken, (side + 0.16, side + 0.16), 3)[:1]:
        _chip(canvas, x, y, side, side, fibre, pins="all")
    for x, y in _free_places(rng, reach, taken, (0.34, 0.44), 8)[:3]:
        _chip(canvas, x, y, 0.2, 0.36, fibre)
    for x, y in _free_places(rng, (0.8, wide[1] / 2 - 0.12), taken, (0.2, 0.2), 60)[:14]:
        _passive(canvas, x, y, rng.choice([0.1, 0.13]), np.pi / 2 * rng.integers(2))
    for x, y in _free_places(rng, (0.72, wide[1] / 2 - 0.2), taken, (0.26, 0.26), 8)[:2]:
        can = canvas.ellipse(x, y, 0.11)

        def round_can(can=can, x=x, y=y):
            canvas.block(can, (0.75, 0.76, 0.78), 1 + fibre[can.window], shadow=5, bevel=(1.5, 1.2))
            canvas.lay(
                canvas.polygon(
                    np.array([(x - 0.1, y - 0.04), (x + 0.1, y - 0.04), (x + 0.07, y - 0.085), (x - 0.07, y - 0.085)])
                ),
                (0.1, 0.1, 0.12),
            )

        canvas.slot("can", can, round_can)


def draw_pcb_2(canvas: Canvas) -> None:
    """A bare dark board close up: gold pads in rows, test points, silk-screen outlines, few parts."""
    rng = canvas.rng
    canvas.pose(scale=(1.0, 1.5), lean=0.1, turns=4, centre=(0.4, 0.6))
    wide = (1.9, rng.uniform(1.5, 1.9))
    fibre = _board(
        canvas, ((0.07, 0.13, 0.36), (0.08, 0.08, 0.1), (0.4, 0.06, 0.08), (0.05, 0.1, 0.26)), wide=wide, corner=0.03
    )
    taken: list = []
    silk = (0.82, 0.82, 0.8)
    for x, y in _free_places(rng, (0.62, wide[1] / 2 - 0.3), taken, (0.5, 0.46), 12)[:4]:
        outline = np.array([(-0.21, -0.2), (0.21, -0.2), (0.21, 0.2), (-0.21, 0.2), (-0.21, -0.2)]) + (x, y)
        canvas.lay(canvas.stroke(outline, 0.012), silk, opacity=0.85)
        holes = [(x + u, y + v) for u in np.linspace(-0.14, 0.14, int(rng.integers(3, 6))) for v in (-0.12, 0, 0.12)]
        for radius, metal in ((0.035, _GOLD), (0.015, (0.04, 0.04, 0.04))):
            canvas.lay(canvas.polygon(*(ellipse_points(*hole, radius, count=20) for hole in holes)), metal, 1 + fibre)
        canvas.part("footprint", canvas.rectangle(x, y, 0.42, 0.4))
    for x, y in _free_places(rng, (0.8, wide[1] / 2 - 0.1), taken, (0.2, 0.16), 50)[:14]:
        if rng.random() < 0.45:
            _passive(canvas, x, y, 0.12, np.pi / 2 * rng.integers(2))
        else:
            _pads(canvas, [(x - 0.045, y), (x + 0.045, y)], 0.05, 0.08)
    y = -wide[1] / 2 + 0.07
    for k in range(16):  # edge connector
        finger = canvas.rectangle(-0.75 + 0.1 * k, y, 0.06, 0.13)

        def gold(finger=finger):
            canvas.block(finger, _GOLD, 1 + 1.5 * fibre[finger.window], bevel=(1, 0.8))

        canvas.slot("finger", finger, gold)


def draw_console(canvas: Canvas) -> None:
    """A control panel: screen, keys with symbols, a knob and lamps on a moulded front."""
    rng, n = canvas.rng, canvas.size
    canvas.pose(scale=(0.88, 1.15), lean=0.2, turns=2, turn=np.pi, tilt=(0.85, 1), centre=(0.45, 0.55))
    tone = canvas.pick((0.2, 0.21, 0.23), (0.8, 0.8, 0.77), (0.5, 0.52, 0.55), (0.3, 0.34, 0.4))
    skin = 0.05 * textures.pitted(rng, n, n, 2.5 * canvas.unit) + 0.03 * textures.fractal(rng, n, n, 60 * canvas.unit)
    tall = rng.uniform(1.2, 1.6)
    panel = canvas.body(canvas.rectangle(0, 0, 1.8, tall, corner=0.12))
    canvas.block(panel, tone, 1 + skin[panel.window], shadow=10, strength=0.5, bevel=(3, 1.2), part="panel")
    _screen(canvas, tall)
    _keys(canvas, tall, tone, skin)
    y = tall * 0.22
    knob, black = canvas.ellipse(0.62, y, 0.2), canvas.coloured((0.13, 0.13, 0.14))
    canvas.block(knob, black, 1 + skin[knob.window], shadow=7, strength=0.55, bevel=(2.5, 1.6))
    top = canvas.ellipse(0.62, y, 0.13)
    canvas.block(top, (0.6, 0.6, 0.62), 1 + 0.5 * skin[top.window], bevel=(1.5, 1.0))
    turn = rng.uniform(0, 2 * np.pi)
    hand = np.array([(0.62, y), (0.62 + 0.18 * np.cos(turn), y + 0.18 * np.sin(turn))])
    canvas.lay(canvas.stroke(hand, 0.03), (0.9, 0.3, 0.1))
    canvas.part("knob", knob)
    for k in range(4):
        lamp = canvas.ellipse(0.62, -tall * 0.38 + k * 0.12, 0.035)

        def led(lamp=lamp):
            hue = ((0.2, 0.9, 0.3), (0.9, 0.2, 0.15), (0.95, 0.7, 0.1), (0.25, 0.25, 0.25))[rng.integers(4)]
            canvas.block(lamp, hue, bevel=(1, 1.0))

        canvas.slot("lamp", lamp, led, empty=lambda lamp=lamp: canvas.lay(lamp, (0.05, 0.05, 0.05)))


def _screen(canvas: Canvas, tall: float) -> None:
    rng, y, high = canvas.rng, -tall * 0.24, tall * 0.36
    screen = canvas.rectangle(-0.22, y, 1.15, high, corner=0.04)
    canvas.bevel(canvas.rectangle(-0.22, y, 1.23, high + 0.08, corner=0.06), 2, 1.5, raised=False)
    glow = canvas.pick((0.08, 0.2, 0.26), (0.05, 0.06, 0.07), (0.3, 0.42, 0.3), (0.1, 0.14, 0.34))
    u, v = canvas.coordinates(screen)
    canvas.lay(screen, glow, (1 + 0.25 * u - 0.3 * v).astype(np.float32))
    lit = np.clip(glow * 2.5 + 0.25, 0, 1)
    for row in range(3):
        at = (-0.72, y - high * 0.36 + row * high * 0.27)
        canvas.lettering(int(rng.integers(3, 9)), at, 0.085, (0.05, 0.08), 0.014, lit, points=4)
    canvas.part("screen", screen)
    gleam = canvas.polygon(np.array([(-0.1, -0.9), (0.12, -0.9), (-0.3, 0.9), (-0.52, 0.9)]))
    cut = Patch(gleam.y, gleam.x, gleam.alpha * canvas.full(screen)[gleam.window])
    canvas.lay(cut, (1, 1, 1), opacity=rng.uniform(0.03, 0.14))


def _keys(canvas: Canvas, tall: float, tone: np.ndarray, skin: np.ndarray) -> None:
    rng = canvas.rng
    key = canvas.pick((0.12, 0.12, 0.13), (0.88, 0.88, 0.86), (0.4, 0.42, 0.45))
    columns = int(rng.integers(4, 7))
    for row, column in np.ndindex(2, columns):
        x, y = -0.72 + 1.04 * (column + 0.5) / columns, tall * (0.12 + 0.19 * row + 0.06)
        cap = canvas.rectangle(x, y, 0.8 * 1.04 / columns, tall * 0.13, corner=0.03)
        colour = canvas.coloured((0.75, 0.15, 0.1) if rng.random() < 0.08 else key, 0.02)

        def button(cap=cap, colour=colour, x=x, y=y):
            canvas.block(cap, colour, 1 + 0.6 * skin[cap.window], shadow=2.5, strength=0.5, bevel=(1.8, 1.4))
            sign = rng.integers(0, 3, (3, 2)) / 2 * 0.06 + (x - 0.03, y - 0.03)
            canvas.lay(canvas.stroke(sign, 0.014), (0.9, 0.9, 0.9) if colour.mean() < 0.4 else (0.1, 0.1, 0.1))

        def well(cap=cap):
            canvas.block(cap, tone * 0.3, bevel=(2, 1.5), raised=False)

        canvas.slot("key", cap, button, empty=well)


def draw_electronics(canvas: Canvas) -> None:
    """A power module: heat sink fins, coil, terminal block, film capacitors on a pale board."""
    rng = canvas.rng
    canvas.pose(scale=(0.9, 1.2), lean=0.2, turns=4, centre=(0.45, 0.55))
    wide = (1.8, rng.uniform(1.3, 1.6))
    tones = ((0.6, 0.5, 0.3), (0.1, 0.26, 0.2), (0.16, 0.16, 0.17), (0.5, 0.36, 0.2))
    fibre = _board(canvas, tones, wide=wide, corner=0.04)
    half = wide[1] / 2
    cx, cy, r = 0.22, -half * 0.42, min(0.3, half * 0.42)
    _heat_sink(canvas, half)
    _coil(canvas, cx, cy, r)
    shell = canvas.pick((0.1, 0.45, 0.25), (0.1, 0.25, 0.55), (0.13, 0.13, 0.13))
    for k in range(int(rng.integers(3, 5))):
        x, y = 0.12 + k * 0.2, half - 0.2
        cell = canvas.rectangle(x, y, 0.185, 0.28, corner=0.015)

        def terminal(cell=cell, x=x, y=y):
            canvas.block(cell, shell, 1 + fibre[cell.window], shadow=4, bevel=(1.5, 1.3))
            canvas.block(canvas.ellipse(x, y - 0.03, 0.06), (0.7, 0.7, 0.68), bevel=(1.2, 1.4))
            canvas.lay(canvas.rectangle(x, y - 0.03, 0.1, 0.02, angle=rng.uniform(0, 3)), (0.12, 0.12, 0.12))

        canvas.slot("terminal", cell, terminal)
    taken = [(-0.52, -half * 0.1, 0.66, half * 1.4), (cx, cy, 2.1 * r, 2.1 * r), (0.42, half - 0.2, 0.85, 0.32)]
    for x, y in _free_places(rng, (0.74, half - 0.2), taken, (0.3, 0.26), 24)[:3]:
        film = canvas.rectangle(x, y, 0.26, 0.18, corner=0.03)

        def box(film=film, x=x, y=y):
            tone = canvas.pick((0.75, 0.6, 0.1), (0.6, 0.15, 0.1), (0.2, 0.35, 0.6))
            canvas.block(film, tone, 1 + fibre[film.window], shadow=4, bevel=(1.8, 1.3))
            canvas.lettering(4, (x - 0.09, y - 0.02), 0.045, (0.03, 0.05), 0.01, (0.95, 0.95, 0.9), opacity=0.7)

        canvas.slot("film_capacitor", film, box)
    for x, y in _free_places(rng, (0.8, half - 0.1), taken, (0.17, 0.17), 40)[:8]:
        _passive(canvas, x, y, 0.11, np.pi / 2 * rng.integers(2))
    if rng.random() < 0.5:
        canvas.lay(canvas.polygon(ellipse_points(0.72, -half + 0.14, 0.06)), (0.85, 0.2, 0.15))


def _heat_sink(canvas: Canvas, half: float) -> None:
    rng, n = canvas.rng, canvas.size
    metal = 0.08 * textures.brushed(rng, n, n, canvas.angle + np.pi / 2, streak=30)
    sink = canvas.rectangle(-0.52, -half * 0.1, 0.6, half * 1.35, corner=0.02)
    u, _ = canvas.coordinates(sink)
    fins = np.cos(2 * np.pi * u / rng.uniform(0.085, 0.12))
    tone = canvas.coloured((0.62, 0.63, 0.65) if rng.random() < 0.6 else (0.13, 0.13, 0.14))
    shade = np.clip(0.75 + 0.6 * fins, 0.15, 1.3) * (1 + metal[sink.window])
    canvas.block(sink, tone, shade, shadow=7, strength=0.55, bevel=(2, 1.0), part="heat_sink")


def _coil(canvas: Canvas, x: float, y: float, r: float) -> None:
    rng = canvas.rng
    core = canvas.annulus(x, y, r * 0.9, r * 0.42)
    canvas.shadow(core, 6)
    canvas.lay(core, canvas.coloured((0.25, 0.3, 0.2) if rng.random() < 0.5 else (0.6, 0.55, 0.2)))
    canvas.part("coil", canvas.annulus(x, y, r, r * 0.34))
    turns = int(rng.integers(16, 26))
    for k in range(turns):
        along = unit_vector(2 * np.pi * k / turns * 0.9)
        across = np.array([-along[1], along[0]]) * 0.02
        wire = np.stack([along * r * 0.36 + (x, y), along * r + across + (x, y)])
        canvas.tube(wire, 0.055, (0.75, 0.4, 0.2), gloss=0.5)
