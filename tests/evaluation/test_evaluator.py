import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest
from defect_examples import disc, discs, predict

from visionsam_hf.data.errors import UserError
from visionsam_hf.data.masks import decode_rle
from visionsam_hf.evaluation.evaluator import score_dataset, summarise
from visionsam_hf.evaluation.per_sample import (
    SCHEMA,
    bin_index,
    columns_of,
    defect_contrast,
    defect_size,
    defect_thickness,
    join_parts,
    prompt_cases,
    read_columns,
    selected_tokens,
    take_rows,
    take_token,
    write_groups,
)


def columns(dataset, **options):
    rows = [row for group in score_dataset(predict, dataset, **options) for row in group]
    return columns_of(pa.Table.from_pylist(rows, schema=SCHEMA))


def test_metrics_have_the_shape_that_others_read():
    metrics = summarise(columns(discs(20)))
    assert {"selection", "n", "overall", "per_category", "calibration"} <= set(metrics)
    assert (metrics["n"], metrics["images"]) == (24, 16)
    assert set(metrics["per_category"]) == {"cable", "lens", "screw"}
    assert set(metrics["selections"]) == {"single", "score", "oracle"}
    json.dumps(metrics, allow_nan=False)


def test_numbers_are_those_of_the_masks():
    data = discs(10)
    metrics = summarise(columns(data))
    ious = []
    for example in data:
        for entry in example["objects"]:
            truth = decode_rle(entry["rle"])
            moved = np.roll(truth, 2, 1)
            ious.append((truth & moved).sum() / (truth | moved).sum())
    assert metrics["overall"]["iou"] == pytest.approx(np.mean(ious))
    low, high = metrics["intervals"]["iou"]
    assert low < metrics["overall"]["iou"] < high
    # Token 1, one pixel off, has the best score and the best mask.
    assert metrics["selections"]["score"]["overall"] == metrics["selections"]["oracle"]["overall"]
    assert metrics["selections"]["score"]["overall"]["iou"] > metrics["overall"]["iou"]
    assert metrics["calibration"]["top1_agreement"] == 1
    assert metrics["calibration"]["bias"] == pytest.approx(0.9 - np.mean(ious))


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_and_streams_give_identical_numbers(processes, tmp_path):
    data = discs(70)
    alone = summarise(columns(data))
    parts = [tmp_path / f"part-{index}.parquet" for index in range(processes)]
    for index, part in enumerate(parts):
        stream = data.to_iterable_dataset() if index == 0 else data
        write_groups(part, score_dataset(predict, stream, process=index, processes=processes))
    join_parts(tmp_path / "all.parquet", parts)
    together = read_columns(tmp_path / "all.parquet")
    assert together["row"].tolist() == sorted(together["row"])
    assert summarise(together) == alone
    assert list(tmp_path.iterdir()) == [tmp_path / "all.parquet"]


def test_max_prompts_counts_over_pieces_and_processes():
    data = discs(70)
    alone = columns(data, max_prompts=50)
    parts = [columns(data, max_prompts=50, process=index, processes=3) for index in range(3)]
    assert len(alone["row"]) == 50
    assert sorted(row for part in parts for row in part["row"]) == alone["row"].tolist()


def test_the_order_of_rows_changes_nothing():
    table = columns(discs(30))
    order = np.random.default_rng(0).permutation(len(table["row"]))
    assert summarise({name: values[order] for name, values in table.items()}) == summarise(table)


def test_nothing_to_evaluate_is_the_users_error():
    with pytest.raises(UserError, match="no object"):
        summarise(columns(discs(1, empty_every=1)))
    with pytest.raises(UserError, match="selection"):
        summarise(columns(discs(2)), selection="best")


def test_selections_take_the_tokens_they_say():
    scores = np.array([[0.9, 0.1, 0.5, 0.3]])
    ious = np.array([[1.0, 0.2, 0.3, 0.4]])
    tokens = selected_tokens(scores, ious)
    assert {name: token.tolist() for name, token in tokens.items()} == {"single": [0], "score": [2], "oracle": [3]}


def test_a_system_without_scores_is_evaluated_without_calibration():
    def silent(chunk, limit):
        for result in predict(chunk, limit):
            yield dataclasses.replace(result, scores=np.full(4, np.nan, np.float32))

    rows = [row for group in score_dataset(silent, discs(6)) for row in group]
    metrics = summarise(columns_of(pa.Table.from_pylist(rows, schema=SCHEMA)))
    assert metrics["calibration"] == {
        "mae": None, "bias": None, "spearman": None, "ece": None, "auroc": None, "bins": [], "top1_agreement": None
    }
    json.dumps(metrics, allow_nan=False)


def test_masks_come_back_from_the_file(tmp_path):
    data = discs(6)
    write_groups(tmp_path / "rows.parquet", score_dataset(predict, data))
    place = 3
    row = take_rows([tmp_path / "rows.parquet"], [place, 0, 99])[place]
    truth = decode_rle(data[row["row"]]["objects"][row["object_index"]]["rle"])
    assert np.array_equal(decode_rle(row["truth"]), truth)
    assert np.array_equal(decode_rle(row["masks"][2]), np.roll(truth, 4, 1))
    table = read_columns(tmp_path / "rows.parquet")
    assert take_token(table, "single")["score"].tolist() == pytest.approx([0.9] * len(table["row"]))
    assert set(prompt_cases(table)) <= {"aligned", "misaligned", "partial", "failure"}


def test_batches_of_the_data_set_do_not_change_rows(monkeypatch):
    data = discs(40)
    wanted = columns(data)
    monkeypatch.setattr("visionsam_hf.evaluation.evaluator.ROWS", 1)
    got = columns(data)
    assert all(np.array_equal(wanted[name], got[name]) for name in ("row", "object_index", "intersection", "contrast"))


def test_appearance_of_known_shapes():
    grey = np.full((100, 200), 100, np.uint8)
    line = np.zeros((100, 200), bool)
    line[40:43, 20:180] = True
    grey[line] = 151
    assert defect_size(line) == 480 / 20000
    assert defect_thickness(line) == pytest.approx(3 / 200)
    assert defect_contrast(grey, line) == pytest.approx(51 / 255)
    assert defect_thickness(disc((100, 200), (50, 100), 10)) == pytest.approx(21 / 200, abs=0.01)
    assert np.isnan(defect_contrast(grey, np.ones_like(line)))
    assert bin_index("contrast", np.array([0.0, 0.05, 0.3, np.nan])).tolist() == [0, 1, 3, -1]
