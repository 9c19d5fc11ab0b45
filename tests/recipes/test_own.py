"""recipes/own runs as it lies there, on a folder called my_parts, and is what `visionsam tune my_parts` runs."""

import json
from pathlib import Path

import yaml
from thin_cracks import write_cracks

from visionsam_hf.cli.command_line import main
from visionsam_hf.cli.options import TuneSettings
from visionsam_hf.cli.tune import recipe_of

OWN = Path(__file__).resolve().parents[2] / "recipes" / "own"


def test_it_is_what_tune_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_parts" / "masks").mkdir(parents=True)
    recipe = recipe_of(TuneSettings("my_parts"), "visionsam-tiny", Path("outputs/own"))
    assert {path.stem for path in OWN.glob("*.yaml")} == set(recipe)
    for name, values in recipe.items():
        assert yaml.safe_load((OWN / f"{name}.yaml").read_text()) == values, name


def test_it_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_cracks(tmp_path / "my_parts", 16, 128)
    short = ["build.objects=image", "sft.max_steps=2", "dpo.max_steps=2", "candidates.max_prompts=12"]
    assert main(["pipeline", str(OWN), "--set", *short]) == 0
    report = json.loads((tmp_path / "outputs" / "own" / "report" / "report.json").read_text())
    assert {"SAM", "SFT-SAM", "VisionSAM"} <= set(report["systems"])
