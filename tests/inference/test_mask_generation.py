import numpy as np
import torch

from visionsam_hf.data.geometry import mask_to_target
from visionsam_hf.data.masks import mask_iou
from visionsam_hf.data.windows import WindowRule, crop, tile_grid
from visionsam_hf.inference.mask_generation import generate_masks, grid_points, stability, suppress


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

    def answer(_, embedding, boxes, points, size, kind, window):
        logits = torch.full((len(points), 4, 16, 16), -20.0)
        scores = torch.full((len(points), 4), 0.1)
        for place, (x, y) in enumerate(points[:, 0]):
            for score, disc, target in zip((0.9, 0.95), discs, targets):
                if disc[int(y), int(x)]:
                    logits[place, 2], scores[place, 2] = target, score
        return logits, scores

    monkeypatch.setattr("visionsam_hf.inference.mask_generation.predict_at", answer)
    asked = dict(look=lambda window: torch.zeros(16, 4, 4), original_size=(height, width), points_per_side=10)
    found = list(generate_masks(model, **asked, min_stability=0.5))
    assert [round(one.score, 2) for one in found] == [0.95, 0.9]
    for one, disc in zip(found, reversed(discs)):
        assert one.mask.shape == disc.shape and disc[int(one.point[1]), int(one.point[0])]
        assert (one.mask & disc).sum() / (one.mask | disc).sum() > 0.8
    assert list(generate_masks(model, **asked, min_score=0.99)) == []


def test_tiles_find_small_objects_once_and_join_what_they_cut(model, monkeypatch):
    """A scratch over three tiles, of which the whole photograph shows nothing; a spot where two tiles overlap; one alone."""
    size, rule = (80, 200), WindowRule("tiles", side=80)
    assert [tile.x for tile in tile_grid(size, 80)] == [0, 60, 120]
    rows, columns = np.mgrid[: size[0], : size[1]]
    scratch = (abs(rows - 42) <= 5) & (columns >= 20) & (columns < 180)
    spots = [np.hypot(rows - y, columns - x) <= 6 for y, x in ((17, 70), (64, 165))]

    def answer(_, embedding, boxes, points, size, kind, window):
        logits, scores = torch.full((len(points), 4, 16, 16), -20.0), torch.full((len(points), 4), 0.1)
        for place, (x, y) in enumerate(points[:, 0]):
            for score, mask in zip((0.9, 0.95, 0.93), (scratch, *spots)):
                if window is not None and mask[int(y), int(x)]:
                    logits[place, 2] = torch.from_numpy(mask_to_target(crop(mask, window), 16)[0]) * 40 - 20
                    scores[place, 2] = score
        return logits, scores

    monkeypatch.setattr("visionsam_hf.inference.mask_generation.predict_at", answer)
    looks = []
    asked = dict(look=looks.append, original_size=size, points_per_side=16, min_stability=0.3)
    found = list(generate_masks(model, **asked, rule=rule))
    assert [round(one.score, 2) for one in found] == [0.95, 0.93, 0.9]
    for one, truth in zip(found, (*spots, scratch)):
        assert mask_iou(one.mask, truth) > 0.7
    assert list(dict.fromkeys(looks)) == [None, *tile_grid(size, 80)]
    assert list(generate_masks(model, **asked)) == []  # without tiles
