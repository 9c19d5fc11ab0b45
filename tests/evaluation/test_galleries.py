"""The report's captions."""

import numpy as np
import pytest

from visionsam_hf.evaluation.report.galleries import _names, _prompt_cells


@pytest.mark.parametrize(
    ("record", "names"),
    [
        ({"defect": "crack", "category": "tile"}, ["crack", "tile"]),
        ({"defect": "defect", "category": "defect"}, ["defect"]),
        ({"category": "tile"}, ["tile"]),
        ({}, []),
    ],
)
def test_captions_say_nothing_twice(record, names):
    assert _names(record) == names
    image, truth = np.zeros((20, 20, 3), np.uint8), np.eye(20, dtype=bool)
    photograph, outline = _prompt_cells(image, [2, 2, 9, 9], truth, record)
    assert "product" not in photograph.alt and photograph.alt.count("defect") <= 1 and "None" not in outline.alt
