import contextlib

import pytest
import torch

from visionsam_hf.models.decoder import _position, bind_predict_tokens, can_rearrange, predict_tokens


@pytest.fixture
def prompts():
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(3, 2, 4, generator=generator) * 60
    points = torch.rand(3, 2, 2, 2, generator=generator) * 60
    pixels = torch.randn(3, 3, 64, 64, generator=generator)
    return boxes, points, pixels


@pytest.mark.parametrize("fast", [True, False])
def test_all_tokens_equal_what_sam_returns(model, prompts, fast):
    boxes, points, pixels = prompts
    kinds = ["point", "box", "point_pm"]
    with torch.no_grad():
        logits, scores = predict_tokens(model, boxes=boxes, points=points, kinds=kinds, pixel_values=pixels, fast=fast)
        labels = torch.tensor([1, 0])
        for row, given in enumerate(
            (
                dict(input_points=points[:1, :, :1]),
                dict(input_boxes=boxes[1:2]),
                dict(input_points=points[2:], input_labels=labels.expand(1, 2, 2)),
            )
        ):
            for multimask, tokens in ((False, slice(0, 1)), (True, slice(1, 4))):
                expected = model(pixel_values=pixels[row : row + 1], multimask_output=multimask, **given)
                torch.testing.assert_close(logits[row, :, tokens], expected.pred_masks[0], rtol=1e-4, atol=1e-6)
                torch.testing.assert_close(scores[row, :, tokens], expected.iou_scores[0], rtol=1e-4, atol=1e-6)


def test_embeddings_instead_of_pixels(model, prompts):
    boxes, points, pixels = prompts
    given = dict(boxes=boxes, points=points, kinds=["box"] * 3)
    with torch.no_grad():
        one = predict_tokens(model, pixel_values=pixels, **given)
        two = predict_tokens(model, image_embeddings=model.get_image_embeddings(pixels), **given)
    torch.testing.assert_close(one, two)


def test_binding_changes_the_instance_alone(model, model_dir, prompts, tmp_path):
    boxes, points, pixels = prompts
    given = dict(boxes=boxes, points=points, kinds=["box"] * 3, pixel_values=pixels)
    with torch.no_grad():
        expected = predict_tokens(model, **given)
        bound = bind_predict_tokens(model)
        torch.testing.assert_close(bound(**given), expected)
    bound.save_pretrained(tmp_path / "saved")
    fresh = type(model).from_pretrained(tmp_path / "saved")
    assert fresh(pixel_values=pixels, input_boxes=boxes).pred_masks.shape == (3, 2, 3, 16, 16)


def test_positional_encodings_stay_in_float32_under_autocast(model, prompts):
    boxes, points, _ = prompts
    seen = []
    model.prompt_encoder.register_forward_hook(lambda module, given, output: seen.append(output[0].dtype))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        embeddings = torch.randn(3, 16, 4, 4)
        predict_tokens(model, boxes=boxes, points=points, kinds=["box"] * 3, image_embeddings=embeddings)
    assert seen == [torch.float32]


def test_refuses_an_unknown_kind(model, prompts):
    boxes, points, pixels = prompts
    with pytest.raises(ValueError, match="scribble"):
        predict_tokens(model, boxes=boxes, points=points, kinds=["box", "scribble", "box"], pixel_values=pixels)


def gradients(model, fast, prompts):
    boxes, points, _ = prompts
    embeddings = torch.randn(3, 16, 4, 4, generator=torch.Generator().manual_seed(2), requires_grad=True)
    model.zero_grad()
    logits, scores = predict_tokens(
        model, boxes=boxes, points=points, kinds=["box"] * 3, image_embeddings=embeddings, fast=fast
    )
    (logits.sigmoid().square().sum() + scores.sum()).backward()
    named = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    return {**named, "image": embeddings.grad}


def test_the_rearranged_decoder_has_the_same_gradients(model, prompts):
    slow, fast = gradients(model, False, prompts), {}
    slow = {name: value.clone() for name, value in slow.items()}
    fast = gradients(model, True, prompts)
    # Every parameter that has a gradient keeps having one, or data-parallel training would wait for it.
    assert slow.keys() == fast.keys()
    assert {name for name, _ in model.mask_decoder.named_parameters(prefix="mask_decoder")} <= slow.keys()
    for name, value in slow.items():
        torch.testing.assert_close(fast[name], value, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("active", [True, False])
def test_adapters_keep_the_fast_path(model, prompts, active):
    from peft import LoraConfig, get_peft_model

    target = r"mask_decoder\.transformer.*\.(q_proj|v_proj)"
    adapted = get_peft_model(model, LoraConfig(target_modules=target, r=2, init_lora_weights=False))
    assert can_rearrange(adapted.mask_decoder)
    with contextlib.nullcontext() if active else adapted.disable_adapter():
        slow = {name: value.clone() for name, value in gradients(adapted, False, prompts).items()}
        fast = gradients(adapted, True, prompts)
    assert slow.keys() == fast.keys() and any("lora" in name for name in slow) == active
    for name, value in slow.items():
        torch.testing.assert_close(fast[name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_adapters_that_drop_out_take_the_slow_path(model):
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"], lora_dropout=0.1))
    assert not can_rearrange(adapted.mask_decoder)


def test_the_grid_is_encoded_once_until_it_changes(model, prompts, monkeypatch):
    boxes, points, pixels = prompts
    given = dict(boxes=boxes, points=points, kinds=["box"] * 3, pixel_values=pixels)
    calls, grid = [], model.shared_image_embedding.forward
    monkeypatch.setattr(model.shared_image_embedding, "forward", lambda *given: calls.append(1) or grid(*given))
    with torch.no_grad():
        before, _ = predict_tokens(model, **given)
        predict_tokens(model, **given)
        assert len(calls) == 1
        model.shared_image_embedding.positional_embedding.mul_(2)
        after, _ = predict_tokens(model, **given)
    assert len(calls) == 2 and not torch.allclose(before, after)


def test_a_coarser_grid_is_the_same_image(model, prompts):
    boxes, points, _ = prompts
    given = dict(boxes=boxes, points=points, kinds=["box"] * 3)
    embeddings = torch.randn(3, 16, 1, 1).expand(3, 16, 4, 4)
    with torch.no_grad():
        whole, _ = predict_tokens(model, **given, image_embeddings=embeddings)
        torch.testing.assert_close(_position(model, 4, 4), model.get_image_wide_positional_embeddings())
        coarse, _ = predict_tokens(model, **given, image_embeddings=embeddings[..., :2, :2])
        wide = _position(model, 2, 4)
    assert whole.shape[-2:] == (16, 16) and coarse.shape[-2:] == (8, 8)
    # Row 1, column 0 of 2 x 4 cells: the middle is at an eighth of the width and three quarters of the height.
    torch.testing.assert_close(wide[0, :, 1, 0], model.shared_image_embedding(torch.tensor([[0.125, 0.75]]))[0])


def test_a_model_that_predicted_can_train(model, prompts):
    boxes, points, _ = prompts
    given = dict(boxes=boxes, points=points, kinds=["box"] * 3, image_embeddings=torch.randn(3, 16, 4, 4))
    with torch.inference_mode():
        predict_tokens(model, **given)
    for fast in (True, False):
        predict_tokens(model, **given, fast=fast)[0].sum().backward()
