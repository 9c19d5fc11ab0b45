"""Training shows a prompt its window: what is cut out, where the prompt stands in it, and what counts as one sample."""

import datasets
import numpy as np
import pytest
import torch
from conftest import large_rows, segmentation_rows

from visionsam_hf import SamDPOConfig, SamDPOTrainer, SamSFTConfig, SamSFTTrainer
from visionsam_hf.data.augmentation import variant_of
from visionsam_hf.data.geometry import mask_to_target, to_square
from visionsam_hf.data.masks import decode_mask, decode_rle
from visionsam_hf.data.windows import WindowRule, crop, look_window, object_windows, tuned_rule, window_key
from visionsam_hf.embeddings.cache import EmbeddingCache
from visionsam_hf.embeddings.decoding import image_hash
from visionsam_hf.training.dpo_trainer import reference_key
from visionsam_hf.training.samples import PreferenceSamples, PromptSamples

ZOOM = WindowRule("zoom")
SIDES = dict(image_side=64, mask_side=16)


def make(rows, processor, **values):
    return PromptSamples(rows, processor, **{**SIDES, "rule": ZOOM, "prompts_per_image": 4, **values})


@pytest.mark.parametrize("rule", [ZOOM, WindowRule("tiles", side=96), WindowRule()])
def test_prompts_of_a_window_are_drawn_together(processor, rule):
    rows = large_rows()
    samples, objects = make(rows, processor, rule=rule, training=False), rows[0]["objects"]
    windows = object_windows(objects, rule)
    assert [window for _, _, window in samples.index] == list(dict.fromkeys(windows))
    assert sorted(sum((places for _, places, _ in samples.index), [])) == [0, 1, 2, 3]
    image = np.asarray(rows[0]["image"])
    for item, (_, places, window) in enumerate(samples.index):
        sample = samples[item]
        for index, place in enumerate(places):
            mask, box = decode_rle(objects[place]["rle"]), np.array(objects[place]["box"])
            target, valid = mask_to_target(crop(mask, window), 16)
            assert (sample["targets"][index].numpy() == target).all() and (sample["valid"].numpy() == valid).all()
            # In pixels of the photograph, whatever the window.
            np.testing.assert_allclose(sample["boxes"][index], to_square(box, mask.shape, 64, window), atol=1e-4)
        expected = processor(images=crop(image, window), return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(sample["pixel_values"], expected)


def test_a_cached_window_is_the_windows_embedding(tmp_path, model, processor):
    rows = large_rows()
    cache = EmbeddingCache(tmp_path, model, processor, dtype="float32")
    cached, drawn = (make(rows, processor, cache=one, training=False) for one in (cache, None))
    assert len(cache) == len(cached) == 3
    for item in range(3):
        with torch.no_grad():
            expected = model.get_image_embeddings(drawn[item]["pixel_values"][None])[0]
        torch.testing.assert_close(cached[item]["image_embeddings"], expected, rtol=1e-4, atol=1e-5)


def test_jitter_stays_in_the_window(processor):
    samples = make(large_rows(), processor, rule=WindowRule("zoom", multiple=1.5, side=16), box_jitter=0.45)
    for epoch in range(40):
        samples.set_epoch(epoch)
        for item in range(len(samples)):
            boxes = samples[item]["boxes"]
            assert (boxes >= 0).all() and (boxes <= 64).all() and (boxes[:, 2:] > boxes[:, :2]).all()


def test_a_look_is_of_the_window(tmp_path, model, processor):
    """Cut, a little wider, then turned: the look's number and the photograph say how, so every process has the same."""
    rows = large_rows()
    cache = EmbeddingCache(tmp_path, model, processor, dtype="float32")
    samples = make(rows, processor, cache=cache, variants=3)
    assert len(cache) == 9 and set(samples.source.entries) == set(cache._places)
    key = image_hash(samples.source.images[0]["image"])
    window = samples.index[0][2]
    shown = look_window(window, (180, 240), key, 2)
    assert shown != window
    look = variant_of(key, 2).look(crop(np.asarray(rows[0]["image"]), shown))
    pixels = processor(images=look, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = model.get_image_embeddings(pixels)[0]
    torch.testing.assert_close(cache[window_key(key, window) + "-v1.2"], expected, rtol=1e-4, atol=1e-5)


def test_prompts_and_targets_move_with_a_look(tmp_path, model, processor):
    rows = large_rows()
    samples = make(rows, processor, variants=4)  # without a cache, so that the sample holds what is shown
    seen = set()
    for epoch in range(12):
        samples.set_epoch(epoch)
        for item in range(len(samples)):
            sample = samples[item]
            # The discs are darker than all else: what the target covers is what the pixels show.
            pixels = sample["pixel_values"].mean(0)
            grid = torch.nn.functional.avg_pool2d(pixels[None, None], 4)[0, 0]
            inside, outside = sample["targets"].amax(0) > 0.95, sample["targets"].amax(0) == 0
            assert grid[inside].mean() < grid[outside & sample["valid"]].mean() - 0.5
            seen.add(tuple(sample["boxes"][0].tolist()))
    assert len(seen) > 3 * 3


def test_points_see_the_whole_photograph(tmp_path, model, processor):
    rows = large_rows()
    cache = EmbeddingCache(tmp_path, model, processor)
    samples = make(rows, processor, cache=cache, prompt_mix={"box": 1, "point_pm": 1})
    assert len(cache) == 4  # three windows and the photograph
    shapes = set()
    for epoch in range(8):
        samples.set_epoch(epoch)
        for item in range(len(samples)):
            sample = samples[item]
            shapes.add((sample["kind"], int(sample["valid"].sum())))
    assert shapes == {("box", 16 * 16), ("point_pm", 16 * 12)}


def test_preferences_are_learnt_in_their_windows(tmp_path, model, processor, preferences):
    rule = WindowRule("zoom", multiple=1.5, side=16)
    rows, cache = preferences.select([0, 1]), EmbeddingCache(tmp_path, model, processor)
    samples = PreferenceSamples(rows, processor, **SIDES, rule=rule, cache=cache, rankings=True)
    assert len(cache) == 2 and None not in samples.windows
    for item, window in enumerate(samples.windows):
        row, sample = rows[item], samples[item]
        for name in ("chosen", "rejected", "truth"):
            assert (sample[name].numpy() == mask_to_target(crop(decode_mask(row[name]), window), 16)[0]).all()
        size = decode_mask(row["chosen"]).shape
        np.testing.assert_allclose(sample["boxes"][0], to_square(np.array(row["box"]), size, 64, window), atol=1e-4)
        assert sample["valid"].all()  # the window is square
    whole = PreferenceSamples(rows, processor, **SIDES)
    assert reference_key(model, samples, "single") != reference_key(model, whole, "single")


def test_models_remember_the_window_they_were_tuned_with(tmp_path, model, processor, preferences):
    rows = datasets.concatenate_datasets([large_rows()] * 2)
    common = dict(max_steps=2, use_cpu=True, disable_tqdm=True, embeddings=str(tmp_path / "cache"))
    args = SamSFTConfig(output_dir=str(tmp_path / "sft"), window="zoom", window_side=24, **common)
    first = SamSFTTrainer(model, args, rows, processing_class=processor)
    first.train()
    rule = WindowRule("zoom", 3.0, 24)
    assert first.rule == tuned_rule(first.processor) == rule and tuned_rule(processor) is None
    args = SamDPOConfig(output_dir=str(tmp_path / "dpo"), **common)
    second = SamDPOTrainer(model, args, preferences, processing_class=first.processor)
    assert second.rule == rule and second.train_dataset.windows[0] == rule.of_box((20, 14, 41, 35), (48, 64))
    # What a model remembers is no part of what its encoder does: one cache serves base and tuned model.
    assert len(list((tmp_path / "cache").glob("*/meta.json"))) == 1


def test_without_windows_nothing_is_another(tmp_path, model, processor):
    """Samples, keys and the cache's directory are those of a model that has never heard of windows."""
    rows = datasets.Dataset.from_list(segmentation_rows(), features=large_rows().features)
    cache = EmbeddingCache(tmp_path, model, processor)
    keys = cache.add(rows)
    samples = make(rows, processor, rule=WindowRule(), cache=cache)
    assert samples.source.entries == keys and set(keys) == set(cache._places)
    assert [(row, len(places), window) for row, places, window in samples.index] == [
        (row, 1 + row % 2, None) for row in range(6)
    ]
