"""Which part of a photograph the model is shown for a prompt: all of it, a window round the prompt, or a tile of a grid.

A prompt's window depends on its own box and the photograph's size alone, and it snaps to a grid: prompts that nearly
coincide share a window, its embedding is cached once, and no prompt's mask depends on the others.
"""

import copy
import logging
import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from visionsam_hf.data.errors import UserError
from visionsam_hf.data.settings import setting

logger = logging.getLogger(__name__)

Kind = Literal["whole", "zoom", "tiles"]
# Below, a snapped window might cut its box.
Multiple = Annotated[float, Field(ge=1.5)]
Side = Annotated[int, Field(ge=16)]

_SIDES = {"whole": 32, "zoom": 32, "tiles": 512}
_STEPS_AN_OCTAVE = 4  # of the sides of zoom windows
_PLACES_A_SIDE = 8
_WIDER = 0.25  # of looks
_OVERLAP = 4  # neighbouring tiles share a quarter of their side, or more


@dataclass(frozen=True)
class Window:
    """A part of a photograph that the model is shown by itself, in whole pixels of the photograph.

    Functions take None for the whole photograph.
    """

    x: int
    y: int
    width: int
    height: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """[x1, y1, x2, y2), as boxes are given."""
        return self.x, self.y, self.x + self.width, self.y + self.height


def crop(array: np.ndarray, window: Window | None) -> np.ndarray:
    """What an (H, W, ...) array of a photograph shows in a window, without a copy."""
    if window is None:
        return array
    return array[window.y : window.y + window.height, window.x : window.x + window.width]


@dataclass
class WindowSettings:
    """Which part of a photograph the model is shown for a prompt, the same in every stage."""

    window: Kind | None = setting(
        None,
        "what the model is shown for a prompt: the whole photograph, zoom (a window round its box), tiles (of a grid); "
        "empty: what the model was tuned with, else whole",
    )
    window_multiple: Multiple | None = setting(
        None, "zoom: side of the window, in longer sides of the box; empty: the model's, else 3"
    )
    window_side: Side | None = setting(
        None, "zoom: the smallest side of a window, in pixels; tiles: their side; empty: the model's, else 32 and 512"
    )


@dataclass(frozen=True)
class WindowRule:
    """From a prompt to its window.

    Attributes:
        window: whole, zoom or tiles.
        multiple: of the box's longer side (zoom).
        side: the smallest window's (zoom) or every tile's, in original pixels.
    """

    window: Kind = "whole"
    multiple: Multiple = 3.0
    side: Side = 32

    def __str__(self) -> str:
        if self.window == "zoom":
            return f"zoom to {self.multiple:g} boxes, at least {self.side} pixels"
        return f"tiles of {self.side} pixels" if self.window == "tiles" else "the whole photograph"

    def of_box(self, box: Sequence[float], original_size: Sequence[int]) -> Window | None:
        """The window of a box [x1, y1, x2, y2), which it holds; None is the whole photograph of (height, width)."""
        if self.window == "zoom":
            return zoom_window(box, original_size, multiple=self.multiple, smallest=self.side)
        return tile_of(box, original_size, self.side) if self.window == "tiles" else None

    def of_points(self, points: np.ndarray, original_size: Sequence[int]) -> Window | None:
        """The window of (N, 2) points of one prompt. Zoom gives the whole photograph: points do not tell a size."""
        if self.window != "tiles":
            return None
        return tile_of((*points.min(0), *points.max(0)), original_size, self.side)


def zoom_window(
    box: Sequence[float], original_size: Sequence[int], *, multiple: float, smallest: int
) -> Window | None:
    """A square round a box, shifted into the photograph; None where it would be all of it.

    Its side is `smallest` times a power of 2^(1/4), the one nearest to `multiple` boxes; its place is a multiple of an
    eighth of the side.
    """
    x1, y1, x2, y2 = map(float, box)
    height, width = original_size
    wanted = multiple * max(x2 - x1, y2 - y1)
    step = max(round(_STEPS_AN_OCTAVE * math.log2(max(wanted, 1) / smallest)), 0)
    side = round(smallest * 2 ** (step / _STEPS_AN_OCTAVE))
    if side >= max(height, width):
        return None
    (x, across), (y, down) = (_place((low + high) / 2, side, end) for low, high, end in ((x1, x2, width), (y1, y2, height)))
    return Window(x, y, across, down)


def _place(centre: float, side: int, end: int) -> tuple[int, int]:
    """Start and length of a window along an axis of `end` pixels."""
    grid = side / _PLACES_A_SIDE
    start = round(round((centre - side / 2) / grid) * grid)
    return min(max(start, 0), max(end - side, 0)), min(side, end)


def tile_grid(original_size: Sequence[int], side: int) -> list[Window]:
    """Tiles that cover a photograph, row by row, the same distance apart, with a quarter of their side in common."""
    height, width = original_size
    return [
        Window(x, y, min(side, width), min(side, height))
        for y in _tile_starts(height, side)
        for x in _tile_starts(width, side)
    ]


def _tile_starts(end: int, side: int) -> list[int]:
    room = max(end - side, 0)
    count = math.ceil(room / (side - side // _OVERLAP)) + 1
    return [round(place) for place in np.linspace(0, room, count)]


def tile_of(box: Sequence[float], original_size: Sequence[int], side: int) -> Window | None:
    """The tile that holds a box with most room around it; None, the whole photograph, where no tile holds it.

    The photograph's own border is as good as any room.
    """
    height, width = original_size
    if side >= max(height, width):
        return None
    x, room_x = _best_start(box[0], box[2], width, side)
    y, room_y = _best_start(box[1], box[3], height, side)
    return Window(x, y, min(side, width), min(side, height)) if min(room_x, room_y) >= 0 else None


def _best_start(low: float, high: float, end: int, side: int) -> tuple[int, float]:
    def room(start: int) -> float:
        before = low - start if start > 0 else math.inf
        after = start + side - high if start + side < end else math.inf
        return min(before, after)

    best = max(_tile_starts(end, side), key=room)
    return best, room(best)


def window_key(image_hash: str, window: Window | None) -> str:
    """The cache's key of a window; that of the whole photograph is the image's hash."""
    return image_hash if window is None else f"{image_hash}-w{window.x}.{window.y}.{window.width}.{window.height}"


def look_window(window: Window | None, original_size: Sequence[int], image_hash: str, number: int) -> Window | None:
    """Look `number` of a window (`visionsam_hf.data.augmentation`): up to a quarter wider, with all of it somewhere inside.

    Look 0 is the window itself, and the whole photograph has no other place or scale.
    """
    if window is None or number == 0:
        return window
    draw = np.random.default_rng([zlib.crc32(window_key(image_hash, window).encode()), number])
    wider, (height, width) = draw.uniform(1, 1 + _WIDER), original_size
    places = []
    for start, length, end in ((window.x, window.width, width), (window.y, window.height, height)):
        longer = min(round(length * wider), end)
        first = start - round(draw.uniform(0, longer - length))
        places.append((min(max(first, 0), end - longer), longer))
    (x, across), (y, down) = places
    return Window(x, y, across, down)


def drawn_windows(original_size: Sequence[int], image_hash: str, count: int) -> list[Window]:
    """Squares anywhere in a photograph, the same for every seed: their sides are a quarter of its shorter one to all of it."""
    draw = np.random.default_rng([zlib.crc32(image_hash.encode()), 2])
    height, width = original_size
    windows = []
    for _ in range(count):
        side = round(min(height, width) * 2 ** draw.uniform(-2, 0))
        x, y = (int(draw.integers(end - side + 1)) for end in (width, height))
        windows.append(Window(x, y, side, side))
    return windows


def object_windows(objects: Iterable[dict[str, Any]], rule: WindowRule) -> list[Window | None]:
    """A window for each of a segmentation row's objects, as a box prompt."""
    return [rule.of_box(item["box"], item["rle"]["size"]) for item in objects]


def row_windows(rows: Iterable[dict[str, Any]], rule: WindowRule) -> list[list[Window | None]] | None:
    """Each segmentation row's windows, for the cache; None where every photograph is shown as a whole, prompted or not."""
    return None if rule.window == "whole" else [object_windows(row["objects"], rule) for row in rows]


def tuned_rule(processor: Any) -> WindowRule | None:
    """The rule that a model was tuned with, which its processor remembers; None of a model that no stage tuned.

    Raises:
        UserError: what it remembers makes no sense.
    """
    remembered = getattr(processor.image_processor, "window", None)
    if remembered is None:
        return None
    try:
        return TypeAdapter(WindowRule).validate_python(remembered)
    except ValidationError as error:
        told = error.errors()[0]["msg"]
        raise UserError(f"processor_config.json: 'window' is {remembered!r}: {told}; mend or remove it") from None


def rule_of(processor: Any) -> WindowRule:
    """The rule that a model was tuned with; of one that no stage tuned, the whole photograph."""
    return tuned_rule(processor) or WindowRule()


def remember_rule(processor: Any, rule: WindowRule) -> Any:
    """A copy of a processor that remembers a rule wherever it is saved."""
    processor = copy.deepcopy(processor)
    processor.image_processor.window = asdict(rule)
    return processor


def choose_rule(settings: WindowSettings, processor: Any) -> WindowRule:
    """The rule that a stage's settings name; what they leave open is as the model was tuned. Warns of another one."""
    tuned = tuned_rule(processor)
    rule = tuned or WindowRule()
    if settings.window is not None and settings.window != rule.window:
        rule = WindowRule(settings.window, side=_SIDES[settings.window])
    rule = replace(
        rule,
        multiple=settings.window_multiple or rule.multiple,
        side=settings.window_side or rule.side,
    )
    if tuned is not None and rule != tuned:
        logger.warning("window: the model was tuned on %s, and is now shown %s", tuned, rule)
    return rule
