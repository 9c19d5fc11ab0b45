"""recipes/paint: painted, real, preferences, and the study of what painting is worth, on photographs made here."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from conftest import initialise, tiny_config, tiny_processor
from PIL import Image
from studies.analysis import class_mean
from studies.demonstrations import DemonstrationStudy
from studies.design import PAINTED, REAL, Cell
from studies.evidence_tables import all_tables

from visionsam_hf.cli import command_line as cli
from visionsam_hf.cli.pipeline import run_pipeline
from visionsam_hf.data.settings import read_yaml
from visionsam_hf.models.loading import save_model

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "paint"


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """Eight good photographs, two classes of eight defects each, a random model, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    save_model(initialise(tiny_config(), seed=0), tiny_processor(), tmp_path / "model")
    rng = np.random.default_rng(0)
    for number in range(24):
        picture = (120 + 20 * np.sin(np.arange(64) / (2 + number % 5))[None] + rng.normal(0, 4, (64, 64))).clip(0, 255)
        folder = tmp_path / ("good" if number < 8 else "defects/dark" if number < 16 else "defects/light")
        folder.mkdir(parents=True, exist_ok=True)
        if number >= 8:
            mask = np.zeros((64, 64), bool)
            top, left = rng.integers(4, 40, 2)
            mask[top : top + 14, left : left + 10] = True
            picture[mask] *= 0.5 if number < 16 else 1.7
            Image.fromarray(mask).save(folder / f"{number}.png")
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=95)
    return tmp_path


def test_painted_then_real_then_preferences(parts):
    short = {"max_steps": "2", "eval_steps": "2", "per_device_train_batch_size": "2"}
    changes = {name: {"model_name_or_path": "model"} for name in ("sft-real", "evaluate-sam")}
    changes["paint"] = {"background_dir": "good", "images": "{train: 6, validation: 2}", "num_proc": "1"}
    changes["build"] = {"data_dir": "defects", "validation": "0.25"}
    changes["sft-painted"] = {"model_name_or_path": "model", **short}
    changes["sft-real"] |= short
    changes["sft"] = changes["dpo"] = short
    run_pipeline(RECIPE, changes=changes)
    report = json.loads(Path("outputs/paint/report.json").read_text())
    assert {"SFT-SAM", "SFT-SAM (painted only)", "SFT-SAM (real only)", "VisionSAM"} <= set(report["systems"])
    started = json.loads(Path("outputs/paint/sft/stage.json").read_text())
    assert list(started["inputs"])[0] == "outputs/paint/sft-painted"


@pytest.fixture
def study(parts):
    """The shipped study, on what is here and as short as it goes."""
    short = {"max_steps": 1, "per_device_train_batch_size": 2, "w_dice": 1.0}
    values = read_yaml(RECIPE / "study" / "study.yaml") | {
        **{"model_name_or_path": "model", "label_budgets": [2, 4], "processes": 1, "resamples": 100},
        **{"build": {"validation": 0.25, "test": 0.0}, "paint": {"images": {"train": 4}}},
        **{"painted": {**short, "trainable": "all"}, "sft": short},
    }
    Path("study.yaml").write_text(yaml.safe_dump(values))
    return ["evidence", "study.yaml", "--background_dir", "good", "--data_dir", "defects"]


def test_the_study_holds_out_every_class_and_goes_on_where_it_was(study, capsys):
    assert cli.main(study) == 0
    assert "10 systems in 6 cells, 2 folds; 14 results to make" in capsys.readouterr().out
    out = Path("outputs/paint_study")
    evidence = json.loads((out / "evidence/evidence.json").read_text())
    for split in ("heldout", "validation"):
        points = evidence["demonstrations"][split]
        assert [point["masks"] for point in points] == [0, 2, 4]
        assert set(points[0]["gain"]["by_fold"]) == {"dark", "light"}
        assert set(evidence["untrained"][split]) == {"Fill the box", "GrabCut", "Otsu"}
    for path in (out / "runs/dark").glob("*.json"):
        keys = json.loads(path.read_text())["rounds"][0]["splits"]["heldout"]["keys"]
        assert keys and all(image.startswith("dark/") for image, _ in keys)
    assert "| 4 |" in (out / "evidence/tables.md").read_text()
    assert Image.open(out / "evidence/masks.png").width > 500
    before = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*-*.json")}
    assert len(list((out / "runs/models").glob("*/config.json"))) == 1
    assert cli.main([*study, "--label_budgets", "[2]"]) == 0
    assert "; 0 results to make" in capsys.readouterr().out
    assert cli.main([*study, "--sft", "{max_steps: 2, w_dice: 1.0}", "--processes", "2"]) == 0
    assert "; 8 results to make" in capsys.readouterr().out
    after = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*-*.json")}
    assert len(after) == len(before) + 8 and before.items() <= after.items()


def test_painted_models_are_trained_first():
    tasks = [(None, ("SAM",)), *((Cell("x", seed, 2), (PAINTED, REAL)) for seed in (0, 1))]
    order = DemonstrationStudy.in_order(None, tasks)
    assert order[2:] == [(None, ("SAM",)), (Cell("x", 0, 2), (REAL,)), (Cell("x", 1, 2), (REAL,))]
    assert {task[0].seed for task in order[:2]} == {0, 1} and all(task[1] == (PAINTED,) for task in order[:2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data_dir", ""], "missing key 'data_dir'"),
        (["--label_budgets", "[0]"], "give at least 1"),
        (["--label_budgets", "[99]"], "held out leaves"),
        (["--classes", "[dark]"], "one class cannot be held out"),
        (["--kind", "paintings"], "give 'objectives' or 'demonstrations'"),
        (["--painted", "{w_bec: 1}"], "did you mean 'w_bce'"),
        (["--build", "{valid: 1}"], "unknown key 'valid'"),
    ],
)
def test_the_study_refuses_what_it_cannot_do(study, capsys, options, message):
    assert cli.main([*study, *options]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("visionsam: ") and message in last


SETTINGS = SimpleNamespace(seed=0, resamples=200)


def answers(fold, iou, seed=0):
    """Prompts of images a, a, b."""
    keys = [(fold, seed, image, place) for place, image in enumerate("aab")]
    return {key: (np.full(4, value), np.full(4, np.nan)) for key, value in zip(keys, iou)}


def test_classes_count_alike_and_seeds_are_averaged():
    found = class_mean(answers("x", [0.2, 0.4, 0.6]) | answers("y", [0.9]) | answers("y", [0.7], seed=1), SETTINGS)
    assert found["iou"] == pytest.approx((0.4 + 0.8) / 2)
    assert found["interval"][0] <= found["iou"] <= found["interval"][1]
    assert found["by_fold"] == pytest.approx({"x": 0.4, "y": 0.8}) and found["prompts"] == {"x": 3, "y": 1}


def test_a_gain_is_taken_prompt_by_prompt():
    gain = class_mean(answers("x", [0.2, 0.6, 1.0]), SETTINGS, minus=answers("x", [0.1, 0.5, 0.9]))
    assert gain["difference"] == pytest.approx(0.1) and gain["interval"] == pytest.approx([0.1, 0.1])


def test_tables_name_every_system_and_class():
    def entry(value):
        folds = {"x": value, "y": value}
        return {"iou": value, "interval": [value, value], "by_fold": folds, "prompts": {"x": 3, "y": 3}}

    gain = {"difference": 0.0, "interval": [-0.01, 0.01]}
    points = [{"masks": masks, REAL: entry(0.5), PAINTED: entry(0.5), "gain": gain} for masks in (0, 3)]
    evidence = {"demonstrations": {"heldout": points}, "untrained": {"heldout": {"Fill the box": entry(0.25)}}}
    tables = all_tables(evidence)
    assert "| 3 | 0.500 [0.500, 0.500] | 0.500 [0.500, 0.500] | +0.0 [−1.0, +1.0] |" in tables["demonstrations"]
    assert "| Fill the box | 0.250 | 0.250 | 0.250 [0.250, 0.250] |" in tables["classes"]
    assert "| *prompts* | 3 | 3 | 6 |" in tables["classes"]
