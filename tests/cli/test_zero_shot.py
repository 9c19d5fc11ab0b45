"""recipes/visionsam/zero_shot_mvtec on a folder in MVTec AD's layout, with a small random model."""

import io
import json
from pathlib import Path

import numpy as np
from conftest import disc, initialise, photograph, tiny_config, tiny_processor
from PIL import Image

from visionsam_hf.cli.pipeline import read_stages, run_pipeline, stage_settings
from visionsam_hf.evaluation.per_sample import read_columns
from visionsam_hf.models.loading import save_model

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "visionsam" / "zero_shot_mvtec"


def write_mvtec(root, categories, defects=4):
    for category in categories:
        for number in range(defects):
            mask = disc(60, 80, 20 + 10 * number, 30, 6) | disc(60, 80, 70, 10, 3)
            for folder, picture, name in (
                ("test/hole", photograph(mask, number), f"{number:03d}.png"),
                ("ground_truth/hole", Image.fromarray(np.uint8(mask) * 255), f"{number:03d}_mask.png"),
            ):
                (root / category / folder).mkdir(parents=True, exist_ok=True)
                picture.save(root / category / folder / name)


def test_every_file_of_the_recipe_is_a_stage():
    used = {"pipeline.yaml"}
    stages = {}
    for stage in read_stages(RECIPE):
        stages[stage["name"]] = stage_settings(RECIPE, stage, {})
        used.add(f"{stage['run'].split()[0]}.yaml")
    assert {path.name for path in RECIPE.glob("*.yaml")} == used
    assert len(stages["build"].categories) * stages["build"].sample_per_category == 210
    assert [stages[name].prompt for name in ("box", "point", "point_pm")] == ["box", "point", "point_pm"]


def test_the_study_runs_and_shows_the_cases(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    categories = ["bottle", "cable", "screw"]
    write_mvtec(tmp_path / "mvtec", categories)
    save_model(initialise(tiny_config(), seed=0), tiny_processor(), "model")
    tiny = {"model_name_or_path": "model", "correct_iou": "0.02"}
    run_pipeline(
        RECIPE,
        changes={
            "build": {"data_dir": "mvtec", "categories": str(categories), "sample_per_category": "3", "num_proc": "1"},
            "embed": {"model_name_or_path": "model"},
            **dict.fromkeys(("box", "point", "point_pm"), tiny),
        },
    )
    outputs = tmp_path / "outputs" / "zero_shot_mvtec"
    prompts = {}
    for prompt in ("box", "point", "point_pm"):
        metrics = json.loads((outputs / "evaluate" / prompt / "metrics.json").read_text())
        table = read_columns(outputs / "evaluate" / prompt / "per_sample.parquet")
        assert (metrics["prompt"], metrics["selection"], metrics["n"], metrics["images"]) == (prompt, "score", 9, 9)
        cases = metrics["cases"]
        assert set(cases["per_category"]) == set(categories)
        assert all(sum(counts.values()) == 3 for counts in cases["per_category"].values())
        prompts[prompt] = table["image_id"].tolist()
    assert prompts["box"] == prompts["point"] == prompts["point_pm"]  # the same photographs
    report = json.loads((outputs / "report.json").read_text())
    assert list(report["systems"]) == ["Box", "Point", "Point and negative"]
    assert report["systems"]["Point"]["difference"]["reference"] == "Box"
    page = (outputs / "report.html").read_text()
    assert "Cases by category" in page and "a box, a point, a point on and a point off the defect" in page
    assert "Paper: IoU" not in page  # it has no such systems
    shown = sum(count > 0 for count in report["systems"]["Box"]["splits"]["test"]["cases"]["counts"].values())
    with Image.open(io.BytesIO((outputs / "cases.png").read_bytes())) as figure:
        assert figure.width > 1000 and figure.height > 300 * shown
