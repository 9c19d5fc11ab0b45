import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visionsam_hf.evaluation.detection_metrics import FoundDefects, detection_figures, pixel_figures


def aupro_by_thresholds(maps, truths, limit):
    """The same by its definition: mark everything above each threshold, and measure."""
    points = [(0.0, 0.0)]
    for threshold in sorted({float(value) for found in maps for value in found.ravel()}, reverse=True):
        overlaps, false, good = [], 0, 0
        for found, truth in zip(maps, truths):
            marked = found >= threshold
            count, labels = cv2.connectedComponents(truth.astype(np.uint8), connectivity=8)
            overlaps += [marked[labels == label].mean() for label in range(1, count)]
            false, good = false + (marked & ~truth).sum(), good + (~truth).sum()
        points.append((false / good, float(np.mean(overlaps))))
    area = 0.0
    for (x0, y0), (x1, y1) in zip(points, points[1:]):
        if x0 >= limit:
            break
        if x1 > limit:
            x1, y1 = limit, y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), levels=st.sampled_from([3, 8, 1000]), limit=st.sampled_from([0.05, 0.3, 1.0]))
def test_aupro_is_what_its_definition_says(seed, levels, limit):
    rng = np.random.default_rng(seed)
    maps = [rng.integers(0, levels, (9, 7)).astype(np.float32) for _ in range(3)]
    truths = [rng.random((9, 7)) < share for share in (0.3, 0.1, 0.0)]
    truths[0][0, 0], truths[0][8, 6] = True, False
    found = pixel_figures(maps, truths, limit=limit)
    assert found["aupro"] == pytest.approx(aupro_by_thresholds(maps, truths, limit), abs=1e-9)
    rough = pixel_figures(maps, truths, limit=limit, levels=60)
    assert rough == pytest.approx(found, abs=0.12)
    pixels = [np.concatenate([part.ravel() for part in parts]) for parts in (maps, truths)]
    assert detection_figures(*pixels) == pytest.approx({key: found[key] for key in ("auroc", "ap", "f1_max")})


def test_aupro_counts_regions_and_not_pixels():
    truth = np.zeros((20, 20), bool)
    truth[0, 0], truth[10:, 10:] = True, True
    found = np.where(truth, 1.0, 0.0)
    assert pixel_figures([found], [truth])["aupro"] == pytest.approx(1)
    found[0, 0] = -1  # one pixel of a hundred and one, but one region of two
    # Up to a rate of 1 the missed region stays missed.
    assert pixel_figures([found], [truth])["aupro"] == pytest.approx(0.5, abs=1e-3)
    assert pixel_figures([found], [np.zeros_like(truth)])["aupro"] is None


def test_figures_of_detection():
    scores, positive = np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])
    found = detection_figures(scores, positive)
    assert found == pytest.approx({"auroc": 0.75, "ap": 0.5 + 0.5 * 2 / 3, "f1_max": 0.8})
    assert detection_figures(scores, positive & False) == {"auroc": None, "ap": None, "f1_max": None}
    truth = np.eye(4, dtype=bool)
    assert pixel_figures([truth.astype(float)], [truth]) == pytest.approx(dict(auroc=1, ap=1, f1_max=1, aupro=1))


def test_defects_that_were_found_and_masks_that_are_false():
    def square(start, stop):
        mask = np.zeros((10, 10), bool)
        mask[start:stop, start:stop] = True
        return mask

    counted = FoundDefects()
    assert counted.add([square(0, 4), square(8, 10)], [square(0, 3), square(5, 7)]) == pytest.approx(9 / 24)
    assert counted.add([square(0, 2)], []) is None and counted.add([], []) is None
    assert counted.add([], [square(0, 5)]) == 0.0
    figures = counted.figures()
    assert [figures[key] for key in ("defects", "found", "masks", "false", "good", "good_marked")] == [3, 1, 3, 2, 2, 1]
    assert figures["iou"] == pytest.approx(9 / 48) and figures["dice"] == pytest.approx(9 / 33)
    assert figures["good_marked_share"] == 0.5
