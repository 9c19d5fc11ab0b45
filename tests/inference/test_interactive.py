"""Clicks to masks: the same as the model's own forward, from the window of the box, with and without a cache."""

import io

import numpy as np
import pytest
import torch
from conftest import tiny_processor
from PIL import Image

from visionsam_hf.data.masks import encode_rle
from visionsam_hf.data.windows import WindowRule
from visionsam_hf.inference.interactive import ClickAnswerer
from visionsam_hf.inference.prediction import answer_prompts, look_at


@pytest.fixture
def rows():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 160, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    rle = encode_rle(np.ones((96, 160), bool))
    return image, [{"image": {"bytes": buffer.getvalue(), "path": None}, "candidates": [{"rle": rle}]}]


@pytest.mark.parametrize("rule", [WindowRule(), WindowRule("zoom", side=32)])
def test_a_box_alone_is_the_model_s_single_mask(model, rows, rule):
    image, data = rows
    processor, box = tiny_processor(), [20.0, 30.0, 50.0, 55.0]
    answer = ClickAnswerer(model, processor, rule, {"ranked": {"train": data}})
    boxes, points = np.array([box], np.float32), np.zeros((1, 2, 2), np.float32)
    masks, _ = answer_prompts(
        model, look_at(model, processor, image), boxes, points, (96, 160), "box", [rule.of_box(box, (96, 160))]
    )
    assert (answer("ranked", "train", 0, box, [], []) != masks[0, 0]).mean() < 0.01  # two ways to decode one prompt


def test_clicks_and_their_kind_count_and_an_image_is_encoded_once(model, rows, monkeypatch):
    encoded = []
    original = type(model.vision_encoder).forward
    monkeypatch.setattr(
        type(model.vision_encoder), "forward", lambda *args, **more: (encoded.append(1), original(*args, **more))[1]
    )
    answer = ClickAnswerer(model, tiny_processor(), WindowRule(), {"gold": {"train": rows[1]}})
    asked = []
    monkeypatch.setattr(
        model, "forward", lambda **given: (asked.append(given), type(model).forward(model, **given))[1]
    )
    for positive in ([True, False], [False, True]):
        mask = answer("gold", "train", 0, [20, 30, 50, 55], [(30, 40), (22, 50)], positive)
        assert mask.shape == (96, 160) and mask.dtype == bool
    assert [given["input_labels"].tolist() for given in asked] == [[[[1, 0]]], [[[0, 1]]]]
    scale = torch.tensor([2.0, 2.0]) * 0 + asked[0]["input_points"][0, 0, 0, 0] / 30
    torch.testing.assert_close(asked[0]["input_points"][0, 0], torch.tensor([[30.0, 40], [22, 50]]) * scale, rtol=0.05, atol=0)
    assert len(encoded) == 1
