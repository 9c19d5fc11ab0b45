"""The contact sheet of a curation: what was picked above, what was refused below, with the scores."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from visionsam_hf.curation import Scored

_COLUMNS, _ROWS = 8, 4
_CELL, _CAPTION, _GAP, _HEAD = 160, 58, 14, 46
_PAPER, _INK, _FAINT = (250, 250, 250), (25, 25, 30), (105, 105, 115)


def choose_for_sheet(images: Sequence[Scored], *, seed: int) -> list[Scored]:
    """Up to 32 picked and 32 refused images, drawn by seed, each group best first."""
    shown: list[Scored] = []
    for keep in (True, False):
        group = [image for image in images if image.keep == keep]
        rng = np.random.default_rng([seed, int(keep)])
        places = sorted(rng.permutation(len(group))[: _COLUMNS * _ROWS])
        shown += sorted((group[place] for place in places), key=lambda image: -image.score)
    return shown


def draw_sheet(
    shown: Sequence[Scored], pictures: Mapping[str, Image.Image], *, picked: int, refused: int
) -> Image.Image:
    """Draw the sheet.

    Args:
        shown: from `choose_for_sheet`.
        pictures: by image_id, at most 160 pixels a side.
        picked, refused: the totals, for the headings.
    """
    groups = [("picked", picked, [image for image in shown if image.keep])]
    groups.append(("refused", refused, [image for image in shown if not image.keep]))
    heights = [_HEAD + -(-len(group) // _COLUMNS) * (_CELL + _CAPTION + _GAP) for _, _, group in groups]
    sheet = Image.new("RGB", (_GAP + _COLUMNS * (_CELL + _GAP), sum(heights) + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    heading, text = ImageFont.load_default(20), ImageFont.load_default(11)
    top = 0
    for (word, total, group), height in zip(groups, heights):
        more = f", {len(group)} of them shown" if total > len(group) else ""
        draw.text((_GAP, top + 14), f"{total} {word}{more}", _INK, heading)
        for place, image in enumerate(group):
            x = _GAP + place % _COLUMNS * (_CELL + _GAP)
            y = top + _HEAD + place // _COLUMNS * (_CELL + _CAPTION + _GAP)
            picture = pictures[image.image_id]
            sheet.paste(picture, (x + (_CELL - picture.width) // 2, y + (_CELL - picture.height) // 2))
            lines = [
                f"{image.category}  {image.score:.2f}",
                f"clarity {image.clarity:.1f}, clutter {image.clutter:.0%}",
                *textwrap.wrap(image.reason, 27)[:2],
            ]
            for number, line in enumerate(lines):
                draw.text((x, y + _CELL + 3 + 13 * number), line, _INK if number == 0 else _FAINT, text)
        top += height
    return sheet
