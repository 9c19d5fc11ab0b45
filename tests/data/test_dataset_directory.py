"""A data set directory: what is written is what plain `load_dataset` reads, and mistakes are named."""

import io
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from visionsam_hf.data.data_card import data_card, split_front, with_front
from visionsam_hf.data.dataset_directory import load_split, rows_of, split_names, write_splits
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.masks import decode_mask, decode_rle, encode_mask
from visionsam_hf.data.schema import object_row, segmentation_features

CARD = data_card("segmentation", title="Two squares", summary="For tests.")
FEATURES = segmentation_features(["cable", "wood"])


def square_row(index: int) -> dict:
    mask = np.zeros((12, 16), bool)
    mask[2:5, 3:9] = True
    pixels = np.random.default_rng(index).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return {
        "image": Image.fromarray(pixels),
        "mask": encode_mask(mask),
        "image_id": f"square/{index}",
        "source": "test",
        "category": "wood" if index % 2 else "cable",
        "defective": True,
        "objects": [object_row(mask, "scratch")],
    }


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "squares"
    rows = write_splits(
        path, {"train": map(square_row, range(5)), "test": [square_row(9)], "heldout": []}, FEATURES, card=CARD
    )
    assert rows == {"train": 5, "test": 1, "heldout": 0}
    return path


def test_what_is_written_is_what_load_dataset_reads(directory):
    loaded = datasets.load_dataset(str(directory))
    assert {name: len(split) for name, split in loaded.items()} == {"train": 5, "test": 1}
    assert loaded["train"].features == FEATURES
    row = loaded["train"][1]
    assert np.array_equal(np.asarray(row["image"]), np.asarray(square_row(1)["image"]))
    assert row["mask"].mode == "1"
    assert np.array_equal(decode_mask(row["mask"]), decode_rle(row["objects"][0]["rle"]))
    assert row["objects"][0]["box"] == [3, 2, 9, 5] and row["objects"][0]["area"] == 18
    assert loaded["train"].features["category"].int2str(row["category"]) == "wood"


def test_load_split_and_streaming_agree(directory):
    loaded = load_split(directory, "train", kind="segmentation")
    streamed = list(load_split(str(directory), "train", kind="segmentation", streaming=True))
    assert [row["image_id"] for row in loaded] == [row["image_id"] for row in streamed]


def test_images_are_inside_the_files_and_name_no_path_of_this_machine(tmp_path):
    photo = tmp_path / "photo.png"
    square_row(0)["image"].save(photo)
    write_splits(tmp_path / "out", {"train": [square_row(0) | {"image": str(photo)}]}, FEATURES, card=CARD)
    stored = next(iter(rows_of(load_split(tmp_path / "out", "train", kind="segmentation"))))["image"]
    assert stored == {"bytes": photo.read_bytes(), "path": "photo.png"}


def test_same_rows_same_bytes_and_small_row_groups(tmp_path):
    for name in "ab":
        write_splits(tmp_path / name, {"train": map(square_row, range(230))}, FEATURES, card=CARD)
    first, second = (tmp_path / name / "data/train-00000-of-00001.parquet" for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    metadata = pq.ParquetFile(first).metadata
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [100, 100, 30]


def test_big_images_make_small_row_groups_and_several_files(tmp_path, monkeypatch):
    size = len(_png(square_row(0)["image"]))
    monkeypatch.setattr("visionsam_hf.data.dataset_directory.ROW_GROUP_BYTES", 2 * size)
    monkeypatch.setattr("visionsam_hf.data.dataset_directory.SHARD_BYTES", 5 * size)
    write_splits(tmp_path, {"train": map(square_row, range(7))}, FEATURES, card=CARD)
    files = sorted((tmp_path / "data").iterdir())
    assert len(files) > 1 and files[-1].name == f"train-{len(files) - 1:05d}-of-{len(files):05d}.parquet"
    assert max(pq.ParquetFile(file).metadata.row_group(0).num_rows for file in files) <= 3
    assert [row["image_id"] for row in load_split(tmp_path, "train", kind="segmentation")] == [
        f"square/{index}" for index in range(7)
    ]


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_a_rewritten_directory_is_read_anew(directory):
    assert len(load_split(directory, "test", kind="segmentation")) == 1
    (directory / "data/test-00000-of-00001.parquet").unlink()
    write_splits(directory, {"test": map(square_row, range(3))}, FEATURES, card=CARD)
    assert len(load_split(directory, "test", kind="segmentation")) == 3


def test_the_card_names_splits_and_columns(directory):
    front, body = split_front((directory / "README.md").read_text(encoding="utf-8"))
    assert front["configs"][0]["data_files"] == [
        {"split": "train", "path": "data/train-*"},
        {"split": "test", "path": "data/test-*"},
    ]
    assert front["pretty_name"] == "Two squares" and front["size_categories"] == ["n<1K"]
    assert "| `train` | 5 |" in body and "heldout" not in body
    assert split_names(directory) == ["train", "test"]


@pytest.mark.parametrize(
    ("split", "kind", "words"),
    [
        ("validation", "segmentation", ["no split 'validation'", "it has train, test"]),
        ("train", "preference", ["column 'box' is missing", "not a preference data set"]),
    ],
)
def test_wrong_split_or_kind(directory, split, kind, words):
    with pytest.raises(UserError) as caught:
        load_split(directory, split, kind=kind)
    assert str(directory) in str(caught.value)
    assert all(word in str(caught.value) for word in words)


def test_missing_empty_and_damaged_directories(tmp_path, directory):
    with pytest.raises(UserError, match="no such directory"):
        load_split(tmp_path / "nowhere", "train", kind="segmentation")
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match="holds no data/"):
        load_split(tmp_path / "bare", "train", kind="segmentation")
    file = directory / "data/train-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="split 'train': cannot be read"):
        load_split(directory, "train", kind="segmentation")


@pytest.mark.parametrize("streaming", [False, True])
def test_an_empty_split_is_an_error(tmp_path, streaming):
    (tmp_path / "data").mkdir()
    pq.write_table(FEATURES.arrow_schema.empty_table(), tmp_path / "data/train-00000-of-00001.parquet")
    with pytest.raises(UserError, match="split 'train' is empty"):
        load_split(tmp_path, "train", kind="segmentation", streaming=streaming)


def test_plain_load_dataset_reads_what_is_on_disk_now(tmp_path):
    """In one cache: other rows under the same name, in the same place or in another, with the same sizes or not."""

    def reds(directory: Path) -> list[int]:
        loaded = datasets.load_dataset(str(directory), cache_dir=str(tmp_path / "cache"))
        return [int(np.asarray(row["image"])[0, 0, 0]) for row in loaded["train"]]

    def write(directory: Path, values: list[int]) -> None:
        rows = [square_row(0) | {"image": Image.new("RGB", (16, 12), (value, 0, 0))} for value in values]
        write_splits(directory, {"train": rows}, FEATURES, card=CARD)

    first, second = tmp_path / "a/squares", tmp_path / "b/squares"
    for directory, values in ((first, [10, 20]), (first, [11, 21]), (first, [5, 6, 7]), (second, [12, 22])):
        write(directory, values)
        assert reds(directory) == values
    assert reds(first) == [5, 6, 7]


def test_the_card_knows_the_sizes(directory):
    info = split_front((directory / "README.md").read_text(encoding="utf-8"))[0]["dataset_info"]
    assert [(split["name"], split["num_examples"]) for split in info["splits"]] == [("train", 5), ("test", 1)]
    assert info["download_size"] == sum(path.stat().st_size for path in (directory / "data").iterdir())
    assert info["dataset_size"] == sum(split["num_bytes"] for split in info["splits"]) > 0
    loaded = datasets.load_dataset(str(directory))
    assert {name: len(rows) for name, rows in loaded.items()} == {"train": 5, "test": 1}
    for split in info["splits"]:  # what `datasets` measures itself, but for the ends of its buffers
        assert split["num_bytes"] == pytest.approx(loaded[split["name"]].data.nbytes, rel=0.02)


def test_front_matter_comes_back(directory):
    text = (directory / "README.md").read_text(encoding="utf-8")
    front, body = split_front(text)
    assert with_front(front, body) == text and body.startswith("# Two squares")
    assert split_front("no front matter") == ({}, "no front matter")


def test_a_failed_split_leaves_nothing(tmp_path):
    def rows():
        yield square_row(0)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_splits(tmp_path, {"train": rows()}, FEATURES, card=CARD)
    assert list((tmp_path / "data").iterdir()) == []
