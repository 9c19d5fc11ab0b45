"""The oracle's criteria against values worked by hand, and their invariances."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from visionsam_hf.data.masks import mask_iou
from visionsam_hf.preferences import rubric
from visionsam_hf.preferences.rankings import rank_scores
from visionsam_hf.preferences.rubric import CONTRADICTION, TIE, criteria_table, rate_mask, worths


def square(size, top, left, bottom, right):
    mask = np.zeros((size, size), bool)
    mask[top:bottom, left:right] = True
    return mask


def test_the_truth_itself_is_perfect():
    truth = square(64, 10, 10, 30, 40)
    rating = rate_mask(truth, truth)
    assert rating.values() == (1.0, 1.0, 1.0, 1.0)
    assert (rating.over, rating.under, rating.log2_area_ratio) == (0.0, 0.0, 0.0)


def test_empty_masks():
    empty, some = np.zeros((8, 8), bool), square(8, 2, 2, 5, 5)
    assert rate_mask(empty, empty).values() == (1, 1, 1, 1)
    assert rate_mask(some, empty).values() == (0, 0, 0, 0)
    assert rate_mask(empty, some).values() == (0, 0, 0, 0)
    assert rate_mask(empty, some).log2_area_ratio == -math.inf


def test_half_of_a_square():
    truth = square(512, 100, 100, 200, 200)
    half = square(512, 100, 100, 200, 150)
    rating = rate_mask(half, truth)
    assert rating.coverage == 0.5
    assert rating.over_under == 1.0
    assert rating.noise == 1.0
    assert rating.under == 0.5
    assert rating.log2_area_ratio == -1.0


def test_over_segmentation_counts_against_over_under_alone():
    truth = square(512, 100, 100, 200, 200)
    double = square(512, 100, 100, 200, 300)
    rating = rate_mask(double, truth)
    assert rating.coverage == 1.0
    assert rating.over_under == 0.5
    assert rating.over == 0.5
    assert rating.noise == 1.0


def test_boundary_is_the_mean_share_of_both_contours_within_each_tolerance():
    # Lines one pixel high and 512 wide, three pixels apart, joined at one end by two pixels 1 and 2 away from the first.
    truth = np.zeros((512, 512), bool)
    truth[100] = True
    prediction = truth.copy()
    prediction[101:103, 0] = True
    prediction[103] = True
    within = [512 + 1 + 512, 512 + 2 + 512, 1026 + 512, 1026 + 512]
    assert rate_mask(prediction, truth).boundary == pytest.approx(np.mean(within) / (1026 + 512))


def test_the_boundary_is_that_of_the_mask_without_spurious_components():
    truth = np.zeros((512, 512), bool)
    truth[100] = True
    apart = truth.copy()
    apart[103] = True
    rating = rate_mask(apart, truth)
    assert (rating.boundary, rating.noise) == (1.0, 0.5)


def test_far_components_and_holes_are_noise():
    truth = square(512, 100, 100, 140, 140)
    speckled = truth.copy()
    speckled[300:310, 300:310] = True
    assert rate_mask(speckled, truth).noise == pytest.approx(1 - 100 / 1700)
    assert rate_mask(speckled, truth).over_under == 1.0
    holed = truth.copy()
    holed[110:120, 110:120] = False
    assert rate_mask(holed, truth).noise == pytest.approx(1 - 100 / 1500)


def test_diagonal_neighbours_are_one_component():
    truth = square(512, 100, 100, 110, 110)
    chain = truth | square(512, 110, 110, 120, 120) | square(512, 120, 120, 130, 130)
    rating = rate_mask(chain, truth)
    assert (rating.noise, rating.over_under) == (1.0, pytest.approx(1 / 3))


def test_tolerances_scale_with_the_longest_side():
    small_truth, small = square(512, 100, 100, 200, 200), square(512, 103, 103, 203, 203)
    truth, mask = square(1024, 200, 200, 400, 400), square(1024, 206, 206, 406, 406)
    assert rate_mask(small, small_truth).boundary == pytest.approx(rate_mask(mask, truth).boundary, abs=0.02)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="both must be the same"):
        rate_mask(np.zeros((3, 4), bool), np.zeros((4, 3), bool))


MASKS = arrays(bool, (18, 24))


@settings(max_examples=60, deadline=None)
@given(MASKS, MASKS)
def test_cropping_changes_nothing(prediction, truth):
    padded = [np.pad(mask, 9) for mask in (prediction, truth)]
    cropped = rate_mask(*padded)
    if not (prediction.any() or truth.any()):
        return
    assert cropped == rubric._rate_cropped(*padded, max(padded[0].shape) / 512)
    assert all(0 <= value <= 1 for value in cropped.values())


@settings(max_examples=40, deadline=None)
@given(MASKS, MASKS)
def test_turning_the_picture_changes_nothing(prediction, truth):
    turned = rate_mask(np.rot90(prediction), np.rot90(truth)).values()
    assert rate_mask(prediction, truth).values() == pytest.approx(turned)


SHAPES = ("blob", "hairline", "ring", "box", "speckle", "empty")


def drawn(kind: str, seed: int, side: int = 48) -> np.ndarray:
    """A mask of a kind, (side, side) bool."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    y, x, radius = rng.uniform(0.3, 0.7) * side, rng.uniform(0.3, 0.7) * side, rng.uniform(0.08, 0.3) * side
    distance = np.hypot(rows - y, columns - x)
    return {
        "blob": distance <= radius,
        "hairline": np.abs((rows - y) - rng.uniform(-1, 1) * (columns - x)) <= rng.uniform(0.5, 1.2),
        "ring": (distance <= radius) & (distance > radius * rng.uniform(0.3, 0.8)),
        "box": (np.abs(rows - y) <= radius) & (np.abs(columns - x) <= radius * rng.uniform(0.3, 1)),
        "speckle": rng.random((side, side)) < rng.uniform(0.005, 0.2),
        "empty": np.zeros((side, side), bool),
    }[kind]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(("blob", "hairline", "ring")), st.lists(st.sampled_from(SHAPES), min_size=3, max_size=3), st.integers(0, 999)
)
def test_a_ranking_never_contradicts_the_iou_by_more_than_is_said(kind, kinds, seed):
    """The truth's own neighbours among the masks: shifted by a pixel, with a hole, and with what lies round it."""
    truth = drawn(kind, seed)
    masks = [drawn(name, seed + place) for place, name in enumerate(kinds)]
    masks += [np.roll(truth, 1, 0), truth & (np.arange(48) % 5 > 0), truth | drawn("box", seed)]
    ious = [mask_iou(mask, truth) for mask in masks]
    ranking = rank_scores(worths(criteria_table(masks, truth), ious), TIE)
    for one, first in enumerate(ranking):
        for other, second in enumerate(ranking):
            assert first >= second or ious[one] >= ious[other] - CONTRADICTION - 1e-9


def test_a_filled_box_is_worth_no_more_than_its_iou():
    truth = drawn("hairline", 3)
    box, near = np.ones_like(truth), np.roll(truth, 1, 0)
    assert mask_iou(near, truth) > mask_iou(box, truth)
    worth = worths(criteria_table([box, near], truth), [mask_iou(box, truth), mask_iou(near, truth)])
    assert worth[0] < worth[1] - TIE
