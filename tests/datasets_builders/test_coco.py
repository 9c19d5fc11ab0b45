"""COCO files in, as annotation tools really export them; and predict's own back again."""

import json

import numpy as np
import pytest
from conftest import disc, photograph
from PIL import Image
from pycocotools import mask as coco_mask

from datasets_builders.coco_folder import CocoFolder
from visionsam_hf.cli.command_line import main
from visionsam_hf.data.dataset_directory import load_split
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.masks import decode_mask, decode_rle, encode_rle

SQUARE = [10.0, 10.0, 30.0, 10.0, 30.0, 20.0, 10.0, 20.0]


def image(path, width=64, height=48, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    photograph(disc(height, width, 20, 15, 6), seed).save(path)


def coco(path, names, segmentation=None, *, first_id=1, category_id=1, **annotation):
    """A COCO file with one annotation an image."""
    entries = [
        {"id": first_id + place, "file_name": name, "width": 64, "height": 48} for place, name in enumerate(names)
    ]
    annotations = [
        {"id": place, "image_id": entry["id"], "category_id": category_id, "segmentation": segmentation or [SQUARE]}
        | annotation
        for place, entry in enumerate(entries)
    ]
    content = {"images": entries, "annotations": annotations, "categories": [{"id": category_id, "name": "scratch"}]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def build(root, tmp_path, **settings):
    builder = CocoFolder(data_dir=str(root), cache_dir=str(tmp_path / "cache"), **settings)
    builder.download_and_prepare()
    return builder, builder.as_dataset()


def all_train(root, tmp_path, **settings):
    builder, data = build(root, tmp_path, **{"validation": 0.0, "test": 0.0} | settings)
    return builder, list(data["train"])


def test_polygons_several_an_object_and_run_length_codes(tmp_path):
    mask = disc(48, 64, 30, 20, 9)
    compressed = encode_rle(mask)
    runs = coco_mask.decode({"size": compressed["size"], "counts": compressed["counts"].encode()}).ravel(order="F")
    edges = np.flatnonzero(np.diff(runs)) + 1
    uncompressed = {"size": [48, 64], "counts": np.diff([0, *edges, len(runs)]).tolist()}
    two = [SQUARE, [40.0, 30.0, 50.0, 30.0, 50.0, 40.0, 40.0, 40.0]]
    kinds = {"poly": [SQUARE], "two": two, "rle": compressed, "runs": uncompressed}
    for name, segmentation in kinds.items():
        image(tmp_path / "root" / f"{name}.png")
        coco(tmp_path / "root" / f"{name}.json", [f"{name}.png"], segmentation, iscrowd=int(name == "runs"))
    _, rows = all_train(tmp_path / "root", tmp_path)
    found = {row["image_id"]: row for row in rows}
    assert [len(row["objects"]) for row in rows] == [1, 1, 1, 1]
    for name in ("rle", "runs"):
        np.testing.assert_array_equal(decode_rle(found[name]["objects"][0]["rle"]), mask)
    assert (found["poly"]["objects"][0]["area"], found["two"]["objects"][0]["area"]) == (200, 300)
    assert found["two"]["objects"][0]["defect"] == "scratch" and decode_mask(found["two"]["mask"]).sum() == 300


def test_a_run_length_code_may_begin_like_a_list(tmp_path):
    mask = np.zeros((48, 64), bool)
    mask[43:46, :5] = True
    code = encode_rle(mask)
    assert code["counts"].startswith("[")
    image(tmp_path / "root" / "a.png")
    coco(tmp_path / "root" / "a.json", ["a.png"], code)
    _, rows = all_train(tmp_path / "root", tmp_path)
    np.testing.assert_array_equal(decode_rle(rows[0]["objects"][0]["rle"]), mask)


LABEL_STUDIO = [
    "images\\cb0618f6-part_1.png",  # Windows
    "..\\..\\label-studio\\media\\upload\\4\\cb0618f6-part_1.png",  # 1.16, with images
    "/data/upload/1/cb0618f6-part_1.png",
    "images/cb0618f6-part_1.png",
    "/data/local-files/?d=line%203/part_1.png",
    "https://cdn.example.org/line%203/part_1.png?X-Token=abc",
]


@pytest.mark.parametrize("name", LABEL_STUDIO)
@pytest.mark.parametrize("stored", ["images/cb0618f6-part_1.png", "line 3/part_1.png"])
def test_label_studios_names(tmp_path, name, stored):
    """Its own export with images, and the photographs as they lay before the upload; ids count from 0."""
    image(tmp_path / "root" / stored)
    if stored.startswith("images") and "cb0618f6" not in name:
        pytest.skip("no upload, no hash")
    coco(tmp_path / "root" / "result.json", [name], first_id=0, category_id=0, ignore=0, iscrowd=0, area=200)
    _, rows = all_train(tmp_path / "root", tmp_path)
    assert [row["image_id"] for row in rows] == [stored.removesuffix(".png")]


def test_cvats_export(tmp_path):
    """`annotations/instances_Train.json` beside `images/Train/`; a box has an empty segmentation, no file says iscrowd."""
    root = tmp_path / "root"
    for split in ("Train", "Validation", "Test"):
        names = [f"frame_{number:06d}.png" for number in range(3)]
        for number, name in enumerate(names):
            image(root / "images" / split / name, seed=number)
        path = coco(root / "annotations" / f"instances_{split}.json", names, attributes={"occluded": False})
        content = json.loads(path.read_text()) | {"licenses": [{"name": "", "id": 0, "url": ""}], "info": {"year": ""}}
        content["annotations"].append(
            {"id": 99, "image_id": 1, "category_id": 1, "segmentation": [], "bbox": [1, 1, 5, 5], "attributes": {}}
        )
        path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="'frame_000000.png' could be images/Test/frame_000000.png and images/Train"):
        build(root, tmp_path)
    for split in ("Train", "Validation", "Test"):
        path = root / "annotations" / f"instances_{split}.json"
        path.write_text(path.read_text().replace("frame_", f"{split}/frame_"))
    builder, data = build(root, tmp_path)
    assert {split: len(rows) for split, rows in data.items()} == {"train": 3, "validation": 3, "test": 3}
    assert sum(remark.message == "an annotation without a mask (a box alone)" for remark in builder.remarks()) == 3


def test_a_file_beside_its_images_means_those(tmp_path):
    """Roboflow: every split has a folder, and names may be the same."""
    for split in ("train", "valid"):
        image(tmp_path / "root" / split / "a.png")
        coco(tmp_path / "root" / split / "_annotations.coco.json", ["a.png"])
    _, data = build(tmp_path / "root", tmp_path, test=0.0)
    assert {split: rows["image_id"][0] for split, rows in data.items()} == {"train": "train/a", "validation": "valid/a"}


def test_one_file_is_divided_and_the_category_is_the_class(tmp_path):
    names = [f"{number}.png" for number in range(10)]
    for number, name in enumerate(names):
        image(tmp_path / "root" / name, seed=number)
    coco(tmp_path / "root" / "all.json", names)
    _, data = build(tmp_path / "root", tmp_path)
    assert {split: len(rows) for split, rows in data.items()} == {"train": 7, "validation": 1, "test": 2}
    assert data["train"].features["category"].names == ["scratch"]


@pytest.mark.parametrize(
    ("name", "segmentation", "words"),
    [
        ("lost.png", None, "no image 'lost.png' anywhere below"),
        ("a.png", [[1.0, 2.0, 3.0, 4.0, 5.0]], "none of its annotations is a mask"),
        ("a.png", [["x"] * 6], "annotation 0 ('scratch'): a polygon holds something that is not a number"),
        ("../../a.png", None, None),
    ],
)
def test_what_cannot_be_used_is_one_line(tmp_path, name, segmentation, words):
    image(tmp_path / "root" / "a.png")
    coco(tmp_path / "root" / "x.json", [name], segmentation)
    if words is None:
        assert len(all_train(tmp_path / "root", tmp_path)[1]) == 1
        return
    with pytest.raises(UserError) as caught:
        all_train(tmp_path / "root", tmp_path)
    assert words in str(caught.value) and "x.json" in str(caught.value)


def test_what_predict_writes_builds_again_without_loss(tmp_path, model_dir):
    photos, prompts = tmp_path / "photos", tmp_path / "prompts.jsonl"
    lines = []
    for number in range(3):
        image(photos / f"line {number}" / "a.png", seed=number)
        for box in ([8, 8, 30, 30], [20, 10, 60, 40]):
            lines.append({"image": f"line {number}/a.png", "box": box, "category": f"kind {number}"})
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["predict", "--model", model_dir, "--image", photos, "--prompts", prompts, "--output", tmp_path / "out"]
    assert main([str(word) for word in words]) == 0
    words = ["--data_dir", photos, "--annotations", tmp_path / "out" / "coco.json", "--output_dir", tmp_path / "data"]
    words += ["--validation", 0, "--test", 0]
    assert main(["build", "coco", *map(str, words)]) == 0
    predicted = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    rows = {row["image_id"]: row for row in load_split(tmp_path / "data", "train", kind="segmentation")}
    for name in {line["image"] for line in predicted}:
        wanted = [line for line in predicted if line["image"] == name and line["area"]]
        objects = rows[name.removesuffix(".png")]["objects"]
        assert [(item["defect"], item["area"]) for item in objects] == [(one["category"], one["area"]) for one in wanted]
        for item, one in zip(objects, wanted, strict=True):
            np.testing.assert_array_equal(decode_rle(item["rle"]), np.asarray(Image.open(tmp_path / "out" / one["mask"])))
    assert {row["source"] for row in rows.values()} == {f"photos (predicted by {model_dir.name})"}
    card = (tmp_path / "data" / "README.md").read_text()
    count = sum(1 for line in predicted if line["area"])
    assert f"{count} masks predicted by a model, not drawn" in card and "machine-generated" in card


def test_unsure_predictions_are_no_labels(tmp_path):
    """One unsure mask makes a photograph useless: what else it shows, nobody knows. Drawn masks have no score."""
    for name, score in (("sure.png", 0.9), ("unsure.png", 0.7), ("drawn.png", None)):
        image(tmp_path / "root" / name)
        given = {} if score is None else {"score": score}
        listing = coco(tmp_path / "root" / f"{name}.json", [name], **given)
        content = json.loads(listing.read_text())
        content["annotations"].append(content["annotations"][0] | {"id": 7} | ({"score": 0.95} if given else {}))
        listing.write_text(json.dumps(content | {"info": {"model": "sft"}}))
    builder, rows = all_train(tmp_path / "root", tmp_path, min_score=0.8)
    assert {row["image_id"]: row["source"] for row in rows} == {"sure": "root (predicted by sft)", "drawn": "root"}
    told = {(remark.kind, remark.image, remark.count) for remark in builder.remarks()}
    assert told == {("predicted", "sure", 2), ("skipped", "unsure.png", 1)}
