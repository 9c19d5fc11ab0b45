import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import pytest

from tests.hubdouble import HubDouble, Repo
from visionsam_hf.cli import command_line as cli
from visionsam_hf.cli.stage import is_done, only_run, refuse_to_replace, stage_run
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.records import fingerprint, looks_local, read_record, resolve_model, same_fingerprint
from visionsam_hf.data.settings import setting

ROOT = Path(__file__).resolve().parents[2]


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
    record = read_record(settings.output_dir)
    older = {**record, "settings": {key: value for key, value in record["settings"].items() if key != "rate"}}
    (Path(settings.output_dir) / "stage.json").write_text(json.dumps(older))
    assert not is_done("cook", settings)
    # A key that came after the record is no difference while nothing is set.
    assert is_done("cook", Settings(settings.output_dir, settings.data, rate=None))
    make(settings)
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


def test_offline_a_hub_id_stands_for_its_cached_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert fingerprint("facebook/sam-vit-base", "model") == "hub:facebook/sam-vit-base"
    refs = tmp_path / "models--facebook--sam-vit-base" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("abc\n")
    assert fingerprint("facebook/sam-vit-base", "model") == "hub:facebook/sam-vit-base@abc"
    assert fingerprint("facebook/sam-vit-base", "dataset") == "hub:facebook/sam-vit-base"
    snapshot = tmp_path / "datasets--me--parts" / "snapshots" / "def"
    snapshot.mkdir(parents=True)
    assert fingerprint("me/parts") == "hub:me/parts@def"


@pytest.mark.parametrize(
    ("one", "other", "agree"),
    [
        ("hub:a/b@1", "hub:a/b@1", True),
        ("hub:a/b@1", "hub:a/b@2", False),
        ("hub:a/b@1", "hub:a/b", True),
        ("hub:a/b", "hub:a/bc@1", False),
        ("12", "13", False),
    ],
)
def test_only_a_known_commit_differs(one, other, agree):
    assert same_fingerprint(one, other) == same_fingerprint(other, one) == agree


def test_a_new_commit_on_the_hub_is_not_done(tmp_path):
    """In processes of their own: the Hub's address is read when huggingface_hub is imported."""
    with HubDouble() as hub:
        repo = hub.state.repos["dataset", "me/parts"] = Repo("dataset", "me/parts", False)
        environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "PYTHONPATH": PATHS}

        def ask(*words):
            done = subprocess.run(
                [sys.executable, "-c", HUB_SCRIPT, *words],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
            return done.stdout.strip()

        assert ask("make") == "True"
        assert ask() == "True"
        repo.commit({"README.md": (b"new", False)}, "new rows")
        assert ask() == "False"


HUB_SCRIPT = """
import sys
from tests.cli.test_stage import Settings, make
from visionsam_hf.cli.stage import is_done
settings = Settings("out", "me/parts")
if sys.argv[1:]:
    make(settings)
print(is_done("cook", settings))
"""
PATHS = os.pathsep.join([str(ROOT), str(ROOT / "tests")])


@pytest.mark.parametrize(
    "command", ["inspect me/parts", "merge me/parts", "sft --model_name_or_path visionsam-tiny --dataset me/parts"]
)
def test_without_the_hub_a_command_ends_in_seconds_with_one_line(tmp_path, command):
    environment = {key: value for key, value in os.environ.items() if "OFFLINE" not in key}
    environment |= {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": PATHS}
    done = subprocess.run(
        [sys.executable, "-m", "visionsam_hf", *command.split(), "--output_dir", "o"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "the Hub cannot be reached" in done.stderr and "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("visionsam: ") and "me/parts" in last and not (tmp_path / "o").exists()


def test_paths_that_cannot_be_hub_ids(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    for name in ("outputs/missing", "results/missing", "~/x", "a/b/c", "missing"):
        with pytest.raises(UserError, match=f"^{name}: no such file or directory"):
            fingerprint(name)
    assert not looks_local("facebook/sam-vit-base")


def test_results_of_other_settings_stay_unless_told(settings, tmp_path):
    make(settings)
    refuse_to_replace("cook", settings)
    settings.rate = 0.2
    with pytest.raises(
        UserError, match="out: was made with rate 0.1, not 0.2; choose another output_dir, or add --rep"
    ):
        refuse_to_replace("cook", settings)
    with pytest.raises(UserError, match="holds the result of 'cook'"):
        refuse_to_replace("bake", settings)
    refuse_to_replace("cook", Settings(str(tmp_path / "elsewhere")))
    (tmp_path / "out" / "stage.json").write_text("{")
    refuse_to_replace("cook", settings)


def test_replace_on_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["build", "synthetic", "--image_size", "64", "--images", "{test: 1}", "--output_dir", "data"]
    assert cli.main(command) == cli.main(command) == 0
    assert cli.main([*command, "--seed", "1"]) == 2
    assert "data: was made with seed 0, not 1" in capsys.readouterr().err
    assert read_record("data")["settings"]["seed"] == 0
    assert cli.main([*command, "--seed", "1", "--replace"]) == 0 and read_record("data")["settings"]["seed"] == 1
    assert "replace" not in read_record("data")["settings"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_run_whose_children_live_on_blocks_nobody(tmp_path):
    """Workers of a data loader or a pool outlive a killed parent for a while; they must not keep its lock."""
    lock, started = tmp_path / "out.lock", tmp_path / "started"
    if (runner := os.fork()) == 0:
        with only_run(lock, tmp_path / "out"):
            if (child := os.fork()) == 0:
                time.sleep(30)
                os._exit(0)
            started.write_text(str(child))
            time.sleep(30)
        os._exit(0)
    while not started.exists() or not started.read_text():
        time.sleep(0.02)
    child = int(started.read_text())
    with (
        pytest.raises(UserError, match=rf"another run \(process {runner}\) is writing it"),
        only_run(lock, tmp_path / "out"),
    ):
        pass
    os.kill(runner, signal.SIGKILL)
    os.waitpid(runner, 0)
    try:
        with only_run(lock, tmp_path / "out"):
            assert int(lock.read_text()) == os.getpid()
        assert not lock.exists()
    finally:
        os.kill(child, signal.SIGKILL)


def test_hub_ids_and_the_packaged_model():
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
