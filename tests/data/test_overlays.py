"""Outlines, boxes and tints lie where the mask and the box are, at every scale."""

import re
from pathlib import Path

import numpy as np
from PIL import Image

from visionsam_hf.data.overlays import (
    BOX,
    CHOSEN,
    PREDICTION,
    TRUTH,
    Overlay,
    box_window,
    close_up,
    draw,
    thumbnail,
)

ROOT = Path(__file__).resolve().parents[2]


def where(picture, colour) -> list[int]:
    """[x1, y1, x2, y2) of the pixels of a colour."""
    rows, columns = np.nonzero((np.asarray(picture) == colour).all(-1))
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else []


def square(side=100, start=40, stop=60) -> tuple[np.ndarray, np.ndarray]:
    mask = np.zeros((side, side), bool)
    mask[start:stop, start:stop] = True
    return np.full((side, side, 3), 90, np.uint8), mask


def test_an_outline_lies_on_the_masks_edge_and_the_box_round_it():
    image, mask = square()
    drawn = draw(image, [Overlay(mask, CHOSEN, [40, 40, 60, 60])])
    assert where(drawn, CHOSEN) == [40, 40, 60, 60] and where(drawn, BOX) == [38, 38, 62, 62]
    assert (drawn[50, 50] == 90).all() and (image == 90).all()
    twice = draw(image, [Overlay(mask, CHOSEN)], scale=2.0)
    assert twice.shape == (200, 200, 3) and np.abs(np.subtract(where(twice, CHOSEN), [80, 80, 120, 120])).max() <= 1


def test_a_tint_stays_inside():
    image, mask = square()
    changed = (draw(image, [Overlay(mask, PREDICTION, is_filled=True)]) != image).any(-1)
    assert changed[mask].all() and not changed[~np.pad(mask[1:-1, 1:-1], 1)][:3000].any()


def test_a_hairline_survives_a_thumbnail():
    mask = np.zeros((1000, 1000), bool)
    mask[500, 100:900] = True
    assert where(thumbnail(Image.new("RGB", (1000, 1000)), [Overlay(mask)], side=100), TRUTH)


def test_a_crack_beside_a_blob_survives_a_thumbnail():
    mask = np.zeros((1000, 1000), bool)
    mask[500, 100:900] = mask[100:300, 100:300] = True
    drawn = np.asarray(thumbnail(Image.new("RGB", (1000, 1000)), [Overlay(mask, PREDICTION, is_filled=True)], side=100))
    assert drawn[50, 10:90].any(-1).all() and not drawn[45:56, 95:].any()
    assert where(drawn[:40], PREDICTION) == [10, 10, 30, 30]


def test_an_outline_leaves_a_crack_to_be_seen():
    image = np.full((60, 60, 3), 90, np.uint8)
    mask = np.zeros((60, 60), bool)
    mask[30, 10:50] = True
    drawn = draw(image, [Overlay(mask, TRUTH)])
    assert (drawn[mask] == 90).all() and where(drawn, TRUTH) == [7, 27, 53, 34]


def test_a_close_up_is_a_square_round_the_box():
    image, mask = square(300, 10, 30)
    picture = close_up(image, [Overlay(mask, CHOSEN)], [10, 10, 30, 30], side=220)
    x1, y1, x2, y2 = where(picture, CHOSEN)
    assert picture.size == (220, 220) and 80 <= x2 - x1 <= 160 and x1 == y1
    rows, columns = box_window((20, 300), [280, 0, 300, 20])
    assert (rows.start, rows.stop) == (0, 20) and columns.stop == 300
    flat = np.asarray(close_up(np.zeros((20, 300, 3), np.uint8), [], [280, 0, 300, 20], side=100))
    assert (flat[0] == 128).all() and (flat[50] == 0).all()


def test_an_empty_mask_draws_nothing():
    image, mask = square()
    assert np.array_equal(draw(image, [Overlay(mask & False, is_filled=True)]), image)


def test_those_who_draw_for_themselves_use_the_palette():
    page = (ROOT / "visionsam_hf/annotation/static/panes.js").read_text(encoding="utf-8")
    assert re.search(rf"MASK = \[{', '.join(map(str, CHOSEN))}\]", page)
    demo = (ROOT / "recipes/space/demo/app.py").read_text(encoding="utf-8")
    assert f"COLOUR = {PREDICTION}" in demo
