import numpy as np
import pytest
from defect_examples import disc, discs

from visionsam_hf.data.errors import UserError
from visionsam_hf.evaluation.metrics import mask_counts, metric_values
from visionsam_hf.inference.baselines import (
    BASELINES,
    _ridge_strengths,
    fill_box,
    fill_ellipse,
    find_baseline,
    grabcut,
    iterate_baseline,
    otsu,
)


def scene(level=180, noise=4):
    truth = disc((80, 100), (40, 50), 14)
    image = np.random.default_rng(0).normal(90, noise, (80, 100, 3))
    image[truth] += level - 90
    return image.clip(0, 255).astype(np.uint8), truth, (36.0, 26.0, 65.0, 55.0)


def iou(mask, truth):
    return float(metric_values(mask_counts(mask, truth))["iou"])


def test_the_ellipse_has_its_area_and_touches_the_box():
    box = (10.0, 20.0, 90.0, 60.0)
    mask = fill_ellipse(np.zeros((100, 120, 3), np.uint8), box)
    assert mask.sum() == pytest.approx(np.pi / 4 * 80 * 40, rel=0.01)
    rows, columns = np.nonzero(mask)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == box
    assert fill_ellipse(np.zeros((9, 9, 3), np.uint8), (3.6, 3.6, 3.9, 3.9)).sum() == 1


def test_fill_box_takes_whole_pixels():
    mask = fill_box(np.zeros((10, 10, 3), np.uint8), (2.0, 3.0, 5.5, 6.0))
    assert mask.sum() == 4 * 3 and mask[3:6, 2:6].all()


@pytest.mark.parametrize("level", [180, 20])
@pytest.mark.parametrize("segment", [otsu, grabcut])
def test_a_clear_defect_is_found_bright_or_dark(segment, level):
    image, truth, box = scene(level)
    assert iou(segment(image, box), truth) > 0.9


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("box", [(0.0, 0.0, 100.0, 80.0), (99.0, 79.0, 100.0, 80.0), (10.2, 10.2, 10.6, 10.6)])
def test_any_box_gives_a_mask(name, box):
    for image in (scene()[0], np.full((80, 100, 3), 7, np.uint8)):
        mask = BASELINES[name](image, box)
        assert mask.shape == (80, 100) and mask.dtype == bool and mask.any()


def test_grabcut_does_not_depend_on_what_came_before():
    image, _, box = scene(level=110, noise=20)
    first = grabcut(image, box)
    grabcut(image[::-1].copy(), box)
    assert np.array_equal(grabcut(image, box), first)


def test_same_prompts_as_the_data_set():
    data = discs(7)
    results = list(iterate_baseline("fill_box", data))
    objects = [(row, index) for row, example in enumerate(data) for index in range(len(example["objects"]))]
    assert [(result.row, result.object_index) for result in results] == objects
    assert len(list(iterate_baseline("fill_box", data, max_prompts=3))) == 3
    result = results[0]
    assert result.masks.shape == (4, 48, 64) and np.isnan(result.scores).all()
    assert (result.masks[0] | ~result.truth).all()


def test_wrong_names_are_the_users_error():
    with pytest.raises(UserError, match="baseline:otsu"):
        find_baseline("baseline:sobel", "box")
    with pytest.raises(UserError, match="needs a box"):
        find_baseline("baseline:otsu", "point")


def test_ridge_is_satos_filter():
    from skimage.filters import sato  # an independent implementation

    rng = np.random.default_rng(0)
    grey = rng.normal(120, 20, (60, 80)).astype(np.float32)
    dark, bright = _ridge_strengths(grey)
    inner = (slice(16, -16), slice(16, -16))  # the two treat the border differently
    for ours, black in ((dark, True), (bright, False)):
        theirs = sato(grey, sigmas=(1, 2, 3), black_ridges=black)
        # It takes second derivatives as two first ones, which on the finest grain is not quite the same.
        assert np.corrcoef(ours[inner].ravel(), theirs[inner].ravel())[0, 1] > 0.98
        assert ours[inner].max() == pytest.approx(theirs[inner].max(), rel=0.2)
