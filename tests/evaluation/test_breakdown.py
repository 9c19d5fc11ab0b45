import dataclasses
import json

import numpy as np
import pytest
from defect_examples import discs, predict

from visionsam_hf.evaluation.comparison import by_appearance, paired, size_curve
from visionsam_hf.evaluation.evaluator import score_dataset, summarise
from visionsam_hf.evaluation.metrics import bootstrap_interval
from visionsam_hf.evaluation.per_sample import FILE, read_columns, write_groups
from visionsam_hf.evaluation.result_files import Run, SplitResult


def evaluated(directory, data, shift):
    directory.mkdir()
    write_groups(directory / FILE, score_dataset(lambda chunk, limit: predict(chunk, limit, shift=shift), data))
    return SplitResult("test", [Run(directory, summarise(read_columns(directory / FILE)))])


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root, data = tmp_path_factory.mktemp("runs"), discs(40)
    return {shift: evaluated(root / str(shift), data, shift) for shift in (1, 4)}


def test_classes_hold_every_prompt_once_and_add_up_to_the_mean(results):
    better = results[1]
    found = by_appearance(better, results[4], resamples=200, seed=0)
    whole = np.mean(list(better.values["iou"].values()))
    assert set(found) == {"size", "thickness", "contrast"}
    for rows in found.values():
        assert sum(row["n"] for row in rows) == len(better.places)
        assert sum(row["n"] * row["iou"] for row in rows) / len(better.places) == pytest.approx(whole)
        for row in rows:
            assert row["interval"] is None or row["interval"][0] <= row["iou"] <= row["interval"][1]
            if row["difference"]:
                counted = row["difference"]
                assert counted["win"] + counted["tie"] + counted["loss"] == counted["n"] == row["n"]
    json.dumps(found, allow_nan=False)


def test_a_class_is_compared_on_its_own_prompts(results):
    better, worse = results[1], results[4]
    keys = sorted(better.places)
    sizes = better.column("size", keys)
    large = [key for key, size in zip(keys, sizes) if 0.01 <= size < 0.1]
    gains = [better.values["iou"][key] - worse.values["iou"][key] for key in large]
    row = next(row for row in by_appearance(better, worse, resamples=200, seed=0)["size"] if row["label"] == "1 to 10%")
    assert row["n"] == len(large) and row["difference"]["win"] == len(large)
    assert row["difference"]["difference"] == pytest.approx(np.mean(gains))
    wanted = bootstrap_interval(np.array(gains), [key[1] for key in large], resamples=200)
    assert row["difference"]["interval"] == pytest.approx(wanted)


def test_without_a_reference_or_a_second_image_nothing_is_compared(results, tmp_path):
    alone = by_appearance(results[1], None, resamples=50, seed=0)
    assert all(row["difference"] is None for rows in alone.values() for row in rows)
    single = evaluated(tmp_path / "one", discs(1), 2)
    row = by_appearance(single, single, resamples=50, seed=0)["size"][0]
    assert (row["images"], row["interval"], row["difference"]) == (1, None, None)
    assert size_curve(single) == []


def test_only_shared_prompts_are_compared(results):
    better, worse = results[1], results[4]
    few = dataclasses.replace(worse)
    few.places  # filled, then cut down
    few.__dict__["places"] = dict(list(few.places.items())[:5])
    keys = sorted(better.places)
    assert paired(better, few, "iou", keys, resamples=50, seed=0)["n"] == 5


def test_the_curve_over_size_rises_where_larger_defects_are_easier(results):
    curve = np.array(size_curve(results[4]))
    assert (np.diff(curve[:, 0]) > 0).all() and curve[-1, 1] > curve[0, 1]
    assert 0 < curve[0, 0] < curve[-1, 0] < 1
