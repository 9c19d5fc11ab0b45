"""A prompt answered from a window: pasted at its place, the same wherever the window lies, whoever else asks."""

import datasets
import numpy as np
import pytest
from conftest import large_rows
from PIL import Image

from visionsam_hf.data.geometry import logits_to_original
from visionsam_hf.data.masks import decode_rle, encode_rle
from visionsam_hf.data.windows import WindowRule, object_windows, remember_rule
from visionsam_hf.embeddings.cache import EmbeddingCache
from visionsam_hf.inference.prediction import (
    answer_prompts,
    encode_image,
    iterate_predictions,
    look_at,
    predict_at,
    prompt_windows,
)
from visionsam_hf.preferences.candidates import generate_candidates

ZOOM, TILES = WindowRule("zoom"), WindowRule("tiles", side=96)
SIZE = (180, 240)


@pytest.mark.parametrize("rule", [ZOOM, TILES])
@pytest.mark.parametrize("cached", [False, True])
def test_a_mask_is_the_cut_photographs_at_its_place(tmp_path, model, processor, rule, cached):
    rows = large_rows()
    cache = EmbeddingCache(tmp_path, model, processor, dtype="float32") if cached else None
    results = list(iterate_predictions(model, processor, rows, cache=cache, rule=rule))
    image, objects = rows[0]["image"], rows[0]["objects"]
    windows = object_windows(objects, rule)
    assert len(results) == 4 and None not in windows
    for result, item, window in zip(results, objects, windows):
        cut = image.crop(window.corners)
        box = np.array([item["box"]], np.float32) - [window.x, window.y, window.x, window.y]
        logits, scores = predict_at(
            model, encode_image(model, processor, cut), box, np.zeros((1, 2, 2)), window.size, "box"
        )
        expected = np.zeros((4, *SIZE), bool)
        x1, y1, x2, y2 = window.corners
        expected[:, y1:y2, x1:x2] = (logits_to_original(logits, window.size, 64)[0] > 0).numpy()
        assert (result.masks != expected).mean() < 1e-3
        np.testing.assert_allclose(result.scores, scores[0].numpy(), atol=1e-4)
    if cached:
        assert len(cache) == len(set(windows))


def test_the_whole_photograph_is_answered_as_ever(tmp_path, model, processor, segmentation):
    cache = EmbeddingCache(tmp_path, model, processor, dtype="float32")
    keys = cache.add(segmentation)
    for result in iterate_predictions(model, processor, segmentation, cache=cache, rule=WindowRule()):
        box, none = np.array([result.box], np.float32), np.zeros((1, 2, 2), np.float32)
        logits, _ = predict_at(model, cache[keys[result.row]], box, none, result.truth.shape, "box")
        full = logits_to_original(logits, result.truth.shape, 64)[0] > 0
        assert (full.numpy() != result.masks).mean() < 1e-3
    assert len(cache) == len(segmentation)


def test_moved_by_the_grid_a_mask_only_moves(model, processor):
    """The window and what it shows move along, wherever in the photograph."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (200, 300, 3), dtype=np.uint8)
    box, size = np.array([[100, 80, 110, 90]], np.float32), (200, 300)
    none, step = np.zeros((1, 2, 2), np.float32), 4  # an eighth of a window of 32 pixels

    def answer(move):
        moved = box + np.array([move, 0, move, 0], np.float32)
        look = look_at(model, processor, Image.fromarray(np.roll(pixels, move, 1)))
        windows = prompt_windows(ZOOM, moved, none, size, "box")
        return answer_prompts(model, look, moved, none, size, "box", windows)

    masks, scores = answer(0)
    assert masks.any()
    for move in (step, 5 * step, -10 * step):
        moved, moved_scores = answer(move)
        assert (np.roll(moved, -move, 3) == masks).all() and (moved_scores == scores).all()


def test_a_prompt_does_not_depend_on_the_others(model, processor):
    rows = large_rows()
    together = list(iterate_predictions(model, processor, rows, rule=ZOOM))
    for place, item in enumerate(rows[0]["objects"]):
        alone = datasets.Dataset.from_list([{**rows[0], "objects": [item]}], features=rows.features)
        (result,) = iterate_predictions(model, processor, alone, rule=ZOOM)
        assert (result.masks != together[place].masks).mean() < 1e-3


@pytest.mark.parametrize("prompt", ["point", "point_pm"])
def test_points_are_answered_from_tiles_and_whole_photographs(model, processor, prompt):
    rows = large_rows()
    for rule in (ZOOM, TILES):
        results = list(iterate_predictions(model, processor, rows, prompt=prompt, rule=rule))
        assert [result.masks.shape for result in results] == [(4, *SIZE)] * 4
        reach = max(int(mask.any(0).sum()) for result in results for mask in result.masks)
        assert reach <= 96 if rule is TILES else True


def test_candidates_come_from_the_window_that_the_model_was_tuned_on(tmp_path, model, processor):
    rows, remembered = large_rows(), remember_rule(processor, ZOOM)
    cache = EmbeddingCache(tmp_path, model, remembered)
    sources = ("tokens", "thresholds", "box_jitter", "dropout")
    found = list(generate_candidates(model, remembered, rows, sources=sources, cache=cache))
    windows = object_windows(rows[0]["objects"], ZOOM)
    assert len(cache) == len(set(windows))
    for row, window in zip(found, windows):
        outside = np.ones(SIZE, bool)
        x1, y1, x2, y2 = window.corners
        outside[y1:y2, x1:x2] = False
        for candidate in row["candidates"]:
            assert candidate["rle"] == encode_rle(decode_rle(candidate["rle"]) & ~outside)
