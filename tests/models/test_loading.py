import shutil

import pytest
import torch
from transformers import SamModel

from visionsam_hf.data.errors import UserError
from visionsam_hf.models.freezing import freeze, freeze_prompts_not_drawn
from visionsam_hf.models.loading import (
    encoder_fingerprint,
    image_side,
    load_model,
    load_processor,
    mask_side,
)


def test_sizes_come_from_the_config(model):
    assert (image_side(model), mask_side(model)) == (64, 16)


def test_decoder_only_trains_nothing_else(model):
    names = freeze(model, "mask_decoder", mask_output="single", scores=False)
    assert names and all(name.startswith("mask_decoder.") for name in names)
    assert not any("iou_prediction_head" in name for name in names)
    assert {name.split(".")[2] for name in names if "hypernetworks" in name} == {"0"}
    names = freeze(model, "mask_decoder", mask_output="multi", scores=True)
    assert {name.split(".")[2] for name in names if "hypernetworks" in name} == {"1", "2", "3"}
    assert any("iou_prediction_head" in name for name in names)


@pytest.mark.parametrize("trainable", ["mask_decoder+prompt_encoder", "all"])
def test_positional_encodings_never_train(model, trainable):
    names = freeze(model, trainable)
    assert not any("positional_embedding" in name or name.startswith("prompt_encoder.mask_embed") for name in names)
    assert any(name.startswith("prompt_encoder.point_embed") for name in names)
    assert any(name.startswith("vision_encoder") for name in names) == (trainable == "all")


def test_embeddings_of_prompts_never_drawn_stay_frozen(model):
    freeze(model, "mask_decoder+prompt_encoder")
    freeze_prompts_not_drawn(model, ["box"])
    free = [name for name, value in model.prompt_encoder.named_parameters() if value.requires_grad]
    assert sorted(free) == ["no_mask_embed.weight", "point_embed.2.weight", "point_embed.3.weight"]


def test_refuses_unknown_choices(model):
    with pytest.raises(UserError, match="trainable"):
        freeze(model, "decoder")
    with pytest.raises(UserError, match="mask_output"):
        freeze(model, "all", mask_output="best")


def test_load_from_a_directory_equals_from_pretrained(model_dir):
    ours, plain = load_model(str(model_dir)), SamModel.from_pretrained(model_dir)
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), plain.state_dict().values()))
    assert load_processor(str(model_dir)).image_processor.size["longest_edge"] == 64


def test_a_directory_without_weights_is_no_model(model_dir):
    (model_dir / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has no model.safetensors"):
        load_model(str(model_dir))


def test_pickled_weights_are_never_read(model_dir, tmp_path):
    marker = tmp_path / "run"

    class Evil:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    (model_dir / "model.safetensors").unlink()
    torch.save({"x": Evil()}, model_dir / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        load_model(str(model_dir))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: shutil.rmtree(d), "no such model"),
        (lambda d: (d / "config.json").unlink(), "no config.json"),
        (lambda d: (d / "config.json").write_text("{"), "config"),
        (lambda d: (d / "config.json").write_text('{"model_type": "bert"}'), "'bert'"),
        (lambda d: (d / "model.safetensors").write_bytes(b"xx" * 100), "damaged"),
    ],
)
def test_bad_models_get_one_line(model_dir, damage, message):
    damage(model_dir)
    with pytest.raises(UserError) as caught:
        load_model(str(model_dir))
    assert message in str(caught.value) and str(model_dir) in str(caught.value)


def test_the_encoder_fingerprint_sees_the_encoder_alone(model):
    before = encoder_fingerprint(model)
    with torch.no_grad():
        model.mask_decoder.iou_token.weight += 1
    assert encoder_fingerprint(model) == before
    with torch.no_grad():
        model.vision_encoder.neck.conv1.weight += 1e-3
    assert encoder_fingerprint(model) != before
