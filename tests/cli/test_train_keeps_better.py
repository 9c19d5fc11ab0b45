"""`sft` and `dpo` measure before and after, keep the better model, and say what the pairs teach."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
from conftest import CATEGORIES, segmentation_rows
from safetensors.numpy import load_file

from visionsam_hf.cli.command_line import main
from visionsam_hf.cli.train import _weights
from visionsam_hf.data.dataset_directory import load_split, write_preferences, write_splits
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.masks import encode_mask
from visionsam_hf.data.records import read_record
from visionsam_hf.data.schema import object_row, segmentation_features

ROOT = Path(__file__).resolve().parents[2]
_QUICK = ["--max_steps", "6", "--use_cpu", "true", "--per_device_train_batch_size", "4", "--eval_split", "validation"]


@pytest.fixture
def pairs(tmp_path, preferences):
    """A preference data set; its validation split is right, its train split the wrong way round."""

    def swapped(row):
        return {"chosen": row["rejected"], "rejected": row["chosen"], "candidates": row["candidates"][::-1]}

    wrong = preferences.map(swapped, features=preferences.features)
    rows = {"train": list(wrong), "validation": list(preferences)}
    write_preferences(tmp_path / "pairs", rows, CATEGORIES, card="---\n---\n")
    return tmp_path / "pairs"


def dpo(model_dir, pairs, output, *words):
    paths = ["--model_name_or_path", model_dir, "--dataset", pairs, "--output_dir", output]
    return main(["dpo", *map(str, [*paths, *_QUICK, "--learning_rate", "1e-2", *words])])


def weights(directory):
    return load_file(directory / "model.safetensors")


def test_wrong_pairs_are_told_and_leave_the_model_as_it_was(tmp_path, model_dir, pairs, capsys, caplog):
    assert dpo(model_dir, pairs, tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "100% the wrong way round" in printed and "teach the wrong way" in caplog.text
    found = read_record(tmp_path / "out")["results"]["validation"]
    assert found["metric"] == "eval_iou/truth" and found["iou_after"] < found["iou_before"] and found["kept"] == "start"
    assert "the model is the one it started from" in printed
    before, after = weights(model_dir), weights(tmp_path / "out")
    assert before.keys() == after.keys() and all(np.array_equal(before[name], after[name]) for name in before)


def test_two_processes_keep_the_start_together(tmp_path, model_dir, pairs):
    """All of them judge by the same figures; the one that writes has the weights of the start."""
    words = ["--model_name_or_path", model_dir, "--dataset", pairs, "--output_dir", tmp_path / "out", *_QUICK]
    launched = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "visionsam_hf", "dpo"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *launched, *map(str, words), "--learning_rate", "1e-2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert read_record(tmp_path / "out")["results"]["validation"]["kept"] == "start"
    before, after = weights(model_dir), weights(tmp_path / "out")
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_split_up_weights_are_refused():
    trainer = SimpleNamespace(eval_dataset=[1], is_fsdp_enabled=True, is_deepspeed_enabled=False)
    with pytest.raises(UserError, match="load_best"):
        _weights(trainer)


def test_load_best_can_be_switched_off(tmp_path, model_dir, pairs):
    assert dpo(model_dir, pairs, tmp_path / "out", "--load_best", "false") == 0
    assert read_record(tmp_path / "out")["results"]["validation"]["kept"] == "end"
    before, after = weights(model_dir), weights(tmp_path / "out")
    assert any(not np.array_equal(before[name], after[name]) for name in before)


def test_measuring_first_changes_no_training(tmp_path, model_dir):
    rows = segmentation_rows(6)
    features = segmentation_features(CATEGORIES)
    write_splits(tmp_path / "data", {"train": rows, "validation": rows}, features, card="---\n---\n")
    paths = ["--model_name_or_path", model_dir, "--dataset", tmp_path / "data", "--w_dice", 1, "--learning_rate", "1e-2"]
    for name, words in (("with", [*_QUICK, "--load_best", "false"]), ("without", _QUICK[:-2])):
        assert main(["sft", *map(str, [*paths, "--output_dir", tmp_path / name, *words])]) == 0
    found = read_record(tmp_path / "with")["results"]["validation"]
    assert found["metric"] == "eval_iou" and found["samples"] == 9
    assert "validation" not in read_record(tmp_path / "without")["results"]
    one, other = weights(tmp_path / "with"), weights(tmp_path / "without")
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_people_without_truth_are_judged_by_what_they_chose(tmp_path, model_dir, preferences):
    rows = [{**row, "truth": None} for row in preferences]
    write_preferences(tmp_path / "pairs", {"train": rows, "validation": rows}, CATEGORIES, card="---\n---\n")
    assert isinstance(load_split(tmp_path / "pairs", "train", kind="preference"), datasets.Dataset)
    assert dpo(model_dir, tmp_path / "pairs", tmp_path / "out") == 0
    assert read_record(tmp_path / "out")["results"]["validation"]["metric"] == "eval_iou/chosen"


def sft_on_lines(tmp_path, model_dir, thickness, length, *words):
    """A step of SFT on three photographs with a line each; the exit code."""
    rows = segmentation_rows(3)
    for row in rows:
        mask = np.zeros(row["image"].size[::-1], bool)
        mask[10 : 10 + thickness, 5 : 5 + length] = True
        row |= {"mask": encode_mask(mask), "objects": [object_row(mask, "line")]}
    write_splits(tmp_path / "data", {"train": rows}, segmentation_features(CATEGORIES), card="---\n---\n")
    common = ["--model_name_or_path", model_dir, "--dataset", tmp_path / "data", "--output_dir", tmp_path / "out"]
    return main(["sft", *map(str, [*common, *words]), "--max_steps", "1", "--use_cpu", "true"])


@pytest.mark.parametrize(("thickness", "is_told"), [(2, True), (16, False)])
def test_defects_that_the_grid_loses_are_told(tmp_path, model_dir, caplog, thickness, is_told):
    """16 cells a side for 64 pixels: a line of two is half a cell."""
    assert sft_on_lines(tmp_path, model_dir, thickness, 40) == 0
    assert ("100% of the defects are thinner than a cell of the model's 16x16 masks" in caplog.text) == is_told
    assert ("'window: zoom'" in caplog.text) == is_told


@pytest.mark.parametrize("thickness", [1, 4])
def test_defects_are_measured_as_they_are_shown(tmp_path, model_dir, caplog, thickness):
    """A box of 6 pixels is shown on 16 cells of 16 pixels; what zoom cannot save gets no advice to zoom."""
    zoom = ["--window", "zoom", "--window_side", 16 if thickness == 4 else 64, "--window_multiple", 1.5]
    assert sft_on_lines(tmp_path, model_dir, thickness, 6, *zoom) == 0
    assert ("of the defects are thinner" in caplog.text) == (thickness == 1) and "'window: zoom'" not in caplog.text
