"""`visionsam tune DIR`, as somebody new to it meets it: thin cracks, a small model, one command."""

import json
import re

import pytest
import yaml
from PIL import Image
from studies.moving_picture import draw_method
from thin_cracks import write_cracks

from visionsam_hf.cli.command_line import main
from visionsam_hf.cli.options import TuneSettings
from visionsam_hf.cli.tune import recipe_of
from visionsam_hf.data.records import read_record

_SHORT = ["--set", "build.objects=image", "sft.max_steps=4", "dpo.max_steps=2", "candidates.max_prompts=12"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_cracks(tmp_path / "cracks", 16, 128)


def tune(*words):
    return main(["tune", "cracks", *map(str, words)])


def test_from_a_folder_to_a_report(folder, model_dir, tmp_path, capsys):
    assert tune("--model", model_dir, *_SHORT) == 0
    printed = capsys.readouterr().out
    for stage in ("build:", "embed:", "sft:", "candidates:", "annotate:", "dpo:", "evaluate:", "report:", "tune: report"):
        assert f"\n{stage}" in f"\n{printed}", stage
    out = tmp_path / "outputs" / "cracks"
    report = json.loads((out / "report" / "report.json").read_text())
    assert {"SAM", "SFT-SAM", "VisionSAM", "Fill the box"} <= set(report["systems"])
    assert (out / "model" / "model.safetensors").read_bytes() == (out / "dpo" / "model.safetensors").read_bytes()
    assert [read_record(out / name)["settings"]["window"] for name in ("embed", "sft", "evaluate/sam")] == ["zoom"] * 3
    for name in ("sft", "dpo"):
        assert read_record(out / name)["results"]["window"].startswith("zoom")
        found = read_record(out / name)["results"].get("validation")
        assert found is None or found["kept"] == "start" or found["iou_after"] >= found["iou_before"]
    draw_method(out, tmp_path / "method.gif")
    with Image.open(tmp_path / "method.gif") as animation:
        assert animation.n_frames == 4  # of the one category: the box, three masks, their ranking, before and after
    assert tune("--model", model_dir, *_SHORT) == 0
    printed = capsys.readouterr().out
    assert printed.count("done before, skipped") == len(yaml.safe_load((out / "recipe" / "pipeline.yaml").read_text())["stages"])
    assert main(["pipeline", str(out / "recipe"), "--only", "report"]) == 0
    edited = out / "recipe" / "sft.yaml"
    edited.write_text(edited.read_text() + "weight_decay: 0.1\n")
    assert tune("--model", model_dir, *_SHORT) == 2
    assert "is not what this command would write" in capsys.readouterr().err


def test_rankings_that_all_tie_end_in_a_report_too(folder, model_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("visionsam_hf.preferences.oracle.USABLE", 2.0)  # no mask is any good
    assert tune("--model", model_dir, *_SHORT) == 0
    assert "no preference stage" in capsys.readouterr().out
    out = tmp_path / "outputs" / "cracks"
    report = json.loads((out / "report" / "report.json").read_text())
    assert "SFT-SAM" in report["systems"] and "VisionSAM" not in report["systems"]
    assert (out / "model" / "model.safetensors").read_bytes() == (out / "sft" / "model.safetensors").read_bytes()


def test_people_rank_and_the_same_command_goes_on(folder, model_dir, tmp_path, capsys):
    assert tune("--model", model_dir, "--people", *_SHORT) == 0
    printed = capsys.readouterr().out
    out = tmp_path / "outputs" / "cracks"
    assert "visionsam annotate serve --candidates outputs/cracks/candidates --store outputs/cracks/annotations.sqlite" in printed
    assert (out / "candidates").is_dir() and not (out / "preferences").exists()


def test_a_dry_run_writes_nothing(folder, model_dir, tmp_path, capsys):
    assert tune("--model", model_dir, "--dry_run") == 0
    printed = capsys.readouterr().out
    assert "annotate oracle  -> outputs/cracks/preferences" in printed and "minutes here" in printed
    assert not (tmp_path / "outputs").exists()


def test_the_estimate_counts_windows(folder, model_dir, capsys, monkeypatch):
    table = [{"split": name, "images": 10, "objects": 50} for name in ("train", "validation", "test")]
    monkeypatch.setattr("visionsam_hf.cli.tune._built", lambda recipe: table)
    monkeypatch.setattr("visionsam_hf.cli.tune._rates", lambda model: (1000.0, 0.0))
    took = {}
    for window in ("zoom", "whole"):
        assert tune("--model", model_dir, "--dry_run", "--set", f"embed.window={window}") == 0
        took[window] = int(re.search(r"\((\d+) s\)", capsys.readouterr().out).group(1))
    assert took["zoom"] - took["whole"] == (150 - 30) * 1000


def test_too_few_photographs_are_told(tmp_path, monkeypatch, model_dir, capsys):
    monkeypatch.chdir(tmp_path)
    write_cracks(tmp_path / "cracks", 3, 128)
    assert tune("--model", model_dir) == 2
    assert "give ten or more" in capsys.readouterr().err and not (tmp_path / "outputs").exists()


def test_the_source_follows_from_the_folder(folder, tmp_path):
    def command(path):
        return recipe_of(TuneSettings(str(path)), "visionsam-tiny", tmp_path)["pipeline"]["stages"][0]["run"]

    assert command(folder) == "build masks"
    export = tmp_path / "export"
    export.mkdir()
    (export / "notes.json").write_text("[]")
    assert command(export) == "build masks"
    (export / "result.json").write_text('{"images": [], "annotations": [], "categories": []}')
    assert command(export) == "build coco"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--set", "dpo.max_stpes=3"], "did you mean 'max_steps'?"),
        (["--set", "evaluate-sam.splt=test"], "did you mean 'split'?"),
        (["--model", "lite-medsm"], "lite-medsam"),
        (["--model", "owner/none"], "check the name and the network"),
    ],
)
def test_a_slip_is_told_before_the_plan(folder, words, told, capsys):
    assert tune("--dry_run", *words) == 2
    printed = capsys.readouterr()
    assert told in printed.err.splitlines()[-1] and "would run" not in printed.out


def test_photographs_without_masks_can_be_skipped(folder, model_dir, capsys):
    next((folder / "masks").iterdir()).unlink()
    assert tune("--model", model_dir, "--dry_run") == 2
    assert "--on_error skip" in capsys.readouterr().err
    assert tune("--model", model_dir, "--dry_run", "--on_error", "skip") == 0
    assert "would run" in capsys.readouterr().out


@pytest.mark.parametrize("pair", ["sft", "sft.x", "nothing.lr=1"])
def test_a_wrong_set_is_one_line(folder, model_dir, pair, capsys):
    assert tune("--model", model_dir, "--set", pair) == 2
    assert "is not stage.key=value" in capsys.readouterr().err
