"""recipes/distil, both of its pipelines, on random models and images made here."""

import json
from pathlib import Path

import pytest
from conftest import CATEGORIES, initialise, segmentation_rows, tiny_config, tiny_processor
from transformers import SamModel

from visionsam_hf.cli.options import ExportSettings
from visionsam_hf.cli.pipeline import run_pipeline
from visionsam_hf.data.dataset_directory import write_splits
from visionsam_hf.data.schema import segmentation_features
from visionsam_hf.data.settings import build_settings, read_yaml
from visionsam_hf.models.loading import save_model

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "distil"
SHORT = {"max_steps": "2", "eval_steps": "2", "per_device_train_batch_size": "2", "use_cpu": "true"}
SIZES = "{image_size: 32, patch_size: 8, hidden_size: 16, num_attention_heads: 2, num_hidden_layers: 1}"


@pytest.fixture(autouse=True)
def teacher(tmp_path, monkeypatch):
    """A random teacher in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    save_model(initialise(tiny_config(), seed=0), tiny_processor(), tmp_path / "teacher")


def measured(directory: str) -> int:
    return json.loads(Path(directory, "metrics.json").read_text())["n"]


def test_what_tune_left_becomes_a_small_model_to_export(tmp_path):
    rows = {split: segmentation_rows(count, count) for split, count in (("train", 6), ("validation", 2), ("test", 3))}
    write_splits("outputs/my_parts/data", rows, segmentation_features(CATEGORIES), card="---\n---\n")
    save_model(initialise(tiny_config(32), seed=1), tiny_processor(32), tmp_path / "small")
    changes = {"distil": {"model_name_or_path": "teacher", "student": "small", **SHORT}, "together": SHORT}
    changes["evaluate-teacher"] = {"model_name_or_path": "teacher"}
    stages = ["distil", "together", "evaluate-teacher", "evaluate-student"]
    run_pipeline(RECIPE, only=stages, changes=changes)
    results = json.loads(Path("outputs/distil/student/stage.json").read_text())["results"]
    assert results["samples"] == results["validation"]["samples"] * 5 == 5 * 5  # five images and four windows of each
    assert measured("outputs/distil/evaluate/teacher") == measured("outputs/distil/evaluate/student") > 0
    # How ONNX files are made: tests/models/test_onnx_export.py.
    export = build_settings(ExportSettings, read_yaml(RECIPE / "export.yaml"))
    assert Path(export.model, "model.safetensors").is_file()


def test_the_packaged_model(tmp_path):
    changes = {"build": {"image_size": "64", "images": "{train: 4, validation: 2, heldout: 4}", "num_proc": "1"}}
    changes["coarse"] = {"model_name_or_path": "teacher", "vision_config": SIZES, **SHORT}
    changes["distil"] = {"model_name_or_path": "teacher", "vision_config": "{image_size: 64}", **SHORT}
    changes |= {"together": SHORT, "evaluate-teacher": {"model_name_or_path": "teacher"}}
    run_pipeline(RECIPE / "world", only=["build", "coarse"], changes=changes)
    cache = sorted(path.name for path in Path("outputs/distil_world/embeddings").rglob("*.safetensors"))
    run_pipeline(RECIPE / "world", changes=changes)
    student = SamModel.from_pretrained("outputs/distil_world/model")
    assert type(student.vision_encoder).__name__ == "SamVisionEncoder"
    assert student.config.vision_config.image_size == 64 and student.config.vision_config.hidden_size == 16
    assert len({measured(f"outputs/distil_world/evaluate/{name}") for name in ("teacher", "distilled", "together")}) == 1
    started = json.loads(Path("outputs/distil_world/model/stage.json").read_text())
    assert list(started["inputs"])[0] == "outputs/distil_world/distilled"
    # What the teacher said to the coarse student serves the other as well.
    assert cache == sorted(path.name for path in Path("outputs/distil_world/embeddings").rglob("*.safetensors")) != []
