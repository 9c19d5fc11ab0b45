"""`visionsam curate`: a smaller train split, a manifest to edit, a sheet to look at."""

import csv
import json

import pytest
from PIL import Image

from visionsam_hf.cli.build import run as build
from visionsam_hf.cli.curate import run
from visionsam_hf.cli.dataset_options import CurateSettings, SyntheticSettings
from visionsam_hf.data.dataset_directory import load_split
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.settings import build_settings

SOURCE = {
    "image_size": 64,
    "images": {"train": 14, "test": 2, "heldout": 2},
    "categories": ["ring", "wood"],
    "heldout_categories": ["lens"],
    "good_share": 0.2,
}


@pytest.fixture
def built(tmp_path):
    build(SyntheticSettings(output_dir=str(tmp_path / "data"), **SOURCE))
    return tmp_path / "data"


def manifest_of(directory):
    with (directory / "manifest.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_curated_data_set_manifest_and_sheet(tmp_path, built):
    run(CurateSettings(dataset=str(built), output_dir=str(tmp_path / "curated"), count=5))
    train = load_split(tmp_path / "curated", "train", kind="segmentation")
    rows = manifest_of(tmp_path / "curated")
    assert [row["image_id"] for row in rows if row["keep"] == "yes"] != []
    assert sorted(train["image_id"]) == sorted(row["image_id"] for row in rows if row["keep"] == "yes")
    assert len(train) == 5 and all(train["defective"])
    assert not any(row["image_id"].startswith(("heldout", "test")) for row in rows)
    assert len(load_split(tmp_path / "curated", "heldout", kind="segmentation")) == 2
    sheet = Image.open(tmp_path / "curated/contact_sheet.png")
    assert sheet.width > 1000 and len(sheet.getcolors(1 << 24)) > 100
    record = json.loads((tmp_path / "curated/stage.json").read_text())
    assert record["results"]["picked"] == 5 and record["results"]["refused"] == len(rows) - 5
    card = (tmp_path / "curated/README.md").read_text()
    assert "license: apache-2.0" in card and f"5 of the {len(rows)} defective train images" in card


def test_an_edited_manifest_decides_in_curate_and_in_build(tmp_path, built):
    run(CurateSettings(dataset=str(built), output_dir=str(tmp_path / "curated"), count=5))
    rows = manifest_of(tmp_path / "curated")
    wanted = [rows[0]["image_id"], rows[-1]["image_id"]]
    edited = tmp_path / "edited.csv"
    edited.write_text("keep,image_id\n" + "".join(f"yes,{name}\n" for name in wanted))
    run(CurateSettings(dataset=str(built), output_dir=str(tmp_path / "again"), manifest=str(edited)))
    train = load_split(tmp_path / "again", "train", kind="segmentation")
    assert sorted(train["image_id"]) == sorted(wanted)
    reasons = {row["image_id"]: row["reason"] for row in manifest_of(tmp_path / "again")}
    assert reasons[rows[1]["image_id"]] == "refused by hand"

    build(SyntheticSettings(output_dir=str(tmp_path / "rebuilt"), curated=str(edited), **SOURCE))
    assert sorted(load_split(tmp_path / "rebuilt", "train", kind="segmentation")["image_id"]) == sorted(wanted)
    assert len(load_split(tmp_path / "rebuilt", "test", kind="segmentation")) == 2


def test_held_out_images_cannot_be_asked_for(tmp_path, built):
    edited = tmp_path / "edited.csv"
    edited.write_text("keep,image_id\nyes,heldout/lens/000000\n")
    with pytest.raises(UserError, match="keeps 'heldout/lens/000000', no defective image of the train split"):
        run(CurateSettings(dataset=str(built), output_dir=str(tmp_path / "again"), manifest=str(edited)))
    with pytest.raises(UserError, match="keeps 'heldout/lens/000000', which is no image of the train split"):
        build(SyntheticSettings(output_dir=str(tmp_path / "rebuilt"), curated=str(edited), **SOURCE))
    with pytest.raises(UserError, match="key 'count' is 0; give at least 1"):
        build_settings(CurateSettings, {"dataset": str(built), "output_dir": str(tmp_path / "again"), "count": 0})
    assert not (tmp_path / "again").exists() and not (tmp_path / "rebuilt").exists()


def test_nothing_to_pick_from(tmp_path):
    settings = SOURCE | {"images": {"train": 3}, "good_share": 1.0}
    build(SyntheticSettings(output_dir=str(tmp_path / "good"), **settings))
    with pytest.raises(UserError, match="no image of its train split shows a defect"):
        run(CurateSettings(dataset=str(tmp_path / "good"), output_dir=str(tmp_path / "curated")))
    build(SyntheticSettings(output_dir=str(tmp_path / "held"), **SOURCE | {"images": {"heldout": 3}}))
    with pytest.raises(UserError, match="has no train split to pick from; it has heldout"):
        run(CurateSettings(dataset=str(tmp_path / "held"), output_dir=str(tmp_path / "curated")))
