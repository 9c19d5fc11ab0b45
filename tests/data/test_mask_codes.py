"""The check of run-length codes agrees with the library that decodes them; one IoU, whoever computes it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra import numpy as arrays

from visionsam_hf.data import masks as data_masks
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.masks import _runs, check_code, decode_rle, encode_rle, mask_iou, mask_width, pairwise_iou
from visionsam_hf.training.losses import mask_iou as logits_iou

MASKS = arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, max_side=40))


def test_runs_of_a_mask():
    mask = np.array([[0, 1, 1], [0, 0, 1]], bool)  # by columns: 00 10 11
    assert _runs(encode_rle(mask)["counts"]).tolist() == [2, 1, 1, 2]


@settings(deadline=None, max_examples=200)
@given(MASKS)
def test_every_code_of_a_mask_passes(mask):
    code = encode_rle(mask)
    check_code(code["size"], code["counts"])
    np.testing.assert_array_equal(decode_rle(code), mask)


@pytest.mark.parametrize(
    "change",
    [lambda c: c[:-1] + "o", lambda c: c + "1", lambda c: c[1:], lambda c: "", lambda c: "é", lambda c: "\x01"],
)
def test_a_damaged_code_is_named(change):
    code = encode_rle(np.eye(30, dtype=bool))
    with pytest.raises(UserError, match="run-length code"):
        decode_rle({"size": [30, 30], "counts": change(code["counts"])})


@pytest.mark.parametrize("size", [[30, 31], [0, 30], [-30, -30], [30], [10**6, 10**6]])
def test_a_size_that_does_not_fit_is_named(size):
    with pytest.raises(UserError, match="run-length code"):
        decode_rle({"size": size, "counts": encode_rle(np.eye(30, dtype=bool))["counts"]})


def test_iou_by_hand():
    masks = np.zeros((3, 2, 2), bool)
    masks[0, 0] = True
    masks[1, 0, 0] = True
    wanted = np.array([[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1]])  # two empty masks are the same
    assert pairwise_iou(masks).tolist() == wanted.tolist()
    assert [[mask_iou(first, second) for second in masks] for first in masks] == wanted.tolist()


@settings(deadline=None, max_examples=100)
@given(arrays.arrays(bool, (4, 9, 11)))
def test_the_losses_iou_is_the_same(masks):
    """Both binary and from logits, an empty mask among them or not."""
    masks[3] = False
    pairs = [(first, second) for first in range(4) for second in range(4)]
    logits = torch.tensor(np.where(masks, 3.0, -3.0))
    first, second = (torch.tensor(places) for places in zip(*pairs))
    found = logits_iou(logits[first], torch.tensor(masks)[second]).numpy()
    wanted = [mask_iou(masks[first], masks[second]) for first, second in pairs]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    np.testing.assert_allclose(pairwise_iou(masks).ravel(), wanted, rtol=1e-12)


def test_many_pixels_are_counted_one_by_one(monkeypatch):
    """float32 cannot count past 2**24 pixels; parts of them can be counted."""
    monkeypatch.setattr(data_masks, "_PART", 7)
    masks = np.random.default_rng(0).random((3, 10, 10)) < 0.5
    assert pairwise_iou(masks)[0, 1] == mask_iou(masks[0], masks[1])
    monkeypatch.undo()
    masks = np.ones((2, 4097, 4100), bool)
    masks[1, 0, 0] = False
    assert pairwise_iou(masks)[0, 1] == mask_iou(*masks) == 1 - 1 / masks[0].size


@pytest.mark.parametrize(("height", "width"), [(1, 30), (3, 30), (9, 9)])
def test_width_of_a_line_is_its_thickness(height, width):
    mask = np.zeros((40, 40), bool)
    mask[5 : 5 + height, 4 : 4 + width] = True
    assert mask_width(mask) == mask_width(mask.T) == height
    assert mask_width(np.zeros((4, 4), bool)) == 0
