import json
from pathlib import Path

import numpy as np
import pytest
from closeness import assert_same_masks
from conftest import disc, initialise, photograph, tiny_config, tiny_processor
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from visionsam_hf.cli import command_line as cli
from visionsam_hf.cli.predict import PredictSettings, run
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.settings import build_settings
from visionsam_hf.models.loading import save_model

SHAPES = {"a.png": (48, 64), "b.jpg": (60, 80), "line/c.png": (64, 64), "a.jpg": (50, 50)}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("predict")
    save_model(initialise(tiny_config(), seed=0), tiny_processor(), root / "model")
    (root / "photos" / "line").mkdir(parents=True)
    for name, (height, width) in SHAPES.items():
        photograph(disc(height, width, 30, 24, 9), 0).save(root / "photos" / name)
    return {"model": str(root / "model"), "image": str(root / "photos")}


def predict(inputs, output, capsys=None, **values):
    run(build_settings(PredictSettings, {**inputs, "output": str(output), **values}))
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1]) if capsys else None


def lines(output):
    return [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]


def coco_file(path, boxes):
    images = [
        {"id": 70 + number, "file_name": name, "width": SHAPES[name][1], "height": SHAPES[name][0]}
        for number, name in enumerate(SHAPES)
    ]
    annotations = [
        {"id": number, "image_id": 70 + list(SHAPES).index(name), "category_id": category, "bbox": box}
        for number, (name, category, box) in enumerate(boxes)
    ]
    categories = [{"id": 3, "name": "scratch"}, {"id": 9, "name": "dent"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return str(path)


def test_a_list_of_prompts(inputs, tmp_path, capsys):
    asked = [
        {"image": "b.jpg", "box": [20, 10, 50, 40]},
        {"image": "a.png", "point": [30, 24], "category": "scratch"},
        {"image": "b.jpg", "point": [5, 5], "category": "scratch"},
        {"image": "line/c.png", "box": [0, 0, 64, 64]},
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, asked)) + "\n\n")
    answer = predict(inputs, tmp_path / "out", capsys, prompts=str(tmp_path / "list.jsonl"))
    found = lines(tmp_path / "out")
    assert [(line["image"], line["prompt"]) for line in found] == [
        ("b.jpg", {"box": [20, 10, 50, 40]}), ("b.jpg", {"point": [5, 5]}), ("a.png", {"point": [30, 24]}),
        ("line/c.png", {"box": [0, 0, 64, 64]}),
    ]  # fmt: skip
    for line in found:
        mask = np.asarray(Image.open(tmp_path / "out" / line["mask"]).convert("L")) > 0
        assert mask.shape == SHAPES[line["image"]] and mask.sum() == line["area"]
    assert (answer["images"], answer["masks"] + answer["empty"]) == (3, 4)
    assert sorted(path.name for path in (tmp_path / "out" / "overlays").rglob("*.jpg")) == ["a.jpg", "b.jpg", "c.jpg"]


def test_a_coco_file_comes_back_with_masks(inputs, tmp_path, capsys):
    boxes = [("a.png", 9, [20, 14, 21, 21]), ("a.png", 3, [2, 2, 30, 30]), ("line/c.png", 3, [10.5, 10, 40, 40])]
    predict(inputs, tmp_path / "out", capsys, prompts=coco_file(tmp_path / "boxes.json", boxes))
    found, kept = lines(tmp_path / "out"), [line for line in lines(tmp_path / "out") if line["area"]]
    assert [line["category"] for line in found] == ["dent", "scratch", "scratch"]
    assert [line["prompt"]["box"] for line in found] == [[20, 14, 41, 35], [2, 2, 32, 32], [10.5, 10, 50.5, 50]]
    coco = COCO(str(tmp_path / "out" / "coco.json"))  # what annotation tools read it with
    capsys.readouterr()
    assert kept and len(coco.anns) == len(kept)
    assert set(coco.imgs) == {70, 72}
    assert {entry["name"]: entry["id"] for entry in coco.cats.values()} == {"scratch": 3, "dent": 9}
    for annotation, line in zip(coco.anns.values(), kept):
        mask = coco.annToMask(annotation).astype(bool)
        assert np.array_equal(mask, np.asarray(Image.open(tmp_path / "out" / line["mask"]).convert("L")) > 0)
        assert coco_mask.toBbox(annotation["segmentation"]).tolist() == annotation["bbox"]
        assert annotation["area"] == mask.sum() and annotation["score"] == line["score"]


def test_many_prompts_give_what_each_gives_alone(inputs, tmp_path, capsys):
    boxes = [(1.0 + index, 2.0, 30.0 + index, 40.0) for index in range(20)]
    (tmp_path / "list.jsonl").write_text("\n".join(json.dumps({"image": "b.jpg", "box": box}) for box in boxes))
    predict(inputs, tmp_path / "out", capsys, prompts=str(tmp_path / "list.jsonl"))
    alone = {**inputs, "image": inputs["image"] + "/b.jpg"}
    for place in (0, 19):
        predict(alone, tmp_path / "one", capsys, box=list(boxes[place]))
        several = Image.open(tmp_path / "out" / lines(tmp_path / "out")[place]["mask"])
        assert_same_masks(several, Image.open(tmp_path / "one" / "mask.png"))
    assert json.loads((tmp_path / "one" / "coco.json").read_text())["images"][0]["file_name"] == "b.jpg"


def test_one_box_for_a_folder_and_names_that_collide(inputs, tmp_path, capsys):
    answer = predict(inputs, tmp_path / "out", capsys, box=[10, 10, 40, 40])
    found = lines(tmp_path / "out")
    assert answer["images"] == 4 and [line["image"] for line in found] == ["a.jpg", "a.png", "b.jpg", "line/c.png"]
    masks = {line["mask"] for line in found}
    assert len(masks) == 4 and all((tmp_path / "out" / mask).is_file() for mask in masks)


def test_without_a_prompt_masks_are_generated_and_it_says_so(inputs, tmp_path, capsys):
    loose = {"no_box": True, "points_per_side": 4, "min_score": -100.0, "min_stability": 0.0}
    run(build_settings(PredictSettings, {**inputs, "output": str(tmp_path / "out"), **loose}))
    printed = capsys.readouterr()
    assert "automatic mask generation (4 x 4 points)" in printed.err
    found = lines(tmp_path / "out")
    assert found and all(line["prompt"] == {"everything": True} and line["area"] for line in found)
    for name in SHAPES:
        scores = [line["score"] for line in found if line["image"] == name]
        assert scores == sorted(scores, reverse=True)
    strict = {**inputs, "image": inputs["image"] + "/a.png", "output": str(tmp_path / "strict"), "min_score": 1e9}
    run(build_settings(PredictSettings, strict | {"no_box": True}))
    assert "lower --min_score" in capsys.readouterr().err and lines(tmp_path / "strict") == []


def test_a_photograph_on_its_side_is_turned_upright(inputs, tmp_path, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 48), 90).save(tmp_path / "side.jpg", exif=exif)
    predict({**inputs, "image": str(tmp_path / "side.jpg")}, tmp_path / "out", capsys, box=[5, 5, 40, 60])
    assert Image.open(tmp_path / "out" / "mask.png").size == (48, 64)


def test_earlier_predictions_are_replaced_and_other_files_are_not(inputs, tmp_path, capsys):
    single = {**inputs, "image": inputs["image"] + "/a.png"}
    predict(inputs, tmp_path / "out", capsys, box=[10, 10, 40, 40])
    predict(single, tmp_path / "out", capsys, point=[5, 5])
    assert not (tmp_path / "out" / "masks").exists() and (tmp_path / "out" / "candidate_3.png").is_file()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="predict did not write"):
        predict(single, tmp_path / "mine", point=[5, 5])
    assert (tmp_path / "mine" / "thesis.txt").is_file()


LINE = '{"image": "a.png", "box": [1, 2, 9, 9]}\n'


@pytest.mark.parametrize(
    "text, words",
    [
        (LINE + "{", ":2: is not JSON"),
        (LINE + '{"image": "a.png"}', ":2: give one prompt"),
        ('{"image": "a.png", "box": [1, 2, 3]}', "4 numbers"),
        ('{"image": "a.png", "box": [1, 2, 3, 4], "colour": 1}', "must be an object"),
        ('{"image": "no.png", "box": [1, 2, 3, 4]}', "no image 'no.png'"),
        ('{"image": "../a.png", "box": [1, 2, 3, 4]}', "leaves"),
        (LINE + '{"image": "b.jpg", "box": [1, 2, 81, 4]}', "inside the 80 x 60 image"),
        ('{"image": "a.png", "point": [64, 1]}', "outside the 64 x 48 image"),
        ("", "asks for nothing"),
    ],
)
def test_mistakes_in_a_list_are_named_and_nothing_is_written(inputs, tmp_path, text, words):
    (tmp_path / "list.jsonl").write_text(text)
    with pytest.raises(UserError, match=words):
        predict(inputs, tmp_path / "out", prompts=str(tmp_path / "list.jsonl"))
    assert [path.name for path in tmp_path.iterdir()] == ["list.jsonl"]


def test_other_mistakes(inputs, tmp_path, capsys):
    for values, words in (
        ({"box": [1, 2, 3, 4], "no_box": True}, "one prompt"),
        ({"prompts": "none.jsonl"}, "none.jsonl: no such file"),
        ({"image": str(tmp_path), "no_box": True}, "holds no images"),
        ({"prompts": coco_file(tmp_path / "x.json", [("a.png", 5, [1, 1, 5, 5])])}, "no COCO file"),
    ):
        with pytest.raises(UserError, match=words):
            predict({**inputs}, tmp_path / "out", **values)
    file = str(Path(inputs["model"]) / "config.json")
    code = cli.main(["predict", "--model", inputs["model"], "--image", inputs["image"], "--no-box", "--output", file])
    assert code == 2 and "is a file" in capsys.readouterr().err
