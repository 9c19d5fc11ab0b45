"""MobileSAM as a model of the library: shapes, saving, the Auto classes, training, and what its encoder computes."""

import pytest
import torch
from small_models import mobile_config, random_model
from transformers import AutoConfig, AutoModel, AutoModelForMaskGeneration, AutoProcessor, SamModel

from visionsam_hf.models.decoder import predict_tokens
from visionsam_hf.models.encoder import ImageEncoder, has_bfloat16
from visionsam_hf.models.freezing import freeze
from visionsam_hf.models.image_processing import make_processor
from visionsam_hf.models.loading import encoder_fingerprint, image_side, mask_side
from visionsam_hf.models.lora import add_adapter
from visionsam_hf.models.mobile_sam import MobileSamModel, in_bfloat16
from visionsam_hf.models.mobile_sam_config import MobileSamConfig, MobileSamVisionConfig
from visionsam_hf.models.onnx_export import compare, export_onnx
from visionsam_hf.models.tiny_vit import WindowAttention, from_windows, spread_bias, to_windows

BOX = torch.tensor([[[8.0, 10.0, 40.0, 50.0]]])


@pytest.mark.parametrize("image_size, stem, grid", [(16, 1, 4), (64, 1, 16), (64, 3, 4), (128, 3, 8), (512, 3, 32)])
def test_shapes_follow_from_the_image_size_and_the_stem(image_size, stem, grid):
    model = random_model(mobile_config(image_size, stem=stem))
    pixels = torch.randn(2, 3, image_size, image_size)
    with torch.inference_mode():
        outputs = model.vision_encoder(pixels, output_hidden_states=True)
        predicted = model(pixel_values=pixels, input_boxes=BOX.expand(2, 1, 4), multimask_output=False)
    assert outputs.last_hidden_state.shape == model.get_image_embeddings(pixels).shape == (2, 32, grid, grid)
    assert [tuple(state.shape[1:]) for state in outputs.hidden_states] == [
        (8, 4 * grid, 4 * grid), (8, 4 * grid, 4 * grid), (16, 2 * grid, 2 * grid), (24, grid, grid), (32, grid, grid),
    ]
    assert predicted.pred_masks.shape == (2, 1, 1, 4 * grid, 4 * grid)
    assert (image_side(model), mask_side(model)) == (image_size, 4 * grid)
    assert model.config.prompt_encoder_config.image_embedding_size == grid


def test_the_settings_of_mobile_sam_and_of_lite_medsam():
    mobile, lite = MobileSamVisionConfig(), MobileSamVisionConfig(image_size=256, stem_kernel_size=1, stem_stride=1)
    assert (mobile.patch_size, lite.patch_size) == (16, 4)
    assert [MobileSamConfig(vision_config=config).prompt_encoder_config.image_embedding_size for config in (mobile, lite)] == [
        64, 64,
    ]
    with torch.device("meta"):
        model = MobileSamModel(MobileSamConfig())
    assert sum(parameter.numel() for parameter in model.vision_encoder.parameters()) == 5_738_964


def test_a_model_tuned_from_one_on_the_hub_names_its_own_code():
    config = MobileSamConfig(auto_map={"AutoModelForMaskGeneration": "me/base--mobile_sam.MobileSamModel"})
    assert set(config.auto_map.values()) == {"mobile_sam.MobileSamModel", "mobile_sam_config.MobileSamConfig"}


def test_settings_that_do_not_fit_together():
    with pytest.raises(Exception, match="image_size 500 is not a multiple of 16"):
        MobileSamVisionConfig(image_size=500)
    with pytest.raises(Exception, match="one for all stages but the first"):
        MobileSamVisionConfig(num_heads=[2])


def test_saved_and_loaded_by_the_auto_classes_it_gives_the_same(tmp_path):
    model, pixels = random_model(mobile_config()), torch.randn(1, 3, 64, 64)
    model.save_pretrained(tmp_path)
    make_processor(64, 16, min_max=True).save_pretrained(tmp_path)
    for loader in (MobileSamModel, AutoModel, AutoModelForMaskGeneration):
        again = loader.from_pretrained(tmp_path)
        assert type(again) is MobileSamModel and isinstance(again, SamModel)
        with torch.inference_mode():
            one, two = (each(pixel_values=pixels, input_boxes=BOX) for each in (model, again))
        # But for the last bit, which depends on where in memory the weights lie.
        torch.testing.assert_close(two.pred_masks, one.pred_masks, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(two.iou_scores, one.iou_scores, atol=1e-6, rtol=1e-6)
    assert AutoConfig.from_pretrained(tmp_path).to_dict()["vision_config"] == model.config.to_dict()["vision_config"]
    assert encoder_fingerprint(again) == encoder_fingerprint(MobileSamModel.from_pretrained(tmp_path))
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert type(processor.image_processor).__name__ == "MinMaxSamImageProcessor"
    assert processor.image_processor.size == {"longest_edge": 64}


def test_inner_maps_come_through_the_whole_model_when_asked():
    model, pixels = random_model(mobile_config()), torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        asked = model(pixel_values=pixels, input_boxes=BOX, output_hidden_states=True)
        plain = model(pixel_values=pixels, input_boxes=BOX)
    assert len(asked.vision_hidden_states) == 5 and plain.vision_hidden_states is None
    torch.testing.assert_close(asked.pred_masks, plain.pred_masks, atol=1e-6, rtol=1e-6)


def test_an_image_of_another_size_is_refused():
    with pytest.raises(ValueError, match="sees 64 x 64 pixels"):
        random_model(mobile_config()).vision_encoder(torch.zeros(1, 3, 32, 32))


def test_what_trains_moves_and_what_is_frozen_does_not():
    model = random_model(mobile_config())
    trained = set(freeze(model, "all")) - {"prompt_encoder.not_a_point_embed.weight"}
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1.0)
    points = torch.tensor([[[[20.0, 20.0], [50.0, 50.0]]]])
    loss = torch.zeros(())
    for kind in ("box", "point_pm"):
        logits, scores = predict_tokens(
            model, boxes=BOX, points=points, kinds=[kind], pixel_values=torch.randn(1, 3, 64, 64)
        )
        loss = loss + logits.square().mean() + scores.square().mean()
    loss.backward()
    optimizer.step()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    # A bias of all keys alike changes no softmax.
    assert {name for name in trained - moved if "k_proj.bias" not in name} == set()
    assert moved <= trained | {"prompt_encoder.not_a_point_embed.weight"}
    assert any("relative_bias" in name for name in moved)
    freeze(model, "mask_decoder")
    assert not any(parameter.requires_grad for parameter in model.vision_encoder.parameters())


def test_gradient_checkpointing_gives_the_same_gradients():
    model, pixels = random_model(mobile_config()).train(), torch.randn(1, 3, 64, 64)

    def gradient():
        model.zero_grad()
        model.vision_encoder(pixels).last_hidden_state.square().mean().backward()
        return model.vision_encoder.layers[2].blocks[0].attn.qkv.weight.grad.clone()

    plain = gradient()
    model.gradient_checkpointing_enable()
    assert torch.allclose(gradient(), plain, atol=1e-6)


def test_lora_finds_the_attention():
    adapted = add_adapter(random_model(mobile_config()), "all", r=2, alpha=4, dropout=0.0, seed=0)
    names = {name.split(".lora_")[0] for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert sum("vision_encoder" in name and name.endswith("attn.qkv") for name in names) == 4


def test_the_bias_of_two_cells_is_that_of_their_distance():
    table = torch.arange(18.0).reshape(2, 3, 3)
    bias = spread_bias(table)
    for one in range(9):
        for other in range(9):
            rows, columns = abs(one // 3 - other // 3), abs(one % 3 - other % 3)
            assert torch.equal(bias[:, one, other], table[:, rows, columns])


def test_windows_are_squares_of_the_grid_filled_up_with_zeros():
    grid = torch.arange(1.0, 13.0).reshape(1, 3, 4, 1)
    windows = to_windows(grid, 2)
    assert windows[:, :, 0].tolist() == [[1, 2, 5, 6], [3, 4, 7, 8], [9, 10, 0, 0], [11, 12, 0, 0]]
    assert torch.equal(from_windows(windows, 2, 3, 4), grid)


def test_window_attention_equals_its_formula():
    torch.manual_seed(0)
    attention, windows = WindowAttention(6, 2, 2, 1e-5), torch.randn(3, 4, 6)
    with torch.no_grad():
        attention.relative_bias.normal_()
        normed = torch.nn.functional.layer_norm(windows, (6,))
        parts = attention.qkv(normed).reshape(3, 4, 2, 9)
        read = []
        for head in range(2):
            query, key, value = parts[:, :, head].split(3, dim=-1)
            scores = query @ key.transpose(1, 2) / 3**0.5 + spread_bias(attention.relative_bias)[head]
            read.append(scores.softmax(-1) @ value)
        assert torch.allclose(attention(windows), attention.proj(torch.cat(read, -1)), atol=1e-6)


def test_the_encoder_in_bfloat16_is_near_and_leaves_the_model_alone():
    model, pixels = random_model(mobile_config()), torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        exact = model.vision_encoder(pixels).last_hidden_state
        near = in_bfloat16(model.vision_encoder)(pixels.bfloat16()).last_hidden_state
    assert near.dtype == torch.float32 and model.dtype == torch.float32
    assert float((near - exact).norm() / exact.norm()) < 0.05
    filled = ImageEncoder(model)(pixels)
    torch.testing.assert_close(ImageEncoder(model, fast=False)(pixels), exact, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(filled, near if has_bfloat16(model.device) else exact, atol=1e-6, rtol=1e-6)


def test_it_is_exported_to_onnx(tmp_path):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install 'visionsam_hf[onnx]'")
    model = random_model(mobile_config())
    export_onnx(model, tmp_path)
    agreement = compare(model, make_processor(64, 16, min_max=True), tmp_path, images=1, prompts=3)
    assert min(agreement.iou.values()) > 0.999 and agreement.logit_difference < 1e-3
