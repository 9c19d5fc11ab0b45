import json

import numpy as np
import pytest
import torch
from PIL import Image

from visionsam_hf.data.errors import UserError
from visionsam_hf.inference.finders.cell_head import Cells, cell_weights, fit_head
from visionsam_hf.inference.finders.finder import FinderConfig, map_score
from visionsam_hf.inference.finders.finder_files import OutsideMaps, load_finder, save_finder
from visionsam_hf.inference.finders.fitting import fit_finder, set_threshold
from visionsam_hf.inference.finders.found_masks import FoundMask, keep_masks
from visionsam_hf.inference.finders.map_prompts import PromptPlan, Region, find_regions, region_prompt
from visionsam_hf.inference.finders.memory_bank import bank_distance, greedy_coreset, unit_cells


def images(n=24, seed=0, side=8, channels=12):
    """Embeddings of noise; every other one has a 2 x 2 defect with another direction in it. The last columns are padding."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(n, channels, side, side, generator=generator) * 0.3 + torch.ones(channels)[:, None, None]
    targets, valid = torch.zeros(n, side, side), torch.ones(n, side, side, dtype=torch.bool)
    valid[:, :, 6:] = False
    for place in range(0, n, 2):
        y, x = divmod(int(torch.randint(0, 20, (), generator=generator)), 4)
        embeddings[place, :4, y : y + 2, x : x + 2] -= 3
        targets[place, y : y + 2, x : x + 2] = 1.0
    embeddings[:, :, :, 6:] = 50.0
    return Cells(embeddings.half(), targets, valid)


def test_a_coreset_takes_what_is_far_apart():
    cells = torch.cat([torch.randn(500, 8) * 0.01 + 1, torch.eye(8) * 3])
    chosen = greedy_coreset(cells, 10)
    assert chosen.shape == (10, 8)
    assert all((chosen == corner).all(1).any() for corner in torch.eye(8) * 3)
    assert greedy_coreset(cells, 1000) is cells


def test_distance_to_a_bank():
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    embedding = torch.tensor([[[5.0, 0.0], [-1.0, 1.0]], [[0.0, 2.0], [0.0, 1.0]]])  # (2, 2, 2)
    expected = torch.tensor([[0, 0], [1, 1 - 0.5**0.5]])
    torch.testing.assert_close(bank_distance(bank, embedding), expected)
    valid = torch.tensor([[[True, False], [False, True]]])
    torch.testing.assert_close(unit_cells(embedding[None], valid), torch.tensor([[1.0, 0.0], [0.5**0.5, 0.5**0.5]]))


def test_every_defective_image_weighs_the_same():
    targets = torch.zeros(3, 4, 4)
    targets[0, 0, 0], targets[1, :2] = 0.1, 1.0
    targets[1, 2] = 0.05  # touched by a defect that covers other cells
    valid = torch.ones(3, 4, 4, dtype=torch.bool)
    valid[:, 3] = False
    labels, weights = cell_weights(targets, valid)
    positive = (weights * labels).sum((1, 2))
    torch.testing.assert_close(positive, torch.tensor([0.75, 0.75, 0.0]))
    assert labels[0, 0, 0] == 1 and (weights[1, 2] == 0).all() and (weights[:, 3] == 0).all()
    torch.testing.assert_close(weights.sum(), torch.tensor(3.0))


def test_a_head_learns_and_repeats_itself():
    train, held = images(), images(8, seed=1)
    head, epoch = fit_head(train, held, seed=3)
    with torch.inference_mode():
        logits = head(held.embeddings)
    inside = held.targets > 0
    assert logits[inside].mean() > 1 > -1 > logits[~inside & held.valid].mean()
    again, same = fit_head(train, held, seed=3)
    assert same == epoch
    torch.testing.assert_close(again.conv.weight, head.conv.weight)


@pytest.mark.parametrize("kind", ["bank", "head", "both"])
def test_a_finder_tells_good_from_defective_and_survives_its_files(kind, tmp_path):
    fitted = fit_finder(FinderConfig(kind, image_size=64), images(), images(8, seed=1), bank_size=200)
    test, finder, size = images(12, seed=2), fitted.finder, (64, 48)
    maps = [finder.map_of(embedding, size) for embedding in test.embeddings]
    scores = np.array([map_score(found, size) for found in maps])
    assert scores[::2].min() > max(scores[1::2].max(), finder.config.threshold)
    assert (scores[1::2] > finder.config.threshold).mean() <= 0.5
    assert all(finder.config.probability(score) > 0.5 for score in scores[::2])
    whole, sharp = finder.maps_of(test.embeddings[0], size)
    assert (whole[:, 6:] == 0).all() and (sharp[:, 6:] == 0).all()
    assert test.targets[0][np.unravel_index(sharp.argmax(), sharp.shape)] == 1  # the peak lies in the defect
    save_finder(finder, tmp_path)
    copied = load_finder(tmp_path)
    assert copied.config == finder.config
    np.testing.assert_array_equal(copied.map_of(test.embeddings[0], size), maps[0])


def test_a_bank_without_good_photographs_is_refused():
    cells = images()
    with pytest.raises(UserError, match="0 good photographs"):
        fit_finder(FinderConfig("bank"), cells.select(list(range(0, 24, 2))))
    with pytest.raises(UserError, match="choose finder: bank"):
        fit_finder(FinderConfig("both"), cells.select(list(range(1, 24, 2))))


def test_a_few_unmarked_defects_do_not_move_the_threshold():
    scores, defective = np.concatenate([np.linspace(1, 3, 40), [20.0, 30.0, 40.0]]), np.zeros(43, bool)
    config = FinderConfig("bank")
    set_threshold(config, scores, defective)
    assert 3 < config.threshold < 6 and config.probability(config.threshold) == pytest.approx(0.5)


def test_regions_round_peaks():
    found = np.zeros((40, 60), np.float32)
    found[5:15, 5:20] = 4
    found[8, 8] = 10
    found[30:34, 50:55] = 6
    high, low = find_regions(found, level=0.3, most=5)
    assert high.peak == 10 and high.point == (8, 8) and high.box == (5, 5, 20, 15)
    assert low.box == (50, 30, 55, 34)
    (only,) = find_regions(found, level=0.5, most=1)
    assert only.box == (8, 8, 9, 9)
    found[30:34, 50:55] = 5.9  # less than 0.6 of the first peak
    assert len(list(find_regions(found, level=0.3, most=3))) == 1
    assert not list(find_regions(found * 0, level=0.5, most=3))
    box, points = region_prompt(high, "point_pm")
    assert box.tolist() == [5, 5, 20, 15] and points[0].tolist() == [8, 8]
    assert not high.pixels[int(points[1, 1]), int(points[1, 0])]


def test_of_masks_that_overlap_the_surer_one_stays():
    def mask(score, start, stop, inside=1.0):
        pixels = np.zeros((10, 10), bool)
        pixels[:, start:stop] = True
        return FoundMask(pixels, score, inside, "box", Region(1.0, (0, 0), pixels, (0, 0, 1, 1)))

    masks = [mask(0.5, 0, 5), mask(0.9, 1, 5), mask(0.3, 6, 8), mask(0.8, 8, 10, inside=0.1), mask(0.7, 3, 3)]
    assert [one.score for one in keep_masks(masks, PromptPlan(min_inside=0.2))] == [0.9, 0.3]
    assert [one.score for one in keep_masks(masks, PromptPlan(min_score=0.4))] == [0.9, 0.8]


def test_maps_of_another_system(tmp_path):
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.save(tmp_path / "a.npy", values[None])
    (tmp_path / "images" / "bolt" / "good").mkdir(parents=True)
    (tmp_path / "images" / "bolt" / "bad").mkdir()
    Image.fromarray(values).save(tmp_path / "images" / "bolt" / "bad" / "000.tiff")
    Image.fromarray((values * 20).astype(np.uint8)).save(tmp_path / "images" / "bolt" / "good" / "000.png")
    np.save(tmp_path / "square.npy", np.ones((4, 4)))
    maps = OutsideMaps(tmp_path)
    np.testing.assert_array_equal(maps.map_of("a", (3, 4)), values)
    np.testing.assert_array_equal(maps.map_of("bad/000", (3, 4)), values)
    np.testing.assert_array_equal(maps.map_of("bolt/good/000.png", (3, 4)), values * 20)
    assert maps.map_of("square", (6, 9)).shape == (6, 9) and maps.map_of("a", (6, 8)).shape == (6, 8)
    for name, size, told in (
        ("000", (3, 4), "2 maps fit"), ("b", (3, 4), "no map fits"), ("a", (9, 4), "a.npy: is 4 x 3 pixels, its image 4 x 9"),
    ):
        with pytest.raises(UserError, match=told):
            maps.map_of(name, size)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no maps"):
        OutsideMaps(tmp_path / "empty")


@pytest.mark.parametrize("content", ["", "{}", '{"model_type": "sam"}', '{"model_type": "visionsam_finder"}'])
def test_what_is_no_finder_is_refused(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match="is no finder|is damaged"):
        load_finder(tmp_path)


def test_damaged_weights_are_one_line(tmp_path):
    save_finder(fit_finder(FinderConfig("bank"), images(), bank_size=50).finder, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="is damaged"):
        load_finder(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["units"]["bank"]
