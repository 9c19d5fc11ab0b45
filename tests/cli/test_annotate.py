"""`visionsam annotate`: candidate set in, preference data set out."""

import json

import numpy as np
import pytest

from tests.candidate_sets import write_candidate_set
from visionsam_hf.cli.candidates import OracleSettings, run_oracle
from visionsam_hf.data.dataset_directory import load_split, split_names
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.masks import decode_mask
from visionsam_hf.data.settings import build_settings
from visionsam_hf.preferences.task_order import ordered


def oracle(tmp_path, candidates, name="preferences", **options):
    values = {"candidates": str(candidates), "output_dir": str(tmp_path / name)} | options
    run_oracle(build_settings(OracleSettings, values))
    return tmp_path / name


def test_the_oracle_writes_a_preference_data_set_with_the_same_splits(tmp_path):
    candidates = write_candidate_set(tmp_path / "candidates", {"train": 5, "heldout": 2})
    directory = oracle(tmp_path, candidates, noise=0.0)
    assert split_names(directory) == ["train", "heldout"]
    train = load_split(str(directory), "train", kind="preference")
    assert len(train) == 5
    for row in train:
        truth = decode_mask(row["truth"])
        iou = [
            (mask & truth).sum() / (mask | truth).sum()
            for mask in (decode_mask(row["chosen"]), decode_mask(row["rejected"]))
        ]
        assert iou[0] > iou[1]
        assert row["votes"] == 3
        assert {annotation["kind"] for annotation in row["annotations"]} == {"oracle"}
        assert np.asarray(row["image"]).shape == (64, 64, 3)
    record = json.loads((directory / "stage.json").read_text())
    results = record["results"]
    assert record["stage"] == "annotate"
    assert (results["tasks"], results["pairs"], results["dropped_ties"]) == (7, 7, 0)
    assert results["label_cost"] == {"rankings": 21, "tasks": 7, "seconds": 63}
    assert results["tau_between_annotators"] == 1.0
    assert results["mean_iou_gap"] > 0.3
    assert results["share_worse_chosen"] == 0
    assert results["splits"]["heldout"]["pairs"] == 2
    assert "Kendall" in (directory / "README.md").read_text()


def test_it_stops_when_its_minutes_are_spent_and_begins_where_the_order_says(tmp_path):
    candidates = write_candidate_set(tmp_path / "candidates", {"train": 6})
    given = dict(noise=0.0, annotators=1, minutes=0.5, seconds_per_ranking=10.0)
    firsts = {}
    for order in ("id", "uncertain"):
        directory = oracle(tmp_path, candidates, order, order=order, **given)
        firsts[order] = load_split(str(directory), "train", kind="preference")["image_id"][:]
        results = json.loads((directory / "stage.json").read_text())["results"]
        assert results["label_cost"] == {"rankings": 3, "tasks": 3, "seconds": 30}
    wanted = ordered(load_split(str(candidates), "train", kind="candidates"), "uncertain")[:3]
    assert list(firsts["id"]) == ["image-0", "image-1", "image-2"]
    assert list(firsts["uncertain"]) == [f"image-{place}" for place in wanted]


def test_flipped_annotators_choose_the_worse_mask(tmp_path):
    candidates = write_candidate_set(tmp_path / "candidates", {"train": 4})
    directory = oracle(tmp_path, candidates, noise=0.0, flip_rate=1.0)
    results = json.loads((directory / "stage.json").read_text())["results"]
    assert results["share_worse_chosen"] == 1.0


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    candidates = write_candidate_set(tmp_path / "candidates", {"train": 4})
    files = [
        (oracle(tmp_path, candidates, name, noise=0.3, seed=seed) / "data/train-00000-of-00001.parquet").read_bytes()
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"with_truth": False}, "has no truth"), ({"identical": True}, "ties from top to bottom")],
)
def test_a_candidate_set_that_the_oracle_cannot_rank(tmp_path, options, message):
    candidates = write_candidate_set(tmp_path / "candidates", {"train": 2}, **options)
    with pytest.raises(UserError, match=message):
        oracle(tmp_path, candidates)
    assert not (tmp_path / "preferences").exists()


@pytest.mark.parametrize(
    ("key", "value", "fix"),
    [("annotators", 0, "give at least 1"), ("noise", -0.1, "give at least 0"), ("flip_rate", 1.5, "give at most 1")],
)
def test_settings_are_checked(key, value, fix):
    with pytest.raises(UserError, match=f"key '{key}' is {value}; {fix}"):
        build_settings(OracleSettings, {"candidates": "x", "output_dir": "y", key: value})


def test_a_directory_without_a_data_set(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no data set"):
        oracle(tmp_path, tmp_path / "empty")
