import numpy as np
import torch

from visionsam_hf.data.geometry import mask_to_target
from visionsam_hf.inference.prediction import generate_masks, grid_points, stability, suppress


def test_points_stand_in_the_middle_of_their_cells():
    points = grid_points((40, 80), 2)
    assert points.tolist() == [[20, 10], [60, 10], [20, 30], [60, 30]]


def test_stability_compares_the_masks_of_two_thresholds():
    logits = torch.tensor([[2.0, 2.0, 0.5, -0.5], [-3.0, -3.0, -3.0, -3.0]])[:, None, :]
    assert stability(logits).tolist() == [0.5, 0.0]


def test_of_boxes_alike_the_best_scored_stays():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [0, 0, 10, 5]], float)
    assert suppress(boxes, np.array([0.5, 0.9, 0.1, 0.7])) == [1, 3, 2]
    assert suppress(np.zeros((0, 4)), np.zeros(0)) == []


def test_the_discs_of_a_made_up_model_are_found_once(model, monkeypatch):
    """Three points in a disc give three times the same mask; it comes back once, at the photograph's size."""
    height, width = 96, 128
    rows, columns = np.mgrid[:height, :width]
    discs = [np.hypot(rows - y, columns - x) <= 18 for y, x in ((30, 30), (64, 96))]
    targets = [torch.from_numpy(mask_to_target(disc, 16)[0]) * 40 - 20 for disc in discs]

    def answer(_, embedding, boxes, points, size, kind):
        logits = torch.full((len(points), 4, 16, 16), -20.0)
        scores = torch.full((len(points), 4), 0.1)
        for place, (x, y) in enumerate(points[:, 0]):
            for score, disc, target in zip((0.9, 0.95), discs, targets):
                if disc[int(y), int(x)]:
                    logits[place, 2], scores[place, 2] = target, score
        return logits, scores

    monkeypatch.setattr("visionsam_hf.inference.prediction.predict_at", answer)
    found = list(generate_masks(model, torch.zeros(16, 4, 4), (height, width), points_per_side=10, min_stability=0.5))
    assert [round(one.score, 2) for one in found] == [0.95, 0.9]
    for one, disc in zip(found, reversed(discs)):
        assert one.mask.shape == disc.shape and disc[int(one.point[1]), int(one.point[0])]
        assert (one.mask & disc).sum() / (one.mask | disc).sum() > 0.8
    assert list(generate_masks(model, torch.zeros(16, 4, 4), (height, width), points_per_side=10, min_score=0.99)) == []
