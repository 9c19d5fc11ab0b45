"""`visionsam distil` on a folder of photographs, on a data set, and on what it cannot use."""

import json

import numpy as np
import pytest
from conftest import photograph, segmentation_rows
from PIL import Image
from transformers import SamModel

from visionsam_hf.cli.command_line import main, parse_stage
from visionsam_hf.cli.distil import images_to_learn_from
from visionsam_hf.data.dataset_directory import write_splits
from visionsam_hf.data.schema import segmentation_features

SMALL = "{image_size: 32, patch_size: 8, hidden_size: 16, num_attention_heads: 2, num_hidden_layers: 1}"


def distil(dataset, model_dir, tmp_path, *more):
    words = ["--model_name_or_path", model_dir, "--dataset", dataset, "--output_dir", tmp_path / "student"]
    words += ["--embeddings", tmp_path / "cache", "--vision_config", SMALL, "--max_steps", 2, "--use_cpu", "true"]
    return ["distil", *map(str, (*words, *more))]


@pytest.fixture
def photographs(tmp_path):
    """Ten, one of them on its side, in a folder of folders; and a file that is none."""
    for number in range(10):
        path = tmp_path / "photos" / f"line {number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 6 if number == 3 else 1
        photograph(np.zeros((40, 64), bool), number).save(path, exif=exif)
    (tmp_path / "photos" / "notes.txt").write_text("none")
    return tmp_path / "photos"


def test_a_folder_of_photographs_becomes_a_plain_sam(photographs, model_dir, tmp_path, capsys):
    assert main(distil(photographs, model_dir, tmp_path, "--eval_share", "0.2", "--crops", "2")) == 0
    told = capsys.readouterr().out
    assert "distil: 2 steps on 24 samples; cosine to the teacher on new images" in told and "(6 samples)" in told
    student = SamModel.from_pretrained(tmp_path / "student")
    assert student.config.vision_config.image_size == 32
    results = json.loads((tmp_path / "student" / "stage.json").read_text())["results"]
    assert results["validation"]["cosine_after"] == results["evaluation"]["eval_cosine"]
    card = (tmp_path / "student" / "README.md").read_text()
    assert "Small SAM, distilled from a larger one" in card and "`hidden_size': 16" not in card.split("<details>")[0]


def test_photographs_are_upright_and_those_to_measure_on_are_not_learnt_from(photographs, model_dir, tmp_path):
    settings = parse_stage("distil", distil(photographs, model_dir, tmp_path, "--eval_share", "0.3")[1:])
    train, held = images_to_learn_from(settings)
    assert len(train) == 7 and sorted([*train["image_id"], *held["image_id"]]) == [str(number) for number in range(10)]
    sizes = {row["image_id"]: row["image"].size for rows in (train, held) for row in rows}
    assert sizes.pop("3") == (40, 64) and set(sizes.values()) == {(64, 40)}


def test_a_data_sets_labels_are_not_read(model_dir, tmp_path):
    rows = segmentation_rows()
    write_splits(tmp_path / "data", {"train": rows, "test": rows[:2]}, segmentation_features(["bolt", "plate"]), card="")
    words = distil(tmp_path / "data", model_dir, tmp_path, "--eval_split", "test", "--max_train_images", 4)
    train, held = images_to_learn_from(parse_stage("distil", words[1:]))
    assert (len(train), len(held), train.column_names) == (4, 2, ["image", "image_id"])


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--eval_split", "test"], "photos is a folder of photographs, which has no splits; set eval_share instead"),
        (["--eval_share", "1"], "has 10 images; give more, or a lower eval_share"),
        (["--dataset", "{folder}/empty"], "holds no photographs"),
        (["--student", "nowhere/at/all", "--vision_config", "{}"], "nowhere/at/all: no such"),
        (["--embeddings", "null"], "embeddings: name the directory"),
        (["--vision_config", "{depth: 3}"], "'depth' is no field of SamVisionConfig"),
    ],
)
def test_what_it_cannot_use_is_one_line(photographs, model_dir, tmp_path, capsys, more, told):
    (photographs.parent / "empty").mkdir()
    more = [word.format(folder=photographs.parent) if "folder" in word else word for word in more]
    assert main(distil(photographs, model_dir, tmp_path, *more)) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("visionsam: ") and told in message
    assert not (tmp_path / "student").exists()
