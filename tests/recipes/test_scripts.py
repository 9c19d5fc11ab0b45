"""The self-contained scripts run, one after the other, on small data and visionsam-tiny."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from conftest import CATEGORIES, segmentation_rows
from PIL import Image

from visionsam_hf.data.dataset_directory import write_preferences, write_splits
from visionsam_hf.data.schema import segmentation_features

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "recipes" / "scripts"


def run(name, *words, cwd):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, SCRIPTS / name, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_scripts_run(tmp_path, preferences):
    rows = segmentation_rows(4)
    write_splits(tmp_path / "data", {"train": rows, "test": rows}, segmentation_features(CATEGORIES), card="---\n---\n")
    write_preferences(tmp_path / "pairs", {"train": list(preferences)}, CATEGORIES, card="---\n---\n")
    words = ["--dataset_name", "data", "--dataset_test_split", "test", "--output_dir", "sft", "--max_steps", 2]
    printed = run("sft.py", *words, cwd=tmp_path)
    assert re.search(r"IoU 0\.\d", printed)
    words = ["--model_name_or_path", "sft", "--dataset_name", "pairs", "--output_dir", "dpo", "--max_steps", 2]
    run("dpo.py", *words, "--loss_type", "region", "sft", "--loss_weights", 1, 0.5, cwd=tmp_path)
    rows[0]["image"].save(tmp_path / "part.png")
    told = run("predict.py", "--model", "dpo", "--image", "part.png", "--box", 5, 5, 40, 40, cwd=tmp_path)
    assert "predicted IoU" in told and np.asarray(Image.open(tmp_path / "mask.png")).shape == rows[0]["image"].size[::-1]
    card = (tmp_path / "dpo" / "README.md").read_text()
    assert "SamDPOTrainer" in card and "library_name: transformers" in card


@pytest.mark.parametrize("name", ["sft.py", "dpo.py", "predict.py"])
def test_their_dependencies_stand_in_them(name):
    block = re.search(r"^# /// script\n(.*?)^# ///$", (SCRIPTS / name).read_text(), flags=re.S | re.M)[1]
    told = tomllib.loads(re.sub(r"^# ?", "", block, flags=re.M))
    assert told["dependencies"] == ["visionsam_hf"]
    assert (SCRIPTS / told["tool"]["uv"]["sources"]["visionsam_hf"]["path"] / "setup.cfg").is_file()
