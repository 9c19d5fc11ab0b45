"""The check of run-length codes agrees with the library that decodes them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as arrays

from visionsam_hf.data.errors import UserError
from visionsam_hf.data.schema import _runs, check_code, decode_rle, encode_rle

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
