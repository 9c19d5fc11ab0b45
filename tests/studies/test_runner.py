"""A whole study on a random model: seconds long, and every part of it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from closeness import assert_close
from conftest import CATEGORIES, segmentation_rows

from visionsam_hf.cli import command_line as cli
from visionsam_hf.data.dataset_directory import write_splits
from visionsam_hf.data.schema import segmentation_features
from visionsam_hf.embeddings.cache import EmbeddingCache

OBJECTIVES = {
    "paper": {"loss_type": "paper"},
    "chosen only": {"loss_type": "sft", "sources": ["thresholds", "box_jitter"], "rounds": 2},
    "region": {"loss_type": "region", "sft_weight": 0.3, "sources": ["thresholds", "box_jitter"], "rounds": 2},
    "rlhf": {"loss_type": "region", "start": "sam", "sources": ["thresholds", "box_jitter"]},
    "confidence": {"start": "region", "loss_type": "region", "iou_weight": 1.0, "trainable": "iou_prediction_head"},
}


@pytest.fixture
def config(tmp_path, model_dir):
    counts = {"train": 9, "test": 3, "heldout": 3}
    rows = {split: segmentation_rows(count, seed) for seed, (split, count) in enumerate(counts.items())}
    write_splits(tmp_path / "data", rows, segmentation_features(CATEGORIES), card="---\n---\n")
    values = {
        "model_name_or_path": str(model_dir), "folds": {"one": str(tmp_path / "data")}, "runs": str(tmp_path / "runs"),
        "embeddings": str(tmp_path / "cache"), "output_dir": str(tmp_path / "out"), "seeds": [0, 1], "masks": 3,
        "max_ranked": 6, "annotators": 1, "max_prompts": 3, "resamples": 100,
        "sft": {"max_steps": 2, "learning_rate": "1e-3", "use_cpu": True},
        "preference": {"max_steps": 2, "learning_rate": "1e-3", "use_cpu": True},
        "objectives": OBJECTIVES, "recommended": "region", "rlhf": "rlhf", "confidence": "confidence",
        "compare_with": ["paper", "chosen only"], "label_budgets": [2, 3], "budget_objectives": ["region"],
        "flip_rates": [0.0, 0.3], "flip_objectives": ["region"],
    }  # fmt: skip
    path = tmp_path / "evidence.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


@pytest.fixture
def encoded(monkeypatch):
    """How many images each call of `EmbeddingCache.add` has encoded."""
    counted = []
    add = EmbeddingCache.add

    def counting(self, *args, **kwargs):
        before = len(self)
        keys = add(self, *args, **kwargs)
        counted.append(len(self) - before)
        return keys

    monkeypatch.setattr(EmbeddingCache, "add", counting)
    return counted


def without_seconds(values):
    return {key: value for key, value in values.items() if key != "seconds"}


def test_a_study_goes_on_where_it_stopped(config, tmp_path, capsys, encoded):
    assert cli.main(["evidence", str(config)]) == 0
    printed = capsys.readouterr().out
    assert "16 systems in 4 cells, 1 folds; 20 results to make" in printed
    evidence = json.loads((tmp_path / "out/evidence.json").read_text())
    for split in ("heldout", "test", "ranked"):
        assert list(evidence["objectives"][split]) == ["SAM", "Fill the box", "GrabCut", "Otsu", "SFT-SAM", *OBJECTIVES]
    entry = evidence["objectives"]["heldout"]["region"]
    rankings = entry["cost"]["rankings"]
    assert [one["cost"]["rankings"] for one in entry["rounds"]] == pytest.approx([rankings / 2, rankings])
    assert set(entry["difference"]) == {"SAM", "SFT-SAM", "paper", "chosen only"}
    # What starts from the last round of another objective has paid for its rankings too.
    assert evidence["objectives"]["heldout"]["confidence"]["cost"]["rankings"] > rankings
    # Scores alone: not a mask differs.
    assert evidence["objectives"]["heldout"]["confidence"]["iou"] == entry["iou"]
    assert [point["masks"] for point in evidence["budget"]["test"]["region"]] == [2, 3]
    assert [point["rate"] for point in evidence["flips"]["test"]["region"]] == [0.0, 0.3]
    # Every image is encoded once, before the first run.
    assert encoded[:3] == [9, 2, 2] and len(encoded) > 20 and not any(encoded[3:])
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"gains.png", "rounds.png", "budget.png", "flips.png", "calibration.png", "tables.md", "stage.json"} <= names
    assert not list((tmp_path / "cache" / "reference").iterdir())

    runs = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.json")}
    assert len(runs) == 20
    first = json.loads((tmp_path / "out/evidence.json").read_text(), object_hook=without_seconds)
    lost = next(path for path in runs if path.name.startswith("chosen_only-masks3-seed1"))
    lost.unlink()
    assert cli.main(["evidence", str(config), "--processes", "2"]) == 0
    again = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.json")}
    assert {path for path in runs if again[path] != runs[path]} == {lost}
    second = json.loads((tmp_path / "out/evidence.json").read_text(), object_hook=without_seconds)
    assert_close(second, first, rtol=1e-3, atol=1e-4)


def workers_of(parent):
    """Its living worker processes, by number."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, ppid = status.read_text().rsplit(")", 1)[1].split()[:2]
            words = status.with_name("cmdline").read_text()
        except OSError:  # it has just ended
            continue
        if int(ppid) == parent and state != "Z" and "spawn_main" in words:
            found.append(int(status.parent.name))
    return found


def has_semaphore(process):
    """Whether a process has made one; to glibc it keeps a first name then, to those that only open it it is mp-..."""
    return bool(re.search(r"/dev/shm/sem\.(?!mp-)", Path(f"/proc/{process}/maps").read_text()))


def wait_for(condition, what, seconds=120):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, what
        time.sleep(0.1)
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="reads /proc")
@pytest.mark.parametrize(
    ("number", "to_all", "code"), [(signal.SIGTERM, False, 143), (signal.SIGINT, True, 130), (signal.SIGKILL, False, -9)]
)
def test_workers_end_with_their_study(config, tmp_path, number, to_all, code):
    values = yaml.safe_load(config.read_text())
    values["sft"]["max_steps"] = 100_000  # nothing is finished while we look
    config.write_text(yaml.safe_dump(values, sort_keys=False))
    command = [sys.executable, "-m", "visionsam_hf", "evidence", str(config), "--processes", "2"]
    log = tmp_path / "log"
    with log.open("wb") as file:
        study = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
    try:
        workers = wait_for(lambda: len(found := workers_of(study.pid)) == 2 and found, "no workers")
        # Both have shown a progress bar, whose lock is a semaphore of their own.
        wait_for(lambda: all(map(has_semaphore, workers)), "no progress bar")
        (os.killpg if to_all else os.kill)(study.pid, number)  # Ctrl-C reaches the workers too
        assert study.wait(60) == code, log.read_text()
        wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), "workers live on")
        if code > 0:
            time.sleep(1)  # the tracker of semaphores outlives us all
            assert log.read_text().splitlines()[-1].startswith("visionsam: stopped by ")
    finally:
        for process in (study.pid, *workers_of(study.pid)):
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                pass


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("recommended", "best", "recommended: there is no objective 'best'"),
        ("sft", {"w_bec": 1}, "did you mean 'w_bce'"),
        ("objectives", {"region": {"bata": 1}}, "did you mean 'beta'"),
        ("objectives", {"region": {"sources": ["magic"]}}, "has the source 'magic'"),
        ("folds", {"one": "nowhere"}, "nowhere: no such file or directory"),
        ("masks", 9, "leave none to rank"),
        ("flip_rates", [0.6], "flip_rates"),
    ],
)
def test_mistakes_get_one_line(config, capsys, key, value, message):
    values = yaml.safe_load(config.read_text()) | {"compare_with": [], "budget_objectives": [], "flip_objectives": []}
    values |= {"rlhf": "", "confidence": "", key: value}
    config.write_text(yaml.safe_dump(values, sort_keys=False))
    assert cli.main(["evidence", str(config)]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]  # progress bars stand above it
    assert last.startswith("visionsam: ") and message in last
