import pytest
import torch

from visionsam_hf.decoding import bind_predict_tokens, predict_tokens


@pytest.fixture
def prompts():
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(3, 2, 4, generator=generator) * 60
    points = torch.rand(3, 2, 2, 2, generator=generator) * 60
    pixels = torch.randn(3, 3, 64, 64, generator=generator)
    return boxes, points, pixels


def test_all_tokens_equal_what_sam_returns(model, prompts):
    boxes, points, pixels = prompts
    kinds = ["point", "box", "point_pm"]
    with torch.no_grad():
        logits, scores = predict_tokens(model, boxes=boxes, points=points, kinds=kinds, pixel_values=pixels)
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
