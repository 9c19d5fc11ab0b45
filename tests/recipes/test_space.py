"""The two Spaces: their functions without Gradio, the page with it, and the metric through `evaluate.load`."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
import yaml
from closeness import assert_same_masks
from conftest import disc, photograph
from transformers import SamModel, SamProcessor

sys.path.append(str(Path(__file__).parents[1] / "models"))
from small_models import mobile_config, random_model

from visionsam_hf.data.masks import encode_rle
from visionsam_hf.data.windows import WindowRule, remember_rule
from visionsam_hf.evaluation.metrics import mask_counts
from visionsam_hf.evaluation.segmentation_metric import SegmentationMetric
from visionsam_hf.models.image_processing import make_processor
from visionsam_hf.models.loading import save_model

SPACE = Path(__file__).resolve().parents[2] / "recipes" / "space"


def module(path: Path, monkeypatch):
    """A script of the folder as a module; it must not need Gradio to be imported."""
    monkeypatch.setitem(sys.modules, "gradio", None)
    spec = importlib.util.spec_from_file_location(f"space_{path.stem}", path)
    loaded = importlib.util.module_from_spec(spec)
    monkeypatch.syspath_prepend(path.parent)
    spec.loader.exec_module(loaded)
    monkeypatch.undo()
    return loaded


@pytest.fixture
def demo(monkeypatch):
    return module(SPACE / "demo" / "app.py", monkeypatch)


@pytest.fixture
def metric_folder(tmp_path, monkeypatch):
    module(SPACE / "assemble_metric.py", monkeypatch).assemble(tmp_path / "outputs" / "defect_masks")
    return tmp_path / "outputs" / "defect_masks"


def test_two_corners_in_any_order_make_a_box(demo):
    assert demo.box_of((30, 5), (10, 40)) == demo.box_of((10, 40), (30, 5)) == [10, 5, 31, 41]
    assert demo.box_of((3, 4), (3, 9)) is None


def test_masks_and_scores_are_those_of_the_plain_model(demo, model_dir):
    model, processor = SamModel.from_pretrained(model_dir).eval(), SamProcessor.from_pretrained(model_dir)
    image = photograph(disc(48, 64, 30, 24, 10), 0)
    box = [10.0, 5.0, 40.0, 45.0]
    masks, scores = demo.segment(model, processor, image, demo.encode(model, processor, image), box)
    assert masks.shape == (4, 48, 64) and masks.dtype == bool and scores.shape == (4,)
    inputs = processor(image, input_boxes=[[box]], return_tensors="pt")
    with torch.no_grad():
        output = model(pixel_values=inputs["pixel_values"], input_boxes=inputs["input_boxes"].float())
    np.testing.assert_allclose(scores[1:], output.iou_scores[0, 0], rtol=1e-4)
    expected = processor.post_process_masks(output.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"])
    assert_same_masks(masks[1:], expected[0][0].numpy())


def test_a_model_tuned_on_windows_is_shown_windows(demo, model_dir):
    model, processor = SamModel.from_pretrained(model_dir).eval(), SamProcessor.from_pretrained(model_dir)
    assert demo.window_of(processor, [100, 60, 120, 70], (200, 150)) == (0, 0, 200, 150)
    processor = remember_rule(processor, WindowRule("zoom"))
    assert demo.window_of(processor, [100, 60, 120, 70], (200, 150)) == (80, 35, 140, 95)
    assert demo.window_of(processor, [190, 140, 200, 150], (200, 150)) == (168, 118, 200, 150)
    assert demo.window_of(processor, [0, 0, 100, 10], (200, 150)) == (0, 0, 200, 150)
    tiled = remember_rule(processor, WindowRule("tiles", side=50))
    assert demo.window_of(tiled, [100, 60, 120, 70], (200, 150)) == (85, 40, 135, 90)
    assert demo.window_of(tiled, [100, 60, 170, 70], (200, 150)) == (0, 0, 200, 150)
    image, kept = photograph(disc(150, 200, 110, 65, 8), 0), {}
    masks, _ = demo.answer(model, processor, image, [100.0, 60.0, 120.0, 70.0], kept)
    part = image.crop((80, 35, 140, 95))
    expected, _ = demo.segment(model, processor, part, demo.encode(model, processor, part), [20.0, 25.0, 40.0, 35.0])
    assert_same_masks(masks[:, 35:95, 80:140], expected)
    assert kept["window"] == (80, 35, 140, 95) and masks.sum() == masks[:, 35:95, 80:140].sum()


def test_a_lite_medsam_is_shown_without_this_package_where_its_code_is_trusted(tmp_path):
    save_model(random_model(mobile_config()), make_processor(64, 16, min_max=True), tmp_path / "model")
    code = (
        "import sys; sys.modules['visionsam_hf'] = None\n"
        "from PIL import Image; import app\n"
        "model, processor = app.load(sys.argv[1]); image = Image.new('RGB', (64, 48), 'red')\n"
        "embedding = app.encode(model, processor, image)\n"
        "print(app.segment(model, processor, image, embedding, [10.0, 5.0, 40.0, 45.0])[0].shape)"
    )
    done = {}
    for trust in "01":
        env = os.environ | {"TRUST_REMOTE_CODE": trust, "HF_HOME": str(tmp_path / "hf")}
        env["PYTHONPATH"] = str(SPACE / "demo")
        command = [sys.executable, "-c", code, str(tmp_path / "model")]
        done[trust] = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done["0"].returncode and "trust_remote_code" in done["0"].stderr
    assert done["1"].stdout.strip() == "(4, 48, 64)", done["1"].stderr[-2000:]


def test_pictures_show_the_box_and_the_mask(demo):
    image = photograph(np.zeros((48, 64), bool), 0)
    boxed = np.asarray(demo.with_box(image, (10, 5), [10.0, 5.0, 31.0, 41.0]))
    assert tuple(boxed[5, 10]) == tuple(boxed[40, 30]) == demo.COLOUR
    assert (boxed[20, 20] == np.asarray(image)[20, 20]).all()
    mask = disc(48, 64, 30, 24, 10)
    changed = (np.asarray(demo.with_mask(image, mask)) != np.asarray(image)).any(-1)
    assert (changed == mask).all()
    assert demo.around([200.0, 100.0, 300.0, 120.0], (640, 480)) == (100, 78, 400, 142)
    assert demo.around([0.0, 0.0, 10.0, 470.0], (640, 480)) == (0, 0, 37, 480)


def test_the_pages_build_with_gradio(demo, metric_folder, monkeypatch):
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'visionsam_hf[space]'")
    assert demo.page(None, None).fns
    assert module(metric_folder / "app.py", monkeypatch).page().fns


def test_the_metric_equals_the_packages(metric_folder):
    truth = disc(48, 64, 30, 24, 10)
    predictions = [np.roll(truth, 3, axis=1), np.zeros_like(truth), disc(48, 64, 30, 24, 7)]
    metric = evaluate.load(str(metric_folder / "defect_masks.py"))
    found = metric.compute(
        predictions=[encode_rle(mask) for mask in predictions],
        references=[encode_rle(truth)] * 3,
        category=["a", "b", "a"],
    )
    ours = SegmentationMetric()
    for mask, category in zip(predictions, "aba"):
        ours.add(**mask_counts(mask, truth), category=category)
    assert found == ours.compute() and 0 < found["overall"]["iou"] < 1


def test_the_metrics_page_computes_what_the_metric_does(metric_folder, monkeypatch):
    app = module(metric_folder / "app.py", monkeypatch)
    truth = np.uint8(disc(48, 64, 30, 24, 10)) * 255
    assert dict(app.rows(truth, truth)) == dict.fromkeys(
        ("iou", "dice", "precision", "coverage", "boundary_f", "boundary_iou"), 1.0
    )
    assert app.rows(truth, None) == []
    with pytest.raises(ValueError, match="one shape"):
        app.rows(truth, truth[:10])


@pytest.mark.parametrize("folder", ["demo", "metric"])
def test_the_folders_are_shaped_like_spaces(folder):
    text = (SPACE / folder / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(text.split("---")[1])
    assert front["sdk"] == "gradio" and (SPACE / folder / front["app_file"]).is_file() and front["license"]
    assert (SPACE / folder / "requirements.txt").is_file()


def test_the_documented_code_runs(metric_folder, monkeypatch, capsys):
    monkeypatch.chdir(metric_folder.parent.parent)
    code = re.search(r"```python\n(.*?)```", (SPACE / "README.md").read_text(encoding="utf-8"), flags=re.S)[1]
    exec(compile(code, "recipes/space/README.md", "exec"), {})
    assert capsys.readouterr().out.strip() == "1.0"
