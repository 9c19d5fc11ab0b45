"""ONNX files of a small SAM: the same masks, any number of prompts, and the documented way to run them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import small_models
import torch
from conftest import disc, initialise, photograph, tiny_config, tiny_processor

from visionsam_hf.cli import command_line as cli
from visionsam_hf.data.geometry import logits_to_original, to_square
from visionsam_hf.inference.prediction import encode_image, predict_at
from visionsam_hf.models.decoder import predict_tokens
from visionsam_hf.models.image_processing import make_processor
from visionsam_hf.models.loading import load_processor, save_model
from visionsam_hf.models.onnx_export import OnnxDecoder, labelled_points

DEPLOY = Path(__file__).resolve().parents[2] / "docs" / "deploy.md"
BOXES = np.array([[4, 6, 40, 50], [10, 10, 30, 60], [20, 2, 60, 30]], np.float32)
POINTS = np.array([[[20, 20], [50, 50]], [[30, 12], [2, 3]], [[5, 60], [40, 8]]], np.float32)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """`visionsam export` of a random model, once for all: the model, its directory, the files', and what was printed."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install 'visionsam_hf[onnx]'")
    base = tmp_path_factory.mktemp("export")
    model = initialise(tiny_config(), seed=0)
    save_model(model, tiny_processor(), base / "model")
    # The directory that docs/deploy.md speaks of.
    assert cli.main(["export", str(base / "model"), "--output_dir", str(base / "outputs/mine/onnx")]) == 0
    return model, base


@pytest.mark.parametrize("kind", ["box", "point", "point_pm"])
def test_labelled_points_mean_what_sams_prompts_mean(model, kind):
    """Before any export: the decoder as it is exported, beside the one that is trained."""
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, scores = predict_tokens(
            model,
            pixel_values=pixels,
            boxes=torch.from_numpy(BOXES)[None],
            points=torch.from_numpy(POINTS)[None],
            kinds=[kind],
        )
        points, labels = labelled_points(kind, BOXES, POINTS)
        embedding = model.vision_encoder(pixels).last_hidden_state
        found = OnnxDecoder(model)(embedding, torch.from_numpy(points), torch.from_numpy(labels))
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1], scores[0], rtol=1e-4, atol=1e-5)


def test_labels_of_each_kind():
    points, labels = labelled_points("point_pm", BOXES[:1], POINTS[:1])
    assert labels.tolist() == [[1, 0, -1]] and points[0, :2].tolist() == POINTS[0].tolist()
    points, labels = labelled_points("point", BOXES[:1], POINTS[:1])
    assert labels.tolist() == [[1, -1]] and points[0, 0].tolist() == [20, 20]
    points, labels = labelled_points("box", BOXES[:2], POINTS[:2])
    assert labels.tolist() == [[2, 3]] * 2 and points[1].tolist() == [[10, 10], [30, 60]]


def test_the_files_are_checked_and_described(exported):
    directory = exported[1] / "outputs/mine/onnx"
    assert {path.name for path in directory.iterdir()} == {
        "encoder.onnx",
        "decoder.onnx",
        "preprocessing.json",
        "stage.json",
    }
    results = json.loads((directory / "stage.json").read_text())["results"]
    assert set(results["iou"]) == {"box", "point", "point_pm"} and min(results["iou"].values()) >= 0.99
    assert results["logit_difference"] < 1e-3
    assert json.loads((directory / "preprocessing.json").read_text())["image_side"] == 64


@pytest.mark.parametrize("count", [1, 7])
def test_any_number_of_images_and_prompts(exported, count):
    import onnxruntime

    model, directory = exported[0], exported[1] / "outputs/mine/onnx"
    encoder, decoder = (onnxruntime.InferenceSession(directory / f"{name}.onnx") for name in ("encoder", "decoder"))
    pixels = torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(count))
    embeddings = encoder.run(None, {"pixel_values": pixels.numpy()})[0]
    boxes = np.resize(BOXES, (count, 4))
    points, labels = labelled_points("box", boxes, np.zeros((count, 2, 2), np.float32))
    logits, _ = decoder.run(None, {"image_embeddings": embeddings[:1], "points": points, "labels": labels})
    with torch.no_grad():
        expected, _ = predict_tokens(
            model,
            pixel_values=pixels[:1],
            boxes=torch.from_numpy(boxes)[None],
            points=torch.zeros(1, count, 2, 2),
            kinds=["box"],
        )
    np.testing.assert_allclose(logits, expected[0].numpy(), rtol=1e-3, atol=1e-4)


def test_a_wrong_export_is_noticed(exported, tmp_path):
    from visionsam_hf.models.onnx_export import compare

    model, base = exported
    other = initialise(tiny_config(), seed=1)
    assert min(compare(other, tiny_processor(), base / "outputs/mine/onnx").iou.values()) < 0.9
    assert min(compare(model, tiny_processor(), base / "outputs/mine/onnx").iou.values()) == pytest.approx(1, abs=1e-3)


@pytest.fixture(scope="module")
def exported_lite(exported, tmp_path_factory):
    """The same of a small LiteMedSAM."""
    base = tmp_path_factory.mktemp("lite")
    model = small_models.random_model(small_models.mobile_config(64, stem=1), seed=3)
    save_model(model, make_processor(64, 64, min_max=True), base / "model")
    assert cli.main(["export", str(base / "model"), "--output_dir", str(base / "outputs/mine/onnx")]) == 0
    return model, base


@pytest.mark.parametrize("which", ["exported", "exported_lite"])
@pytest.mark.parametrize("scale", [1, 3])
def test_the_documented_code_gives_the_models_masks(which, scale, request, monkeypatch):
    model, base = request.getfixturevalue(which)
    processor = load_processor(str(base / "model"))
    monkeypatch.chdir(base)
    size = (48 * scale, 64 * scale)
    image = photograph(disc(*size, 30 * scale, 24 * scale, 10 * scale), 0)
    image.save("part.png")
    code = re.search(r"```python\n(.*?)```", DEPLOY.read_text(encoding="utf-8"), flags=re.S)[1]
    assert not re.search(r"torch|visionsam_hf|transformers", code)
    found: dict = {}
    exec(compile(code, str(DEPLOY), "exec"), found)
    boxes = np.array(found["boxes"], np.float32).reshape(-1, 4)
    np.testing.assert_allclose(found["points"], to_square(boxes, size, 64).reshape(-1, 2, 2), rtol=1e-6)
    pixels = processor(image, return_tensors="pt")["pixel_values"][0].permute(1, 2, 0)
    np.testing.assert_allclose(found["square"], pixels.numpy(), rtol=1e-5, atol=1e-5)
    logits, scores = predict_at(
        model, encode_image(model, processor, image), boxes, np.zeros((2, 2, 2), np.float32), size, "box"
    )
    np.testing.assert_allclose(found["scores"], scores.numpy(), rtol=1e-3, atol=1e-4)
    expected = (logits_to_original(logits[:, :1], size, 64) > 0).numpy()[:, 0]
    masks = np.stack(found["masks"])
    assert masks.shape == (2, *size)
    assert (masks & expected).sum() >= 0.99 * (masks | expected).sum() > 0


def test_without_the_extra_one_line_says_what_to_install(model_dir, tmp_path, monkeypatch, capsys):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "onnxruntime" else find(name, *rest)
    )
    assert cli.main(["export", str(model_dir), "--output_dir", str(tmp_path / "onnx")]) == 2
    printed = capsys.readouterr().err
    assert "pip install -e '.[onnx]'" in printed and printed.count("\n") == 1 and not (tmp_path / "onnx").exists()
