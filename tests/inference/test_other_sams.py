import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from closeness import assert_close, assert_same_masks
from defect_examples import write_discs  # noqa: E402
from PIL import Image
from random_models import MODELS, SIDE, write_promptable  # noqa: E402
from transformers import SamHQModel, SamHQProcessor

sys.path.append(str(Path(__file__).parents[1] / "models"))
from small_models import mobile_config

from visionsam_hf.cli.evaluate import EvaluateSettings, run  # noqa: E402
from visionsam_hf.data.dataset_directory import load_split  # noqa: E402
from visionsam_hf.data.errors import UserError  # noqa: E402
from visionsam_hf.data.settings import build_settings  # noqa: E402
from visionsam_hf.evaluation.evaluator import evaluate_model  # noqa: E402
from visionsam_hf.evaluation.per_sample import read_columns  # noqa: E402
from visionsam_hf.inference.other_sams import load_promptable, model_family, stretched_pixels  # noqa: E402
from visionsam_hf.models.image_processing import make_processor
from visionsam_hf.models.loading import save_model
from visionsam_hf.models.mobile_sam import MobileSamModel


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {family: write_promptable(root / family, family) for family in MODELS}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(write_discs(tmp_path_factory.mktemp("discs") / "data", heldout=7))


def evaluate(model, data, output, **values):
    values = {"model_name_or_path": model, "dataset": data, "output_dir": str(output), **values}
    run(build_settings(EvaluateSettings, values))
    return json.loads((output / "metrics.json").read_text())


@pytest.mark.parametrize("family", MODELS)
def test_every_family_answers_every_prompt_and_saves_the_same_files(models, data, tmp_path, family):
    masks = {}
    for prompt in ("box", "point", "point_pm"):
        metrics = evaluate(models[family], data, tmp_path / prompt, prompt=prompt, batch_size=16)
        table = read_columns(tmp_path / prompt / "per_sample.parquet")
        assert (metrics["n"], metrics["prompt"], table["scores"].shape) == (9, prompt, (9, 4))
        assert np.isfinite(table["scores"]).all() and metrics["calibration"]["mae"] is not None
        masks[prompt] = table["predicted"]
    assert set(metrics) == set(json.loads((tmp_path / "box" / "metrics.json").read_text()))
    assert (masks["box"] > 0).any() and len({tuple(kind.ravel()) for kind in masks.values()}) == 3
    alone = evaluate(models[family], data, tmp_path / "alone", prompt="box", batch_size=1)
    assert_close(alone["overall"], json.loads((tmp_path / "box" / "metrics.json").read_text())["overall"], rtol=1e-3)


def test_library_takes_a_name_or_a_loaded_model(models, data):
    dataset = load_split(data, "heldout", kind="segmentation")
    by_name = evaluate_model(models["sam2"], dataset)
    loaded = evaluate_model(load_promptable(models["sam2"]), dataset)
    assert_close(by_name.metrics, loaded.metrics)
    assert_close(by_name.per_sample.to_pylist(), loaded.per_sample.to_pylist())


def test_sam_hq_equals_its_own_processor(models):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8))
    boxes, points = [[10.0, 5.0, 40.0, 45.0], [30.0, 20.0, 66.0, 48.0]], [[[20.0, 30.0], [60.0, 10.0]]]
    model, processor = SamHQModel.from_pretrained(models["sam_hq"]), SamHQProcessor.from_pretrained(models["sam_hq"])
    promptable = load_promptable(models["sam_hq"])
    encoded = promptable.encode(image)
    for prompt, given in (
        ("box", {"input_boxes": [boxes]}),
        ("point_pm", {"input_points": [points], "input_labels": [[[1, 0]]]}),
    ):
        inputs = processor(image, **given, return_tensors="pt")
        inputs = {name: value.float() if value.is_floating_point() else value for name, value in inputs.items()}
        masks, scores = promptable.answer(
            encoded, np.array(boxes, np.float32), np.array(points, np.float32), (50, 70), prompt
        )
        for several, tokens in ((False, [0]), (True, [1, 2, 3])):
            with torch.no_grad():
                output = model(**inputs, multimask_output=several)
            wanted = processor.post_process_masks(
                output.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"]
            )[0]
            assert_same_masks(masks[:, tokens], wanted.numpy())
            assert np.allclose(scores[:, tokens], output.iou_scores[0].numpy(), atol=1e-5)


@pytest.mark.parametrize("family", ["sam2", "edgetam"])
def test_a_stretched_square_by_hand(models, family):
    """A 32 x 128 image: x is halved, y doubled, and the masks stretch back."""
    pixels = np.random.default_rng(1).integers(0, 255, (32, 128, 3), np.uint8)
    promptable = load_promptable(models[family])
    encoded, boxes = promptable.encode(Image.fromarray(pixels)), np.array([[16.0, 4.0, 96.0, 30.0]])
    masks, scores = promptable.answer(encoded, boxes, np.zeros((1, 2, 2)), (32, 128), "box")
    small = torch.from_numpy(np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BILINEAR)) / 255)
    normal = (small.float() - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        output = promptable.model(
            pixel_values=normal.permute(2, 0, 1)[None], input_boxes=torch.tensor([[[8.0, 8.0, 48.0, 60.0]]])
        )
    wanted = F.interpolate(output.pred_masks[0], (32, 128), mode="bilinear") > 0
    assert_same_masks(masks[0, 1:], wanted[0].numpy())
    assert np.allclose(scores[0, 1:], output.iou_scores[0, 0].numpy(), atol=1e-5)


def test_shrinking_is_smoothed_as_the_library_does():
    image = Image.fromarray(np.random.default_rng(2).integers(0, 255, (150, 200, 3), np.uint8))
    settings = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    wanted = F.interpolate(
        torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float(), (SIDE, SIDE), mode="bilinear", antialias=True
    )
    assert (255 * stretched_pixels(image, SIDE, settings) - wanted).abs().max() <= 1.01  # whole greys in Pillow


def test_wrong_models_are_the_users_error(models, data, tmp_path):
    for name, config in (("bert", {"model_type": "bert"}), ("pickled", {"model_type": "sam2"})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"x")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in Path(models["sam_hq"]).iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    (damaged / "model.safetensors").write_bytes(b"damaged")
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((Path(models["sam2"]) / name).read_bytes())
    for name, words in (
        ("bert", "takes prompts"), ("pickled", "safetensors"), ("damaged", "damaged"), ("bare", "no preprocessing"),
        ("nowhere", "nowhere"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            evaluate(str(tmp_path / name), data, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="embeddings"):
        evaluate(models["sam2"], data, tmp_path / "out", embeddings=str(tmp_path / "cache"))
    assert model_family("visionsam-tiny") == "sam"


def test_a_lite_medsam_is_never_normalised_as_the_others_are(tmp_path):
    save_model(MobileSamModel(mobile_config()), make_processor(64, 16, min_max=True), tmp_path)
    assert model_family(str(tmp_path)) == "sam"
    with pytest.raises(UserError, match="is a plain SAM; load it with load_model"):
        load_promptable(str(tmp_path))


def test_a_missing_backbone_package_is_named(tmp_path, models, data):
    config = json.loads(Path(models["edgetam"], "config.json").read_text())
    config["vision_config"]["backbone_config"] = {"model_type": "timm_wrapper", "architecture": "repvit_m1.dist_in1k"}
    (tmp_path / "edgetam").mkdir()
    (tmp_path / "edgetam" / "config.json").write_text(json.dumps(config))
    try:
        import timm  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match="timm"):
            evaluate(str(tmp_path / "edgetam"), data, tmp_path / "out")
    else:
        pytest.skip("timm is installed")
