import json
from dataclasses import dataclass

import pytest

from visionsam_hf.cli.run import is_done, stage_run
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.records import fingerprint, read_record, resolve_model
from visionsam_hf.data.settings import setting


@dataclass
class Settings:
    output_dir: str
    data: str = setting("", "input", input=True)
    rate: float = 0.1
    seed: int = 0


def make(settings, content="made"):
    with stage_run("cook", settings) as run:
        (run.directory / "dish.txt").write_text(content)
        run.results["taste"] = 5


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("a")
    return Settings(str(tmp_path / "out"), str(tmp_path / "in"))


def test_writes_the_record_and_takes_the_final_name(settings, tmp_path):
    make(settings)
    record = read_record(tmp_path / "out")
    assert record["stage"] == "cook" and record["results"] == {"taste": 5} and record["seed"] == 0
    assert record["inputs"] == {settings.data: fingerprint(settings.data)}
    assert {"versions", "wall_seconds", "peak_memory_mb", "hardware"} <= set(record)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_done_until_settings_or_inputs_change(settings, tmp_path):
    assert not is_done("cook", settings)
    make(settings)
    assert is_done("cook", settings)
    assert not is_done("bake", settings)
    assert not is_done("cook", Settings(settings.output_dir, settings.data, rate=0.2))
    (tmp_path / "in" / "a.txt").write_text("b")
    assert not is_done("cook", settings)


def test_a_changed_output_changes_what_depends_on_it(settings, tmp_path):
    make(settings)
    later = Settings(str(tmp_path / "later"), settings.output_dir)
    make(later)
    assert is_done("cook", later)
    make(settings, "made otherwise")
    assert not is_done("cook", later)


def test_a_failure_leaves_the_old_result_and_no_scraps(settings, tmp_path):
    make(settings)
    with pytest.raises(RuntimeError), stage_run("cook", settings) as run:
        (run.directory / "dish.txt").write_text("half")
        raise RuntimeError
    assert (tmp_path / "out" / "dish.txt").read_text() == "made"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_a_resumable_stage_keeps_its_scraps(settings, tmp_path):
    with pytest.raises(RuntimeError), stage_run("cook", settings, resumable=True) as run:
        (run.directory / "half.txt").write_text("half")
        raise RuntimeError
    with stage_run("cook", settings, resumable=True) as run:
        assert (run.directory / "half.txt").read_text() == "half"
    assert not (tmp_path / "out.partial").exists()


def test_a_run_with_other_settings_starts_anew(settings, tmp_path):
    with pytest.raises(RuntimeError), stage_run("cook", settings, resumable=True) as run:
        (run.directory / "half.txt").write_text("half")
        raise RuntimeError
    settings.rate = 0.5
    with stage_run("cook", settings, resumable=True) as run:
        assert not (run.directory / "half.txt").exists()
    assert not (tmp_path / "out" / "started_as.json").exists()


def test_into_existing_keeps_what_is_there(settings, tmp_path):
    (tmp_path / "out" / "data").mkdir(parents=True)
    with stage_run("report", settings, into_existing=True) as run:
        (run.directory / "report.html").write_text("x")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["data", "report.html", "stage.json"]


def test_never_overwrites_what_no_stage_wrote(settings, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="no stage wrote"):
        make(settings)
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"


def test_missing_inputs_stop_at_the_door(settings, tmp_path):
    settings.data = str(tmp_path / "nothing")
    with pytest.raises(UserError, match="nothing"):
        make(settings)
    assert not (tmp_path / "out").exists()


def test_a_damaged_record_is_named(settings, tmp_path):
    make(settings)
    (tmp_path / "out" / "stage.json").write_text("{")
    assert not is_done("cook", settings)
    with pytest.raises(UserError, match="damaged"):
        fingerprint(settings.output_dir)


def test_hub_ids_stand_for_themselves():
    assert fingerprint("facebook/sam-vit-base") == "hub:facebook/sam-vit-base"
    assert resolve_model("facebook/sam-vit-base") == "facebook/sam-vit-base"
    assert resolve_model("visionsam-tiny").endswith("visionsam-tiny")


def test_fingerprints_follow_names_and_contents(tmp_path):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text("1")
    assert fingerprint(tmp_path / "x") == fingerprint(tmp_path / "y")
    (tmp_path / "y" / "f").rename(tmp_path / "y" / "g")
    assert fingerprint(tmp_path / "x") != fingerprint(tmp_path / "y")
    json.dumps(fingerprint(tmp_path / "x" / "f"))
