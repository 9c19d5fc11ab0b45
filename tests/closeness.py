"""What is promised of numbers: counts, names and masks are equal, floats agree to a tolerance.

The last bits of a float depend on the processor, the number of threads, and where in memory the operands lie.
"""

from collections.abc import Mapping, Sequence
from numbers import Integral, Real

import numpy as np
import pytest
import torch


def assert_close(found, wanted, *, rtol=1e-5, atol=1e-6, where="it"):
    """Compare numbers, arrays, tensors, and dicts and lists of them; whatever is no float must be equal."""
    if isinstance(wanted, torch.Tensor):
        torch.testing.assert_close(found, wanted, rtol=rtol, atol=atol, equal_nan=True)
    elif isinstance(wanted, np.ndarray) and wanted.dtype.kind == "f":
        np.testing.assert_allclose(found, wanted, rtol=rtol, atol=atol, err_msg=where)
    elif isinstance(wanted, np.ndarray):
        np.testing.assert_array_equal(found, wanted, err_msg=where)
    elif isinstance(wanted, Mapping):
        assert set(found) == set(wanted), where
        for key, value in wanted.items():
            assert_close(found[key], value, rtol=rtol, atol=atol, where=f"{where}[{key!r}]")
    elif isinstance(wanted, Sequence) and not isinstance(wanted, str):
        assert len(found) == len(wanted), where
        for place, value in enumerate(wanted):
            assert_close(found[place], value, rtol=rtol, atol=atol, where=f"{where}[{place}]")
    elif isinstance(wanted, Real) and not isinstance(wanted, Integral):
        assert found == pytest.approx(wanted, rel=rtol, abs=atol, nan_ok=True), where
    else:
        assert found == wanted, where


def assert_same_masks(found, wanted):
    """Two ways to compute a mask: they may differ where a logit is nothing but rounding, in a pixel of a thousand."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape and found.dtype == wanted.dtype
    assert np.mean(found != wanted) <= 1e-3
