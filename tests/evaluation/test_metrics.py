import multiprocessing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.spatial.distance import cdist
from skimage.morphology import erosion, footprint_rectangle
from skimage.segmentation import find_boundaries

from visionsam_hf.evaluation.metrics import COUNTS, METRICS, averages, boundary_widths, mask_counts, metric_values
from visionsam_hf.evaluation.segmentation_metric import SegmentationMetric


def values(prediction, truth):
    return {name: float(value) for name, value in metric_values(mask_counts(prediction, truth)).items()}


def square(side, top, left, height, width):
    mask = np.zeros((side, side), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def blobs(seed, shape):
    """Two overlapping random masks: discs, strips and speckle, sometimes touching the border."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    masks = []
    for _ in range(2):
        mask = np.zeros(shape, bool)
        for _ in range(3):
            centre = rng.uniform(0, shape)
            mask |= np.hypot(rows - centre[0], columns - centre[1]) < rng.uniform(1, min(shape) / 3)
        mask[rng.integers(shape[0])] |= rng.random(shape[1]) < 0.3
        masks.append(mask & (rng.random(shape) < 0.97))
    masks[1] |= masks[0] & (rng.random(shape) < 0.7)
    return masks


# Independent implementations -----------------------------------------------------------------------------------------


def brute_contour(mask):
    """Pixels of the mask with a 4-neighbour that is not in it, by looking at each pixel."""
    height, width = mask.shape
    found = []
    for row, column in zip(*np.nonzero(mask)):
        for step in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            other = row + step[0], column + step[1]
            if not (0 <= other[0] < height and 0 <= other[1] < width) or not mask[other]:
                found.append((row, column))
                break
    return np.array(found).reshape(-1, 2)


def brute_boundary_f(prediction, truth):
    if not prediction.any() and not truth.any():
        return 1.0
    first, second = brute_contour(prediction), brute_contour(truth)
    if not len(first) or not len(second):
        return 0.0
    tolerance = int(np.ceil(0.008 * np.hypot(*truth.shape)))
    distance = cdist(first, second)
    precision = (distance.min(1) <= tolerance).mean()
    recall = (distance.min(0) <= tolerance).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def skimage_boundary_iou(prediction, truth):
    if not prediction.any() and not truth.any():
        return 1.0
    width = max(1, int(round(0.02 * np.hypot(*truth.shape))))
    bands = []
    for mask in (prediction, truth):
        padded = np.pad(mask, width)
        bands.append((padded & ~erosion(padded, footprint_rectangle((2 * width + 1,) * 2)))[width:-width, width:-width])
    return (bands[0] & bands[1]).sum() / (bands[0] | bands[1]).sum()


def degenerate():
    empty, full, dot = np.zeros((23, 31), bool), np.ones((23, 31), bool), np.zeros((23, 31), bool)
    dot[0, 30] = True
    line = np.zeros((23, 31), bool)
    line[7] = True
    for first in (empty, full, dot, line):
        for second in (empty, full, dot, line):
            yield first, second


def cases():
    yield from degenerate()
    for seed, shape in enumerate([(40, 40), (33, 90), (120, 61), (1, 17), (150, 150), (64, 200)]):
        yield tuple(blobs(seed, shape)) if min(shape) > 3 else (np.ones(shape, bool), np.arange(17)[None] > 5)


def test_metrics_equal_independent_implementations():
    for prediction, truth in cases():
        got = values(prediction, truth)
        shared, union = np.logical_and(prediction, truth).sum(), np.logical_or(prediction, truth).sum()
        assert got["iou"] == pytest.approx(shared / union if union else 1)
        assert got["dice"] == pytest.approx(2 * got["iou"] / (1 + got["iou"]))
        assert got["boundary_f"] == pytest.approx(brute_boundary_f(prediction, truth))
        assert got["boundary_iou"] == pytest.approx(skimage_boundary_iou(prediction, truth))


def test_contours_equal_scikit_image_away_from_the_border():
    first, second = (np.pad(mask, 3) for mask in blobs(3, (50, 70)))
    counts = mask_counts(first, second)
    assert counts["predicted_contour"] == find_boundaries(first, connectivity=1, mode="inner").sum()
    assert counts["true_contour"] == find_boundaries(second, connectivity=1, mode="inner").sum()


# Closed forms and rules ----------------------------------------------------------------------------------------------


def test_a_worked_example():
    # 10x10 against the same moved 5 to the right: 50 shared of 150.
    got = values(square(50, 10, 15, 10, 10), square(50, 10, 10, 10, 10))
    assert (got["iou"], got["dice"], got["precision"], got["coverage"]) == pytest.approx((1 / 3, 0.5, 0.5, 0.5))


def test_empty_masks_follow_the_rules():
    empty, some = np.zeros((9, 9), bool), square(9, 2, 2, 3, 3)
    assert set(values(empty, empty).values()) == {1.0}
    assert set(values(empty, some).values()) == {0.0}
    assert set(values(some, empty).values()) == {0.0}


def test_widths_are_whole_pixels_of_the_diagonal():
    assert boundary_widths((300, 400)) == (4, 10)
    assert boundary_widths((3, 4)) == (1, 1)


def test_masks_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="of one shape"):
        mask_counts(np.zeros((2, 3), bool), np.zeros((3, 2), bool))


masks = arrays.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


@settings(max_examples=60, deadline=None)
@given(masks, st.integers(0, 2**32 - 1))
def test_properties(prediction, seed):
    truth = np.random.default_rng(seed).random(prediction.shape) < 0.4
    got, turned = values(prediction, truth), values(truth, prediction)
    assert all(0 <= value <= 1 for value in got.values())
    for name in ("iou", "dice", "boundary_f", "boundary_iou"):
        assert got[name] == pytest.approx(turned[name])
    assert got["precision"] == turned["coverage"]
    assert set(values(truth, truth).values()) == {1.0}
    flipped = values(prediction[::-1, ::-1], truth[::-1, ::-1])
    assert flipped == pytest.approx(got)


# Averages and the evaluate.Metric ------------------------------------------------------------------------------------


def table(n=12):
    pairs = [blobs(seed, (30, 40)) for seed in range(n)]
    rows = [mask_counts(*pair) for pair in pairs]
    return {name: np.array([row[name] for row in rows]) for name in COUNTS}, ["a", "b", "b"] * (n // 3)


def test_the_three_averages_differ_as_they_should():
    # Category a: IoU 1 on one big mask. Category b: IoU 0 on three small ones.
    big, small, away = square(60, 0, 0, 40, 40), square(60, 50, 0, 2, 2), square(60, 50, 50, 2, 2)
    rows = [mask_counts(big, big)] + [mask_counts(small, away)] * 3
    got = averages({name: [row[name] for row in rows] for name in COUNTS}, ["a", "b", "b", "b"])
    assert got["overall"]["iou"] == 0.25
    assert got["category_mean"]["iou"] == 0.5
    assert got["pooled"]["iou"] == pytest.approx(1600 / (1600 + 24))
    assert got["per_category"]["b"] == {"n": 3, **dict.fromkeys(METRICS, 0.0)}


def test_averages_do_not_depend_on_the_order():
    counts, categories = table()
    order = np.random.default_rng(0).permutation(len(categories))
    shuffled = averages({name: counts[name][order] for name in COUNTS}, [categories[index] for index in order])
    assert shuffled == averages(counts, categories)


@pytest.mark.parametrize("batch", [1, 5, 12])
def test_metric_equals_averages_for_any_batch(batch, tmp_path):
    counts, categories = table()
    metric = SegmentationMetric(cache_dir=str(tmp_path))
    for start in range(0, 12, batch):
        part = slice(start, start + batch)
        metric.add_batch(**{name: counts[name][part] for name in COUNTS}, category=categories[part])
    assert metric.compute() == {"n": 12, **averages(counts, categories)}


def compute_share(rank, rows, cache, answers):
    metric = SegmentationMetric(num_process=3, process_id=rank, experiment_id="three", cache_dir=cache)
    for row in rows:
        metric.add(**row)
    answers.put((rank, metric.compute()))


def test_three_processes_give_the_numbers_of_one(tmp_path):
    counts, categories = table()
    rows = [{name: int(counts[name][i]) for name in COUNTS} | {"category": categories[i]} for i in range(12)]
    # Forked: three fresh interpreters would spend their time on imports.
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    workers = [
        context.Process(target=compute_share, args=(rank, rows[rank::3], str(tmp_path), answers)) for rank in range(3)
    ]
    for worker in workers:
        worker.start()
    got = dict(answers.get(timeout=120) for _ in workers)
    for worker in workers:
        worker.join()
    assert got == {0: {"n": 12, **averages(counts, categories)}, 1: None, 2: None}
