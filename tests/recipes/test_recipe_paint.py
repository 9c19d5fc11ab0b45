"""recipes/paint: painted, real, preferences, and the study of what painting is worth, on photographs made here."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_config, tiny_processor
from PIL import Image

from visionsam_hf.cli.pipeline import run_pipeline
from visionsam_hf.data.errors import UserError
from visionsam_hf.models.initialisation import initialise
from visionsam_hf.models.loading import save_model

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "paint"
sys.path.insert(0, str(RECIPE / "study"))
import study  # noqa: E402
import study_tables  # noqa: E402


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


def test_the_study_holds_out_every_class_and_goes_on_where_it_was(parts, capsys):
    short = {"max_steps": 1, "per_device_train_batch_size": 2, "w_dice": 1.0}
    settings = study.StudySettings(
        **{"background_dir": "good", "data_dir": "defects", "output_dir": "out", "model_name_or_path": "model"},
        **{"masks": [2, 4], "processes": 1, "build": {"validation": 0.25, "test": 0.0}},
        **{"paint": {"images": {"train": 4}}, "painted": short, "real": short},
    )
    study.run_study(settings)
    rows = json.loads(Path("out/study.json").read_text())
    assert {row["fold"] for row in rows} == {"dark", "light"} and len(rows) == 2 * (4 + 1 + 2 * 2)
    assert all(name.startswith(f"{row['fold']}/") for row in rows for name in row["image"])
    assert "| 4 |" in Path("out/tables.md").read_text() and Image.open("out/masks.png").width > 500
    before = {path: path.stat().st_mtime_ns for path in Path("out/runs").iterdir()}
    capsys.readouterr()
    settings.masks = [2]
    study.run_study(settings)
    assert {path: path.stat().st_mtime_ns for path in Path("out/runs").iterdir()} == before
    assert "held-out" not in capsys.readouterr().out.split("Mean IoU")[0]
    settings.real = {**short, "max_steps": 2}
    study.run_study(settings)
    assert len(list(Path("out/runs").iterdir())) == len(before) + 4


def test_the_study_refuses_what_it_cannot_do(parts, capsys):
    assert study.main([str(RECIPE / "study" / "study.yaml"), "--background_dir", "good"]) == 2
    assert "missing key 'data_dir'" in capsys.readouterr().err
    assert study.main([str(RECIPE / "study" / "study.yaml"), "--help"]) == 0
    assert "--masks" in capsys.readouterr().out
    settings = {"background_dir": "good", "data_dir": "defects", "output_dir": "out"}
    with pytest.raises(UserError, match="one class cannot be held out"):
        study.run_study(study.StudySettings(**settings, classes=["dark"], paint={"images": {"train": 2}}))
    with pytest.raises(UserError, match="masks from 1"):
        study.run_study(study.StudySettings(**settings, masks=[0]))


def row(fold, start, masks, iou, seed=0):
    return {"fold": fold, "start": start, "masks": masks, "seed": seed, "iou": iou, "image": list("aab")[: len(iou)]}


def test_classes_count_alike_and_seeds_are_averaged():
    rows = [row("x", "base", 0, [0.2, 0.4, 0.6]), row("y", "base", 0, [0.9]), row("y", "base", 0, [0.7], seed=1)]
    mean, low, high = study_tables.class_mean(rows)
    assert mean == pytest.approx((0.4 + 0.8) / 2) and low <= mean <= high


def test_a_gain_is_taken_prompt_by_prompt():
    before = [row("x", "base", 0, [0.1, 0.5, 0.9])]
    after = [row("x", "painted", 0, [0.2, 0.6, 1.0])]
    assert study_tables.class_mean(after, minus=before) == pytest.approx((0.1, 0.1, 0.1))


def test_tables_name_every_system_and_class():
    starts = [(start, masks) for start in ("base", "painted") for masks in (0, 3)]
    rows = [row(fold, *start, [0.5, 0.5, 0.5]) for fold in "xy" for start in starts]
    rows += [row(fold, "Fill the box", 0, [0.25, 0.25, 0.25]) for fold in "xy"]
    text = study_tables.tables(rows, masks=[3])
    assert "| 3 | 0.500 [0.500, 0.500] | 0.500 [0.500, 0.500] | +0.000 [+0.000, +0.000] |" in text
    assert "| Fill the box | 0.250 | 0.250 | 0.250 [0.250, 0.250] |" in text and "| *prompts* | 3 | 3 | 6 |" in text
