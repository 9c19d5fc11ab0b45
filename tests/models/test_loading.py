import copy
import shutil

import pytest
import torch
from conftest import tiny_config
from transformers import SamConfig, SamModel

from visionsam_hf.data.errors import UserError
from visionsam_hf.models.freezing import freeze, freeze_prompts_not_drawn
from visionsam_hf.models.initialisation import initialise, with_fresh_decoder
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


def test_initialisation_is_seeded_and_can_learn():
    state = torch.random.get_rng_state()
    one, two, other = (initialise(tiny_config(), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(one.mask_decoder.upscale_conv1.weight, two.mask_decoder.upscale_conv1.weight)
    assert not torch.equal(one.mask_decoder.upscale_conv1.weight, other.mask_decoder.upscale_conv1.weight)
    position = one.shared_image_embedding.positional_embedding
    assert position is one.prompt_encoder.shared_embedding.positional_embedding
    lengths = position.detach().norm(dim=0)
    assert float(lengths.min()) == pytest.approx(0.12) and float(lengths.max()) == pytest.approx(1.5)
    assert float(one.mask_decoder.mask_tokens.weight.detach().std()) == pytest.approx(1, rel=0.3)
    assert float(one.vision_encoder.layers[0].mlp.lin1.weight.detach().std()) > 0.05


def four_heads(width: int = 64) -> SamConfig:
    config = tiny_config()
    config.vision_config.output_channels, config.vision_config.num_pos_feats = width, width // 2
    config.prompt_encoder_config.hidden_size = config.mask_decoder_config.hidden_size = width
    config.mask_decoder_config.num_attention_heads = 4
    return config


def test_attention_compares_positions_from_the_start():
    model = initialise(four_heads(), seed=0)
    attention = model.mask_decoder.transformer.layers[0].cross_attn_image_to_token
    places = torch.linspace(0.1, 0.9, 9)
    half = torch.full_like(places, 0.5)
    with torch.no_grad():
        along_x, along_y, corner = (
            model.shared_image_embedding(torch.stack(pair, -1))
            for pair in ((places, half), (half, places), (half[:1], half[:1]))
        )

        def product(head: int, cells: torch.Tensor) -> torch.Tensor:
            rows = slice(8 * head, 8 * head + 8)
            return (attention.q_proj(cells)[:, rows] @ attention.k_proj(corner)[:, rows].T).squeeze(1)

        # Around a corner head 0 orders cells along x, head 1 along y; head 2 looks for the corner's own place, of either.
        for head, along in ((0, along_x), (1, along_y)):
            assert product(head, along)[[3, 4, 5]].diff().gt(0).all()
        # Axes do not mix: cells of one x, whatever their y, are much the same to head 0.
        assert product(0, along_y).std() < 0.3 * product(0, along_x).std()
        assert product(2, along_x).argmax() in (3, 4, 5) and product(2, along_y).argmax() in (3, 4, 5)


def test_a_fresh_decoder_keeps_the_encoder_alone():
    old = initialise(four_heads(), seed=0)
    before = copy.deepcopy(old.state_dict())
    fresh = with_fresh_decoder(old, seed=5)
    assert all(torch.equal(value, before[name]) for name, value in old.state_dict().items())
    state, drawn = fresh.state_dict(), initialise(four_heads(), seed=5).state_dict()
    for name, value in state.items():
        expected = before if name.startswith("vision_encoder") else drawn
        assert torch.equal(value, expected[name]), name
    assert not torch.equal(state["mask_decoder.mask_tokens.weight"], before["mask_decoder.mask_tokens.weight"])


def test_load_from_a_directory_equals_from_pretrained(model_dir):
    ours, plain = load_model(str(model_dir)), SamModel.from_pretrained(model_dir)
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), plain.state_dict().values()))
    assert load_processor(str(model_dir)).image_processor.size["longest_edge"] == 64


def test_a_directory_without_weights_starts_at_random(model_dir):
    (model_dir / "model.safetensors").unlink()
    assert isinstance(load_model(str(model_dir), seed=3), SamModel)


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
