import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from closeness import assert_close
from conftest import photograph
from transformers import SamModel, SamProcessor

from visionsam_hf import SamSFTConfig, SamSFTTrainer
from visionsam_hf.data.errors import UserError
from visionsam_hf.models.decoder import predict_tokens
from visionsam_hf.models.loading import image_side, mask_side, reshaped


def test_half_size_keeps_every_weight_but_the_positions(model, processor):
    half, half_processor = reshaped(model, processor, {"image_size": 32})
    assert (image_side(half), mask_side(half)) == (32, 8)
    assert (image_side(model), mask_side(model)) == (64, 16)
    before, after = model.state_dict(), half.state_dict()
    changed = {name.rsplit(".", 1)[1] for name in before if before[name].shape != after[name].shape}
    assert changed == {"pos_embed", "rel_pos_h", "rel_pos_w"}
    assert all(torch.equal(before[name], after[name]) for name in before if before[name].shape == after[name].shape)
    pixels = half_processor(images=photograph(np.zeros((48, 64), bool), 0), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 32, 32)


def test_position_embeddings_are_interpolated(model, processor):
    with torch.no_grad():
        # A ramp stays a ramp: column by column, the mean of two neighbours.
        model.vision_encoder.pos_embed.copy_(torch.arange(4.0).view(1, 1, 4, 1).expand(1, 4, 4, 16))
    half, _ = reshaped(model, processor, {"image_size": 32})
    assert half.vision_encoder.pos_embed[0, 0, :, 0].tolist() == pytest.approx([0.5, 2.5], abs=0.1)


def test_a_box_means_the_same_at_any_size(model, processor):
    half, _ = reshaped(model, processor, {"image_size": 32})
    # SAM moves a box by half a pixel to the pixels' centres, so the corners agree with that taken off.
    boxes = torch.tensor([[[8.0, 12.0, 40.0, 50.0]]])
    small = (boxes + 0.5) / 2 - 0.5
    full = model.prompt_encoder(input_points=None, input_labels=None, input_boxes=boxes, input_masks=None)[0]
    halved = half.prompt_encoder(input_points=None, input_labels=None, input_boxes=small, input_masks=None)[0]
    assert torch.allclose(full, halved, atol=1e-5)


def test_reshaped_model_survives_saving(tmp_path, model, processor):
    half, half_processor = reshaped(model, processor, {"image_size": 32})
    half.save_pretrained(tmp_path)
    half_processor.save_pretrained(tmp_path)
    again = SamModel.from_pretrained(tmp_path).eval()
    assert SamProcessor.from_pretrained(tmp_path).image_processor.size == {"longest_edge": 32}
    inputs = dict(
        pixel_values=torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)),
        boxes=torch.tensor([[[2.0, 2.0, 20.0, 20.0]]]),
        points=torch.zeros(1, 1, 2, 2),
        kinds=["box"],
    )
    with torch.no_grad():
        assert_close(predict_tokens(again, **inputs)[0], predict_tokens(half, **inputs)[0])
    for name, value in half.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_half_patches_see_an_enlarged_image(model, processor):
    finer, _ = reshaped(model, processor, {"patch_size": 8})
    assert (image_side(finer), mask_side(finer)) == (64, 32)
    small = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    # Patch by patch: enlarging the whole image would mix neighbouring patches.
    patches = small.unfold(2, 8, 8).unfold(3, 8, 8)  # (1, 3, 4, 4, 8, 8)
    enlarged = F.interpolate(patches.flatten(0, 3)[None], (16, 16), mode="bilinear", align_corners=False)
    enlarged = enlarged.view(1, 3, 4, 4, 16, 16).permute(0, 1, 2, 4, 3, 5).reshape(1, 3, 64, 64)
    kernel = model.vision_encoder.patch_embed.projection
    fine = finer.vision_encoder.patch_embed.projection
    with torch.no_grad():
        assert torch.allclose(fine(small), kernel(enlarged), atol=1e-4)


def test_windows_can_open_and_close(model, processor):
    model = reshaped(model, processor, {"window_size": 0})[0]
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    # A window as large as the grid is global attention.
    window, _ = reshaped(model, processor, {"window_size": 4, "global_attn_indexes": []})
    with torch.no_grad():
        wanted = model.vision_encoder(pixels).last_hidden_state
        found = window.vision_encoder(pixels).last_hidden_state
        smaller, _ = reshaped(model, processor, {"window_size": 2, "global_attn_indexes": []})
        other = smaller.vision_encoder(pixels).last_hidden_state
    assert_close(found, wanted)
    assert (found - other).abs().max() > 1e-2


def test_size_must_fit_the_patches(model, processor):
    with pytest.raises(UserError, match="image_size 40 is not a multiple of patch_size 16"):
        reshaped(model, processor, {"image_size": 40})


def test_widths_cannot_change(model, processor):
    with pytest.raises(UserError, match="'hidden_size' cannot change"):
        reshaped(model, processor, {"hidden_size": 32})


def test_trains_in_another_shape(tmp_path, model, processor, segmentation: datasets.Dataset):
    args = SamSFTConfig(
        output_dir=str(tmp_path), vision_config={"image_size": 32}, trainable="all", max_steps=1, use_cpu=True
    )
    trainer = SamSFTTrainer(model, args, segmentation, processing_class=processor)
    trainer.train()
    assert image_side(trainer.model) == 32
    assert trainer.processor.image_processor.size == {"longest_edge": 32}
