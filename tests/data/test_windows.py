import logging
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import tiny_processor
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import SamProcessor

from visionsam_hf.data.errors import UserError
from visionsam_hf.data.windows import (
    Window,
    WindowRule,
    WindowSettings,
    choose_rule,
    crop,
    look_window,
    remember_rule,
    tile_grid,
    tile_of,
    tuned_rule,
    window_key,
    zoom_window,
)


@st.composite
def boxes_in_photographs(draw):
    height, width = draw(st.integers(20, 3000)), draw(st.integers(20, 3000))
    x1, y1 = draw(st.floats(0, width - 1)), draw(st.floats(0, height - 1))
    return (x1, y1, draw(st.floats(x1 + 0.5, width)), draw(st.floats(y1 + 0.5, height))), (height, width)


@settings(max_examples=300, deadline=None)
@given(boxes_in_photographs(), st.floats(1.5, 8), st.integers(16, 64))
def test_a_zoom_window_holds_its_box_and_lies_in_the_photograph(prompt, multiple, smallest):
    box, (height, width) = prompt
    window = zoom_window(box, (height, width), multiple=multiple, smallest=smallest)
    if window is None:
        assert multiple * max(box[2] - box[0], box[3] - box[1]) * 2 ** (1 / 8) + 1 >= max(height, width) or smallest >= max(
            height, width
        )
        return
    x1, y1, x2, y2 = window.corners
    assert 0 <= x1 <= box[0] and 0 <= y1 <= box[1] and box[2] <= x2 <= width and box[3] <= y2 <= height
    side = max(window.size)
    assert side >= smallest and window.size == (min(side, height), min(side, width))
    wanted = max(multiple * max(box[2] - box[0], box[3] - box[1]), smallest)
    assert wanted * 2 ** (-1 / 8) - 1 <= side <= wanted * 2 ** (1 / 8) + 1


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((104, 100, 144, 120), Window(64, 48, 128, 128)),  # 120 wanted, 128 = 32 * 2^(8/4); the centre on a grid of 16
        ((101, 99, 141, 118), Window(64, 48, 128, 128)),
        ((99, 100, 103, 104), Window(84, 88, 32, 32)),
        ((0, 0, 40, 40), Window(0, 0, 128, 128)),  # shifted into the photograph
        ((380, 280, 400, 300), Window(336, 236, 64, 64)),
        ((0, 0, 400, 300), None),
        ((50, 50, 160, 60), Window(0, 0, 304, 300)),  # as square as the photograph allows
    ],
)
def test_windows_on_the_grid(box, expected):
    assert zoom_window(box, (300, 400), multiple=3, smallest=32) == expected


@settings(max_examples=200, deadline=None)
@given(st.floats(600, 900), st.floats(600, 900), st.integers(0, 12))
def test_snapping_is_idempotent(x, y, step):
    side = round(32 * 2 ** (step / 4))
    first = zoom_window((x, y, x + side / 3, y + side / 3), (3000, 3000), multiple=3, smallest=32)
    assert first.size == (side, side)
    middle, half = first.x + side / 2, side / 6
    again = (middle - half, first.y + side / 2 - half, middle + half, first.y + side / 2 + half)
    assert zoom_window(again, (3000, 3000), multiple=3, smallest=32) == first


@settings(max_examples=100, deadline=None)
@given(boxes_in_photographs(), st.integers(1, 20))
def test_a_look_holds_the_window_and_is_a_quarter_wider_at_most(prompt, number):
    box, (height, width) = prompt
    window = zoom_window(box, (height, width), multiple=3, smallest=32)
    look = look_window(window, (height, width), "ab", number)
    assert look_window(window, (height, width), "ab", 0) == window and look_window(None, (9, 9), "ab", number) is None
    assert look == look_window(window, (height, width), "ab", number)
    if window is not None:
        (x1, y1, x2, y2), (left, top, right, bottom) = window.corners, look.corners
        assert 0 <= left <= x1 and 0 <= top <= y1 and x2 <= right <= width and y2 <= bottom <= height
        assert look.width <= 1.25 * window.width + 1 and look.height <= 1.25 * window.height + 1


def test_prompts_that_nearly_coincide_share_a_window():
    rule, rng = WindowRule("zoom"), np.random.default_rng(0)
    around = [rule.of_box(np.array([500, 500, 540, 530]) + rng.uniform(-2, 2, 4), (2000, 2000)) for _ in range(200)]
    assert len(set(around)) <= 8 and len(set(around)) < len(around) / 20


@settings(max_examples=100, deadline=None)
@given(st.integers(20, 3000), st.integers(20, 3000), st.integers(16, 600))
def test_tiles_cover_the_photograph_and_share_a_quarter(height, width, side):
    tiles = tile_grid((height, width), side)
    columns, rows = sorted({tile.x for tile in tiles}), sorted({tile.y for tile in tiles})
    assert len(tiles) == len(columns) * len(rows)
    for starts, end in ((columns, width), (rows, height)):
        assert starts[0] == 0 and starts[-1] + min(side, end) == end
        assert all(second - first <= side - side // 4 + 1 for first, second in zip(starts, starts[1:]))


@settings(max_examples=200, deadline=None)
@given(boxes_in_photographs(), st.integers(16, 600))
def test_the_tile_that_holds_a_box_best(prompt, side):
    box, size = prompt
    found, tiles = tile_of(box, size, side), tile_grid(size, side)
    if side >= max(size):
        assert found is None
        return

    def room(tile):
        x1, y1, x2, y2 = tile.corners
        sides = (
            (box[0] - x1, x1 == 0), (box[1] - y1, y1 == 0), (x2 - box[2], x2 == size[1]), (y2 - box[3], y2 == size[0])
        )  # fmt: skip
        return min(np.inf if at_border else distance for distance, at_border in sides)

    best = max(map(room, tiles))
    assert (found is None) == (best < 0)
    if found is not None:
        assert found in tiles and room(found) == best


def test_points_do_not_tell_a_size():
    points = np.array([[10.0, 10], [700, 30]])
    assert WindowRule("zoom").of_points(points, (1000, 1000)) is None
    assert WindowRule("tiles", side=800).of_points(points, (1000, 1000)) == Window(0, 0, 800, 800)
    assert WindowRule("tiles", side=512).of_points(points, (1000, 1000)) is None
    assert WindowRule().of_box((1, 2, 3, 4), (1000, 1000)) is None


def test_keys_and_crops():
    image = np.arange(48).reshape(6, 8)
    assert crop(image, Window(2, 1, 3, 4)).tolist() == image[1:5, 2:5].tolist() and crop(image, None) is image
    # The embeddings of whole photographs that users have stay theirs.
    assert window_key("ab", None) == "ab" and window_key("ab", Window(2, 1, 3, 4)) == "ab-w2.1.3.4"


def test_a_model_remembers_how_it_was_tuned(tmp_path, caplog):
    fresh = tiny_processor()
    assert tuned_rule(fresh) is None and choose_rule(WindowSettings(), fresh) == WindowRule("whole", 3.0, 32)
    assert choose_rule(WindowSettings("tiles"), fresh) == WindowRule("tiles", 3.0, 512)
    rule = choose_rule(WindowSettings("zoom", 5.0), fresh)
    assert rule == WindowRule("zoom", 5.0, 32) and not caplog.records
    remember_rule(fresh, rule).save_pretrained(tmp_path)
    assert tuned_rule(fresh) is None  # a copy remembers
    tuned = SamProcessor.from_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert choose_rule(WindowSettings(), tuned) == choose_rule(WindowSettings("zoom"), tuned) == rule
        assert not caplog.records
        assert choose_rule(WindowSettings("whole"), tuned) == WindowRule()
    assert "tuned on zoom to 5 boxes, at least 32 pixels, and is now shown the whole photograph" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert choose_rule(WindowSettings(window_side=64), tuned) == WindowRule("zoom", 5.0, 64)
    assert "at least 64 pixels" in caplog.text


@pytest.mark.parametrize("wrong", [{"window": "round"}, {"window": "zoom", "multiple": 0.1}, "zoom", {"side": "x"}])
def test_nonsense_in_a_processor_is_told(wrong):
    with pytest.raises(UserError, match="processor_config.json: 'window' is"):
        tuned_rule(SimpleNamespace(image_processor=SimpleNamespace(window=wrong)))
