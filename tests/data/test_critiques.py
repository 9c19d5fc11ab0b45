"""Circled mistakes to pixels: by hand on small masks, then properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visionsam_hf.data.critiques import LABELS, corrected, critique_signs, loop_mask, mended_choice
from visionsam_hf.data.masks import encode_mask, encode_rle


def mask_of(*rows):
    return np.array([[cell == "#" for cell in row] for row in rows])


MASK = mask_of("......#", ".###...", ".#.#...", ".###...", ".......")
ALL = np.ones_like(MASK)


def test_extra_goes_and_missed_comes_inside_the_loop_only():
    loop = np.zeros_like(MASK)
    loop[:3, :3] = True
    assert np.array_equal(corrected(MASK, loop, "extra"), MASK & ~loop)
    assert np.array_equal(corrected(MASK, loop, "missed"), MASK | loop)


def test_of_a_large_loop_the_core_counts():
    empty = np.zeros((30, 30), bool)
    loop = loop_mask([(5, 5), (24, 5), (24, 24), (5, 24)], empty.shape)
    core = np.zeros_like(empty)
    core[7:23, 7:23] = True
    assert np.array_equal(corrected(empty, loop, "missed"), core), "a tenth of its 20 pixels on each side"
    line = loop_mask([(0, 3), (29, 3), (29, 4), (0, 4)], empty.shape)
    assert np.array_equal(corrected(empty, line, "missed"), line), "a loop without a core"


def test_speckle_turns_islands_and_holes_that_lie_wholly_inside():
    wanted = mask_of(".......", ".###...", ".###...", ".###...", ".......")
    assert np.array_equal(corrected(MASK, ALL, "speckle"), wanted), "the mask itself, its largest part, stays"
    cut = ALL.copy()
    cut[0, 6] = False
    assert corrected(MASK, cut, "speckle")[0, 6], "an island that the loop does not hold"


def test_ragged_smooths_the_edge():
    mask = np.zeros((12, 12), bool)
    mask[6:] = True
    mask[5, 5] = True
    loop = np.zeros_like(mask)
    loop[4:8, 3:9] = True
    wanted = mask.copy()
    wanted[5, 5] = False
    assert np.array_equal(corrected(mask, loop, "ragged"), wanted)


def row_with(*regions, chosen=MASK):
    rles = [{"rle": encode_rle(mask)} for mask in (MASK, np.zeros_like(MASK))]
    named = [{"candidate": place, "label": label, "rle": encode_rle(loop)} for place, label, loop in regions]
    return {"candidates": rles, "chosen": encode_mask(chosen), "regions": named}


def test_loops_vote_and_speak_only_of_what_they_change():
    left = np.zeros_like(MASK)
    left[:, :3] = True
    signs = critique_signs(row_with((0, "extra", left)))
    assert np.array_equal(signs, np.where(MASK & left, -1, 0))
    assert not critique_signs(row_with((0, "extra", left), (1, "missed", left)))[MASK & left].any(), "one against one"
    outvoted = critique_signs(row_with((0, "extra", left), (0, "extra", left), (1, "missed", left)))
    assert (outvoted[MASK & left] == -1).all()
    row = row_with((0, "extra", left), (0, "missed", loop_mask([(5, 3), (6, 3), (6, 4), (5, 4)], MASK.shape)))
    mended = mended_choice(row, critique_signs(row))
    assert mended.tolist() == mask_of("......#", "...#...", "...#...", "...#.##", ".....##").tolist()


@pytest.mark.parametrize("regions", [{}, {"regions": None}, {"regions": []}])
def test_a_row_without_loops_says_nothing(regions):
    row = {**row_with(), **regions}
    if not regions:
        del row["regions"]
    assert not critique_signs(row).any()
    assert np.array_equal(mended_choice(row, critique_signs(row)), MASK)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.sampled_from(LABELS))
def test_nothing_outside_the_loop_changes_and_twice_is_once(seed, label):
    rng = np.random.default_rng(seed)
    mask, loop = rng.random((2, 9, 11)) > 0.5
    once = corrected(mask, loop, label)
    assert np.array_equal(once[~loop], mask[~loop])
    if label in ("extra", "missed"):
        assert np.array_equal(corrected(once, loop, label), once)
