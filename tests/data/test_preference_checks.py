"""A preference row that means nothing is named by row and column."""

import numpy as np
import pytest
from datasets import Features
from PIL import Image

from visionsam_hf.data.data_card import data_card
from visionsam_hf.data.dataset_directory import load_split, write_preferences, write_splits
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.masks import encode_mask, encode_rle
from visionsam_hf.data.schema import checked_preferences, preference_features

CARD = data_card("preference", title="Pairs", summary="For tests.")


def mask(left: int, *, size: tuple[int, int] = (12, 16)) -> np.ndarray:
    pixels = np.zeros(size, bool)
    pixels[2:6, left : left + 5] = True
    return pixels


def good_row(**changes) -> dict:
    candidates = [
        {"rle": encode_rle(mask(left)), "token": token, "score": 0.9 - token / 10, "mean_rank": 1.0 + token}
        | dict.fromkeys(("coverage", "boundary", "over_under", "noise"))
        for token, left in enumerate((3, 4, 8))
    ]
    annotation = {
        "annotator": "a1",
        "kind": "oracle",
        "ranking": [1, 2, 3],
        "deciding_criterion": "",
        "seconds": 0.0,
        "rubric_version": "1",
    }
    row = {
        "image": Image.new("RGB", (16, 12), (90, 80, 70)),
        "image_id": "part/1",
        "category": "ring",
        "box": [3.0, 2.0, 8.0, 6.0],
        "object_index": 0,
        "chosen": encode_mask(mask(3)),
        "rejected": encode_mask(mask(8)),
        "margin": 2.0,
        "votes": 1,
        "truth": None,
        "candidates": candidates,
        "annotations": [annotation],
    }
    return row | changes


def without(row: dict, column: str) -> dict:
    return {name: value for name, value in row.items() if name != column}


def annotated(**changes) -> list[dict]:
    return [good_row()["annotations"][0], good_row()["annotations"][0] | changes]


def circled(**changes) -> list[dict]:
    region = {"candidate": 1, "label": "extra", "annotator": "a1", "rle": encode_rle(mask(4))}
    return [region, region | changes]


WRONG = [
    ("image", None, "is not an image"),
    ("image_id", "", "must name the image"),
    ("box", [3.0, 2.0, 8.0], "must be four numbers"),
    ("box", [3.0, 2.0, float("nan"), 6.0], "must be four numbers"),
    ("box", [8.0, 2.0, 3.0, 6.0], "[8, 2, 3, 6) is empty"),
    ("box", [17.0, 2.0, 20.0, 6.0], "lies outside the image (16x12)"),
    ("object_index", -1, "must be 0 or more, not -1"),
    ("chosen", encode_mask(mask(3, size=(12, 15))), "the mask is 15x12 pixels, its image 16x12"),
    ("rejected", encode_mask(mask(3, size=(11, 16))), "the mask is 16x11 pixels"),
    ("rejected", encode_mask(mask(3)), "is the same mask as the chosen one"),
    ("truth", encode_mask(mask(3, size=(24, 32))), "the mask is 32x24 pixels"),
    ("margin", float("nan"), "must be a rank distance"),
    ("margin", -1.0, "must be a rank distance"),
    ("votes", 0, "must be 1 or more"),
    ("candidates", [], "needs two candidates at least, not 0"),
    ("candidates", good_row()["candidates"][:1], "needs two candidates at least, not 1"),
    (
        "candidates",
        [*good_row()["candidates"], {"rle": encode_rle(mask(3, size=(6, 8)))}],
        "candidate 3 is [6, 8] (height, width), the image [12, 16]",
    ),
    ("annotations", annotated(kind="robot"), "annotation 1 has the kind 'robot'"),
    ("annotations", annotated(annotator=""), "annotation 1 has no annotator"),
    ("annotations", annotated(ranking=[1, 2]), "annotation 1 ranks 2 candidates, the row has 3"),
    ("regions", circled(label="ugly"), "region 1 has the label 'ugly'; it must be one of missed, extra"),
    ("regions", circled(candidate=3), "region 1 is about candidate 3"),
    ("regions", circled(rle=encode_rle(mask(3, size=(6, 8)))), "region 1 is [6, 8] (height, width)"),
]


@pytest.mark.parametrize(("column", "value", "words"), WRONG)
def test_row_and_column_are_named(column, value, words):
    rows = [good_row(), good_row(), good_row(**{column: value})]
    with pytest.raises(UserError) as caught:
        list(checked_preferences(rows, "pairs/train"))
    assert str(caught.value).startswith(f"pairs/train: row 2, column '{column}': ") and words in str(caught.value)


@pytest.mark.parametrize("column", [name for name in good_row() if name != "category"])  # that one is a ClassLabel
def test_a_missing_column_is_named(column):
    with pytest.raises(UserError, match=f"row 0, column '{column}': is missing"):
        list(checked_preferences([without(good_row(), column)], "pairs"))


def test_good_rows_are_written_and_read_back(tmp_path):
    rows = [good_row(), good_row(truth=encode_mask(mask(4)))]
    counts = write_preferences(tmp_path, {"train": rows, "validation": []}, ["ring"], card=CARD)
    assert counts == {"train": 2, "validation": 0}
    loaded = load_split(tmp_path, "train", kind="preference")
    assert loaded[0]["truth"] is None and loaded[1]["truth"].mode == "1"
    assert loaded[0]["candidates"][2]["rle"] == encode_rle(mask(8))


def test_circles_are_read_back_and_a_data_set_from_before_them_loads(tmp_path):
    write_preferences(tmp_path / "new", {"train": [good_row(regions=circled()), good_row()]}, ["ring"], card=CARD)
    loaded = load_split(tmp_path / "new", "train", kind="preference")
    assert loaded[0]["regions"] == circled() and not loaded[1]["regions"]
    old = {name: feature for name, feature in preference_features(["ring"]).items() if name != "regions"}
    write_splits(tmp_path / "old", {"train": [good_row()]}, Features(old), card=CARD)
    assert "regions" not in load_split(tmp_path / "old", "train", kind="preference").column_names


def test_the_writer_and_the_reader_refuse_what_means_nothing(tmp_path):
    bad = [good_row(), good_row(votes=0)]
    with pytest.raises(UserError, match=r"train: row 1, column 'votes'"):
        write_preferences(tmp_path / "a", {"train": bad}, ["ring"], card=CARD)
    write_splits(tmp_path / "b", {"train": bad}, preference_features(["ring"]), card=CARD)
    with pytest.raises(UserError, match=r"b, split train: row 1, column 'votes': must be 1 or more"):
        load_split(tmp_path / "b", "train", kind="preference")
    streamed = load_split(tmp_path / "b", "train", kind="preference", streaming=True)
    assert next(iter(streamed))["votes"] == 1
    with pytest.raises(UserError, match=r"row 1, column 'votes'"):
        list(checked_preferences(streamed, "b"))
