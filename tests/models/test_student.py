import pytest
import torch
from PIL import Image
from small_models import mobile_config, random_model
from transformers import SamModel

from visionsam_hf.data.errors import UserError
from visionsam_hf.models.loading import load_processor, save_model
from visionsam_hf.models.student import make_student, sine_positions

SMALL = {"image_size": 32, "patch_size": 8, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}


def test_near_cells_have_like_positions():
    positions = sine_positions(3, 4, 16)
    assert positions.shape == (1, 3, 4, 16)
    assert torch.allclose(positions[0, 2, 3, :4], (3 * 10.0 ** -torch.arange(4)).sin())  # of the column
    assert torch.allclose(positions[0, 2, 3, 12:], (2 * 10.0 ** -torch.arange(4)).cos())  # of the row
    away = (positions[0] - positions[0, 0, 0]).norm(dim=-1)
    assert (away.diff(dim=0) > 0).all() and (away.diff(dim=1) > 0).all()


def test_a_student_is_a_plain_sam_with_its_teachers_decoder(model, processor, tmp_path):
    student, own = make_student(model, processor, SMALL)
    assert type(student) is SamModel and sum(p.numel() for p in student.vision_encoder.parameters()) < 30_000
    for name, value in student.state_dict().items():
        if not name.startswith("vision_encoder.") or name.startswith("vision_encoder.neck."):
            assert torch.equal(value, model.state_dict()[name]), name
    save_model(student, own, tmp_path)
    loaded, own = SamModel.from_pretrained(tmp_path), load_processor(str(tmp_path))
    inputs = own(Image.new("RGB", (40, 20)), input_boxes=[[[4, 4, 20, 16]]], return_tensors="pt")
    assert inputs["pixel_values"].shape[-2:] == (32, 32)
    assert loaded(**inputs).pred_masks.shape[-2:] == (16, 16)


def test_a_student_goes_on_from_anothers_encoder(model, processor):
    start, _ = make_student(model, processor, SMALL, seed=3)
    other, _ = make_student(model, processor, {}, start=start, seed=4)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in start.state_dict().items())


def test_a_student_goes_on_on_larger_pictures(model, processor):
    """Every weight but the positions, which go where they were: a ramp stays a ramp."""
    relative = {**SMALL, "use_rel_pos": True}
    start, _ = make_student(model, processor, relative, seed=3)
    with torch.no_grad():
        start.vision_encoder.pos_embed.copy_(torch.arange(4.0).view(1, 1, 4, 1).expand(1, 4, 4, 16))
        start.vision_encoder.layers[0].attn.rel_pos_w.copy_(torch.arange(7.0).view(7, 1).expand(7, 8))
    other, own = make_student(model, processor, {"image_size": 64}, start=start)
    assert own.image_processor.size == {"longest_edge": 64} and other.config.vision_config.image_size == 64
    before, after = start.state_dict(), other.state_dict()
    changed = {name.rsplit(".", 1)[1] for name in before if before[name].shape != after[name].shape}
    assert changed == {"pos_embed", "rel_pos_h", "rel_pos_w"}
    assert all(torch.equal(value, after[name]) for name, value in before.items() if value.shape == after[name].shape)
    ramp = other.vision_encoder.pos_embed[0, 0, :, 0].detach()
    assert ramp[1:-1].diff().tolist() == pytest.approx([0.5] * 5, abs=0.15) and float(ramp.mean()) == pytest.approx(1.5)
    assert other.vision_encoder.layers[0].attn.rel_pos_w[7, 0].item() == pytest.approx(3)
    pixels = own(images=Image.new("RGB", (40, 20)), return_tensors="pt")["pixel_values"]
    assert other.vision_encoder(pixels).last_hidden_state.shape[-2:] == (8, 8)


def test_a_start_must_be_a_plain_sam(model, processor):
    with pytest.raises(UserError, match="its encoder is no SamVisionEncoder"):
        make_student(model, processor, {}, start=random_model(mobile_config()))
