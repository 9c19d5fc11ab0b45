import numpy as np
import pytest
from conftest import disc
from hypothesis import given, settings
from hypothesis import strategies as st

from visionsam_hf.data.prompts import draw_kind, interior_point, jitter_box, negative_point, random_point


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10_000), fraction=st.floats(0, 0.49))
def test_a_jittered_box_stays_a_box_inside_the_image(seed, fraction):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 60, 2)
    x1, y1 = rng.integers(0, width), rng.integers(0, height)
    box = np.array([x1, y1, rng.integers(x1 + 1, width + 1), rng.integers(y1 + 1, height + 1)], np.float32)
    moved = jitter_box(box, (int(height), int(width)), rng, fraction=fraction)
    assert 0 <= moved[0] and moved[2] <= width and 0 <= moved[1] and moved[3] <= height
    assert moved[2] - moved[0] >= 0.999 and moved[3] - moved[1] >= 0.999


def test_jitter_goes_both_ways():
    rng = np.random.default_rng(0)
    box = np.array([40, 40, 60, 60], np.float32)
    moved = np.stack([jitter_box(box, (100, 100), rng, fraction=0.2) for _ in range(200)])
    assert ((moved[:, 0] < 40).mean() > 0.3) and ((moved[:, 0] > 40).mean() > 0.3)
    assert np.abs(moved - box).max() <= 4
    np.testing.assert_array_equal(jitter_box(box, (100, 100), rng, fraction=0.0), box)


def test_the_interior_point_of_a_ring_lies_on_it():
    ring = disc(41, 41, 20, 20, 18) & ~disc(41, 41, 20, 20, 10)
    x, y = interior_point(ring)
    assert ring[int(y), int(x)]
    assert not ring[20, 20]  # the centroid would not


def test_the_negative_point_is_beside_the_defect():
    mask = disc(100, 100, 50, 50, 10)
    box = np.array([40, 40, 61, 61], np.float32)
    x, y = negative_point(mask, box)
    assert not mask[int(y), int(x)] and 28 <= x <= 74 and 28 <= y <= 74
    everything = np.ones((10, 10), bool)
    assert negative_point(everything, np.array([0, 0, 10, 10], np.float32)).tolist() == [0, 0]


def test_random_points_cover_the_mask():
    mask = np.zeros((5, 7), bool)
    mask[1, 2] = mask[4, 6] = True
    rng = np.random.default_rng(0)
    assert {tuple(random_point(mask, rng).tolist()) for _ in range(50)} == {(2.0, 1.0), (6.0, 4.0)}


def test_kinds_are_drawn_with_their_shares():
    rng = np.random.default_rng(0)
    drawn = [draw_kind({"box": 3.0, "point": 1.0}, rng) for _ in range(2000)]
    assert drawn.count("box") / 2000 == pytest.approx(0.75, abs=0.04)
    assert draw_kind({"box": 0.0, "point_pm": 0.2}, rng) == "point_pm"
