"""`visionsam build`: a source in, a Hub-shaped directory out, whatever the number of processes."""

import json

import datasets
import pytest
from PIL import Image

from visionsam_hf.cli.build import run
from visionsam_hf.cli.command_line import COMMANDS
from visionsam_hf.data.data_card import split_front
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.settings import build_settings


def build(source, **values):
    run(build_settings(COMMANDS[f"build {source}"].settings, values))


def synthetic(output_dir, **values):
    values = {"image_size": 64, "images": {"train": 8, "heldout": 3}, "categories": ["ring", "wood"]} | values
    build("synthetic", output_dir=str(output_dir), heldout_categories=["lens"], **values)


def parquet(directory):
    return {path.name: path.read_bytes() for path in sorted((directory / "data").iterdir())}


def test_the_same_bytes_on_one_and_four_processes(tmp_path):
    synthetic(tmp_path / "one", num_proc=1)
    synthetic(tmp_path / "four", num_proc=4)
    assert parquet(tmp_path / "one") == parquet(tmp_path / "four")
    assert sorted(parquet(tmp_path / "one")) == ["heldout-00000-of-00001.parquet", "train-00000-of-00001.parquet"]
    synthetic(tmp_path / "other", seed=1)
    assert parquet(tmp_path / "one") != parquet(tmp_path / "other")


def test_the_directory_is_a_data_set_with_card_and_record(tmp_path):
    synthetic(tmp_path / "data")
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["README.md", "data", "stage.json"]
    loaded = datasets.load_dataset(str(tmp_path / "data"))
    assert {name: len(split) for name, split in loaded.items()} == {"train": 8, "heldout": 3}
    record = json.loads((tmp_path / "data/stage.json").read_text())
    assert record["results"]["rows"] == {"train": 8, "heldout": 3}
    assert record["settings"]["source"] == "synthetic"
    front, body = split_front((tmp_path / "data/README.md").read_text())
    assert front["license"] == "apache-2.0" and front["annotations_creators"] == ["machine-generated"]
    assert "| `heldout` | 3 |" in body and str(tmp_path) not in body


@pytest.fixture
def parts(tmp_path):
    folder = tmp_path / "parts" / "chip"
    folder.mkdir(parents=True)
    for number in range(4):
        Image.new("L", (24, 20), 80 + number).save(folder / f"{number}.jpg")
        mask = Image.new("L", (24, 20))
        mask.paste(255, (3, 4, 9, 10))
        mask.save(folder / f"{number}.png")
    return folder


def test_masks_and_skipped_images_in_the_card(tmp_path, parts):
    (parts / "2.jpg").write_bytes((parts / "2.jpg").read_bytes()[:200])
    values = {"data_dir": str(parts.parent), "output_dir": str(tmp_path / "data"), "validation": 0.0, "test": 0.25}
    with pytest.raises(UserError, match="2.jpg: the image is truncated"):
        build("masks", **values)
    assert not list(tmp_path.glob("data*"))
    for num_proc in (1, 2):
        build("masks", on_error="skip", num_proc=num_proc, **values)
        record = json.loads((tmp_path / "data/stage.json").read_text())
        assert sum(record["results"]["rows"].values()) == 3 and record["results"]["remarks"] == {"skipped": 1}
        card = (tmp_path / "data/README.md").read_text()
        assert "1 images left out" in card and "| skipped | chip/2 | the image is truncated" in card
        assert str(tmp_path) not in card
    with pytest.raises(UserError, match="2.jpg: the image is truncated"):
        build("masks", num_proc=2, **values)


def test_everything_skipped_is_an_error(tmp_path, parts):
    for path in parts.glob("*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="every image was skipped; the first: .*0.jpg: the image is empty"):
        build("masks", data_dir=str(parts.parent), output_dir=str(tmp_path / "data"), on_error="skip")


def test_disagreement(tmp_path):
    with pytest.raises(UserError, match="key 'source' is 'masks', but the command is 'build synthetic'"):
        build_settings(COMMANDS["build synthetic"].settings, {"output_dir": "x", "source": "masks"})
    with pytest.raises(UserError, match="key 'num_proc' is 0; give at least 1"):
        synthetic(tmp_path / "data", num_proc=0)


def test_look_alikes_across_splits_are_named(tmp_path, parts, caplog):
    twins = [path.stem for path in sorted(parts.glob("*.jpg"))]  # four flat greys of nearly one brightness
    build("masks", data_dir=str(parts.parent), output_dir=str(tmp_path / "data"), validation=0.0, test=0.5)
    record = json.loads((tmp_path / "data/stage.json").read_text())
    assert record["results"]["leaks"] == 4 and len(twins) == 4
    assert "4 pairs of images in two splits look alike (train: chip/" in caplog.text
    card = (tmp_path / "data/README.md").read_text()
    assert "4 pairs. Scores on the second split are flattered by them." in card and "| similar |" in card
    values = {"validation": 0.0, "test": 0.5, "group_similar": True}
    build("masks", data_dir=str(parts.parent), output_dir=str(tmp_path / "data"), **values)
    assert json.loads((tmp_path / "data/stage.json").read_text())["results"]["leaks"] == 0


def test_vision_and_mvtec_ad_say_their_licences(tmp_path):
    part = tmp_path / "VISION/Ring/train"
    part.mkdir(parents=True)
    Image.new("L", (24, 20)).save(part / "000000.jpg")
    annotation = {"id": 1, "image_id": 0, "category_id": 0, "segmentation": [[1, 1, 9, 1, 9, 9]]}
    content = {
        "images": [{"id": 0, "file_name": "000000.jpg", "width": 24, "height": 20}],
        "annotations": [annotation],
        "categories": [{"id": 0, "name": "burr"}],
    }
    (part / "_annotations.coco.json").write_text(json.dumps(content))
    build("vision", data_dir=str(tmp_path / "VISION"), output_dir=str(tmp_path / "vision"))
    front, body = split_front((tmp_path / "vision/README.md").read_text())
    assert front["license"] == "cc-by-nc-4.0" and "not redistributable" in body

    for folder in ("test/hole", "ground_truth/hole"):
        (tmp_path / "mvtec/grid" / folder).mkdir(parents=True)
    Image.new("L", (24, 20), 90).save(tmp_path / "mvtec/grid/test/hole/000.png")
    Image.new("L", (24, 20), 255).save(tmp_path / "mvtec/grid/ground_truth/hole/000_mask.png")
    build("mvtec_ad", data_dir=str(tmp_path / "mvtec"), output_dir=str(tmp_path / "ad"))
    front, body = split_front((tmp_path / "ad/README.md").read_text())
    assert front["license"] == "cc-by-nc-sa-4.0" and "| `test` | 1 |" in body
