"""What is ranked first, on rows whose order can be told by hand."""

import io

import numpy as np
import pytest
from PIL import Image

from visionsam_hf.data.masks import encode_rle
from visionsam_hf.preferences.task_order import ordered


def row(*, shift=0, gap=0.3, category=0, image="a", grey=100, size=32):
    """Three squares, each `shift` beside the one before; `gap` between the best score and the second."""
    masks = []
    for number in range(3):
        mask = np.zeros((size, size), bool)
        mask[4:14, 2 + number * shift : 12 + number * shift] = True
        masks.append(mask)
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (grey,) * 3).save(buffer, "PNG")
    scores = (0.9 - gap, 0.1, 0.9)
    return {
        "image": {"bytes": buffer.getvalue(), "path": None},
        "image_id": image,
        "category": category,
        "box": [2.0, 4.0, 12.0, 14.0],
        "candidates": [
            {"rle": encode_rle(mask), "score": score, "token": 1} for mask, score in zip(masks, scores, strict=True)
        ],
    }


def test_id_is_the_order_of_the_rows():
    assert ordered(iter([row(), row(), row()]), "id") == [0, 1, 2]


def test_uncertain_begins_where_masks_disagree_and_scores_are_close():
    rows = [row(shift=1, image="a"), row(shift=5, image="b"), row(shift=3, image="c"), row(shift=0, image="d")]
    assert ordered(rows, "uncertain") == [1, 2, 0, 3]
    rows = [row(gap=0.3, image="a"), row(gap=0.01, image="b"), row(gap=0.1, image="c")]
    assert ordered(rows, "uncertain") == [1, 2, 0]


def test_uncertain_takes_categories_and_images_in_turn():
    shifts = [5, 4, 3, 2, 1]
    rows = [row(shift=shift, category=category) for shift, category in zip(shifts, (0, 0, 0, 1, 1))]
    assert ordered(rows, "uncertain") == [0, 3, 1, 4, 2]
    rows = [row(shift=shift, image=image) for shift, image in zip(shifts, "aabbc")]
    assert ordered(rows, "uncertain") == [0, 2, 4, 1, 3]


def test_diverse_goes_where_nothing_was_yet():
    rows = [row(grey=grey) for grey in (0, 10, 120, 250, 130)]
    order = ordered(rows, "diverse")
    assert order[0] in (2, 4), "the most usual look first"
    assert set(order[1:3]) == {0, 3}, "then the extremes"
    assert ordered(rows, "diverse", ranked=[3])[0] == 0, "as far as can be from what was ranked"
    assert ordered(rows, "diverse", ranked=[3])[-1] == 3


@pytest.mark.parametrize("order", ["id", "uncertain", "diverse"])
def test_every_row_comes_once(order):
    rng = np.random.default_rng(0)
    rows = [
        row(shift=int(rng.integers(6)), category=int(rng.integers(3)), image=str(rng.integers(4)), grey=100)
        for _ in range(23)
    ]
    assert sorted(ordered(rows, order, ranked=[3, 5])) == list(range(23))
    assert ordered(rows, order) == ordered(rows, order)
