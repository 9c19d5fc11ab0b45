"""Damage is told where bytes are decoded, and only there: a bug of ours stays a bug."""

import errno
import io

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import segmentation_rows
from PIL import Image

from visionsam_hf.cli import command_line as cli
from visionsam_hf.cli.stage import stage_run
from visionsam_hf.data.dataset_directory import load_split, write_splits
from visionsam_hf.data.errors import UserError, decoding
from visionsam_hf.data.schema import segmentation_features
from visionsam_hf.data.settings import build_settings


@pytest.fixture
def directory(tmp_path):
    rows = segmentation_rows(3)
    categories = sorted({row["category"] for row in rows})
    write_splits(tmp_path / "data", {"train": rows}, segmentation_features(categories), card="")
    return tmp_path / "data"


def rewrite(directory, change):
    """The rows of the train split with one change to their table's columns as lists."""
    path = directory / "data/train-00000-of-00001.parquet"
    table = pq.read_table(path)
    columns = table.to_pydict()
    change(columns)
    pq.write_table(pa.table(columns, schema=table.schema), path)


def truncate_image(columns):
    columns["image"][1]["bytes"] = columns["image"][1]["bytes"][:-100]


def break_pages(directory):
    """Bytes of the pages changed, the footer whole."""
    path = directory / "data/train-00000-of-00001.parquet"
    content = bytearray(path.read_bytes())
    content[20:400] = bytes(380)
    path.write_bytes(content)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_truncated_image_names_the_data_set(directory, streaming):
    rewrite(directory, truncate_image)
    with pytest.raises(UserError, match=r"data: split 'train': image '.*': cannot be read \(.*damaged"):
        list(load_split(directory, "train", kind="segmentation", streaming=streaming))


@pytest.mark.parametrize("streaming", [False, True])
def test_broken_pages_name_the_data_set(directory, streaming):
    break_pages(directory)
    with pytest.raises(UserError, match="data: split 'train'.*damaged"):
        list(load_split(directory, "train", kind="segmentation", streaming=streaming))


def test_words_that_are_no_words_are_damage(directory):
    """Arrow trusts a file's strings; a row's would end in a UnicodeDecodeError hours later."""
    path = directory / "data/train-00000-of-00001.parquet"
    table = pq.read_table(path)
    raw = pa.array([b"\xff\xfe"] * len(table), pa.binary()).view(pa.string())
    place = table.schema.get_field_index("source")
    pq.write_table(table.set_column(place, table.schema.field(place), raw), path)
    with pytest.raises(UserError, match="split 'train': cannot be read"):
        load_split(directory, "train", kind="segmentation")
    with pytest.raises(UserError, match="split 'train': cannot be read"):
        list(load_split(directory, "train", kind="segmentation", streaming=True))


@pytest.mark.parametrize("harm", [lambda path: rewrite(path, truncate_image), break_pages])
def test_a_command_on_damaged_rows_is_one_line(directory, harm, tmp_path, capsys):
    harm(directory)
    assert cli.main(["inspect", str(directory), "--output_dir", str(tmp_path / "out")]) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("visionsam: ")]
    assert len(told) == 1 and str(directory) in told[0] and "damaged" in told[0]
    assert not (tmp_path / "out").exists()


def bad_array():
    Image.fromarray(np.zeros((2, 2, 7), np.complex64))


def bad_column():
    pa.array(["a", 1], pa.int64())


def bad_schema():
    pa.table({"a": [1]}).cast(pa.schema([("b", pa.int64())]))


def bad_crop():
    Image.new("RGB", (4, 4)).crop((3, 3, 1, 1))


@pytest.mark.parametrize("bug", [bad_array, bad_column, bad_schema, bad_crop])
def test_a_bug_of_ours_in_a_librarys_call_stays_a_traceback(directory, bug, tmp_path):
    settings = build_settings(
        cli.settings_class("inspect"), {"dataset": str(directory), "output_dir": str(tmp_path / "out")}
    )
    with pytest.raises((TypeError, ValueError, pa.ArrowException)) as caught, stage_run("inspect", settings):
        bug()
    assert not isinstance(caught.value, UserError)


def test_stored_images_are_plain_images_to_everyone_else(directory):
    features = load_split(directory, "train", kind="segmentation").features
    assert features["image"] == datasets.Image() and datasets.Image() == features["image"]
    assert features == datasets.Features.from_dict(features.to_dict())
    assert type(datasets.Features.from_dict(features.to_dict())["image"]) is datasets.Image


def test_a_full_disk_and_memory_are_no_damage():
    for error in (OSError(errno.ENOSPC, "No space left"), MemoryError()):
        with pytest.raises(type(error)) as caught, decoding("x"):
            raise error
        assert caught.value is error
    with pytest.raises(UserError, match="^x: cannot be read .* is damaged"), decoding("x"):
        Image.open(io.BytesIO(b"no image"))
