"""VISION's layout with every trap it is known for, to exact boxes, areas and masks."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from datasets_builders.vision import ANNOTATIONS, Vision
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.masks import decode_mask, decode_rle

WIDTH, HEIGHT = 40, 30
SQUARE = [5, 6, 15, 6, 15, 16, 5, 16]
TRIANGLE = [20.0, 5.0, 33.5, 8.0, 22.0, 21.5]
OVER_THE_EDGE = [30, 20, 60, 20, 60, 45, 30, 45]


def run_lengths(mask: np.ndarray) -> list[int]:
    runs, value, length = [], False, 0
    for pixel in mask.T.reshape(-1):
        if bool(pixel) != value:
            runs.append(length)
            value, length = bool(pixel), 0
        length += 1
    return [*runs, length]


BLOB = np.zeros((HEIGHT, WIDTH), bool)
BLOB[3:9, 30:37] = True
BLOB[5, 25] = True
COMPRESSED = coco_mask.encode(np.asfortranarray(BLOB, np.uint8))["counts"].decode()


def coco(images: dict[str, list], **changes) -> dict:
    """A COCO file: segmentations by file name; every one is a 'scratch'."""
    names = list(images)
    annotations = [
        {"id": 100 + number, "image_id": names.index(name), "category_id": 1, "segmentation": segmentation}
        for number, (name, segmentation) in enumerate((name, item) for name, items in images.items() for item in items)
    ]
    content = {
        "images": [
            {"id": place, "file_name": name, "width": WIDTH, "height": HEIGHT} for place, name in enumerate(names)
        ],
        "annotations": annotations,
        "categories": [{"id": 0, "name": "cable"}, {"id": 1, "name": "scratch"}],
    }
    return content | changes


def write_part(folder: Path, images: dict[str, list], **changes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for place, name in enumerate(images):
        Image.new("RGB", (WIDTH, HEIGHT), (40 + place, 90, 120)).save(folder / name)
    (folder / ANNOTATIONS).write_text(json.dumps(coco(images, **changes)), encoding="utf-8")
    return folder


def build(root: Path, tmp_path: Path, **settings):
    builder = Vision(data_dir=str(root), cache_dir=str(tmp_path / "cache"), **{"validation": 0.0, **settings})
    builder.download_and_prepare()
    return builder, builder.as_dataset()


def expected(*segmentations) -> list[np.ndarray]:
    return [
        coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(item, HEIGHT, WIDTH))).astype(bool)
        for item in segmentations
    ]


def test_every_trap_at_once(tmp_path):
    root = tmp_path / "VISION größer"
    images = {
        "000000.jpg": [[SQUARE], [TRIANGLE, SQUARE]],
        "Prüfung 1.jpg": [json.dumps([TRIANGLE]), [[1, 2, 3, 4], OVER_THE_EDGE]],
        "000002.jpg": [
            {"size": [HEIGHT, WIDTH], "counts": COMPRESSED},
            {"size": [HEIGHT, WIDTH], "counts": run_lengths(BLOB)},
        ],
        "000003.jpg": [],
    }
    folder = write_part(root / "Cable" / "train", images)
    content = json.loads((folder / ANNOTATIONS).read_text())
    for annotation in content["annotations"]:
        annotation["image_id"] = json.dumps(annotation["image_id"])
    (folder / ANNOTATIONS).write_text(json.dumps(content))
    (folder / "._000000.jpg").write_bytes(b"\0\5\x16\7 AppleDouble")
    (folder / f"._{ANNOTATIONS}").write_bytes(b"\0\5\x16\7 AppleDouble")
    write_part(root / "Cable" / "val", {"000000.jpg": [[SQUARE]]})
    (root / "Cable" / "inference").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "Cable" / "inference" / "000009.jpg")

    builder, data = build(root, tmp_path)
    assert {name: len(rows) for name, rows in data.items()} == {"train": 3, "test": 1}
    rows = {row["image_id"]: row for row in data["train"]}
    truths = {
        "Cable/train/000000": expected([SQUARE], [TRIANGLE, SQUARE]),
        "Cable/train/Prüfung 1": expected([TRIANGLE], [OVER_THE_EDGE]),
        "Cable/train/000002": [BLOB, BLOB],
    }
    assert set(rows) == set(truths)
    for name, masks in truths.items():
        row = rows[name]
        assert np.array_equal(decode_mask(row["mask"]), np.logical_or.reduce(masks))
        for item, mask in zip(row["objects"], masks, strict=True):
            assert np.array_equal(decode_rle(item["rle"]), mask) and item["area"] == mask.sum()
            ys, xs = np.nonzero(mask)
            assert item["box"] == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            assert item["defect"] == "scratch"
    assert rows["Cable/train/000000"]["objects"][0]["area"] == 100
    assert [(remark.kind, remark.image) for remark in builder.remarks()] == [
        ("dropped", "Cable/train/Prüfung 1"),
        ("skipped", "Cable/train/000003"),
    ]


def add(tar: tarfile.TarFile, name: str, content: bytes = b"", **fields) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    for key, value in fields.items():
        setattr(entry, key, value)
    tar.addfile(entry, io.BytesIO(content))


@pytest.mark.parametrize("inside", ["Screw/train", "./Screw/train", "train"])
def test_archives_are_unpacked_once_and_folders_can_stand_beside(tmp_path, inside):
    root = tmp_path / "VISION"
    part = write_part(tmp_path / "made", {"000000.jpg": [[SQUARE]]})
    root.mkdir()
    with tarfile.open(root / "Screw.tar.gz", "w:gz") as tar:
        add(tar, f"{inside}/._000000.jpg", b"\0\5\x16\7")
        for path in part.iterdir():
            add(tar, f"{inside}/{path.name}", path.read_bytes())
    write_part(root / "Wood" / "train", {"000000.jpg": [[TRIANGLE]]})
    _, data = build(root, tmp_path, heldout_categories=["Wood"])
    assert data["train"]["image_id"] == ["Screw/train/000000"]
    assert data["heldout"]["image_id"] == ["Wood/train/000000"]
    (unpacked,) = (tmp_path / "cache" / "vision-unpacked").iterdir()
    assert sorted(path.name for path in unpacked.rglob("*") if path.is_file()) == ["000000.jpg", ANNOTATIONS]
    before = unpacked.stat().st_mtime_ns
    build(root, tmp_path, heldout_categories=["Wood"], seed=1)
    assert unpacked.stat().st_mtime_ns == before


def test_an_edited_annotation_is_never_served_stale(tmp_path):
    root = tmp_path / "VISION"
    part = write_part(root / "Ring" / "train", {"000000.jpg": [[SQUARE]]})
    _, before = build(root, tmp_path)
    text = (part / ANNOTATIONS).read_text().replace("[5, 6, 15, 6,", "[5, 5, 15, 5,")
    (part / ANNOTATIONS).write_text(text)
    _, after = build(root, tmp_path)
    assert before["train"][0]["objects"][0]["area"] == 100 and after["train"][0]["objects"][0]["area"] == 110


def test_own_division_and_validation_share(tmp_path):
    root = tmp_path / "VISION"
    write_part(root / "Lens" / "train", {f"{number:06d}.jpg": [[SQUARE]] for number in range(10)})
    write_part(root / "Lens" / "val", {f"{number:06d}.jpg": [[SQUARE]] for number in range(3)})
    _, data = build(root, tmp_path, validation=0.2)
    assert {name: len(rows) for name, rows in data.items()} == {"train": 8, "validation": 2, "test": 3}
    assert all(name.startswith("Lens/val/") for name in data["test"]["image_id"])
    with pytest.raises(UserError, match="categories: .* has no 'Lense'; it has Lens"):
        build(root, tmp_path, categories=["Lense"])


def broken(folder: Path, how: str) -> None:
    """Break the image or the annotation of 000001.jpg."""
    path = folder / ANNOTATIONS
    content = json.loads(path.read_text())
    entry = content["annotations"][1]
    if how == "outside":
        entry["segmentation"] = [[50, 5, 60, 5, 60, 9]]
    elif how == "odd":
        entry["segmentation"] = [[1, 2, 3, 4, 5, 6, 7]]
    elif how == "words":
        entry["segmentation"] = [["a", 2, 3, 4, 5, 6]]
    elif how == "no segmentation":
        entry["segmentation"] = None
    elif how == "RLE of another size":
        entry["segmentation"] = {"size": [3, 4], "counts": [12]}
    elif how == "RLE too long":
        entry["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": [1, 99999]}
    elif how == "RLE garbage":
        entry["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": "~~~ no code"}
    elif how == "RLE half":
        entry["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": COMPRESSED[:-1] + "h"}
    elif how == "only scraps":
        entry["segmentation"] = [[1, 2, 3, 4]]
    elif how == "unknown category id":
        entry["category_id"] = 7
    elif how == "unknown image id":
        entry["image_id"] = 77
    elif how == "twice":
        content["images"].append(dict(content["images"][1]))
    elif how == "no width":
        del content["images"][1]["width"]
    elif how == "leaves the root":
        content["images"][1]["file_name"] = "../../secret.jpg"
    elif how == "missing image":
        (folder / "000001.jpg").unlink()
    elif how == "other size":
        content["images"][1]["width"] = 41
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("outside", "000001.jpg: annotation 0 ('scratch'): the polygon lies outside the image (40x30)"),
        ("odd", "an odd number of coordinates (7)"),
        ("words", "a polygon holds something that is not a number"),
        ("no segmentation", "neither polygons nor a run-length code"),
        ("RLE of another size", "the run-length code is for [3, 4] (height, width), the image has [30, 40]"),
        ("RLE too long", "covers 100000 pixels, the image has 1200"),
        ("RLE garbage", "the run-length code is damaged"),
        ("RLE half", "the run-length code stops half-way"),
        ("only scraps", "none of its annotations covers a pixel"),
        ("unknown category id", "annotations[1] has the unknown category 7; add it to 'categories'"),
        ("unknown image id", "annotations[1] is for image 77, which the list of images lacks"),
        ("twice", "images[2] repeats id 1 or file 000001.jpg"),
        ("no width", "images[1] has no usable file_name, width and height"),
        ("leaves the root", "the file name '../../secret.jpg' leaves"),
        ("missing image", "000001.jpg: the image is missing, though _annotations.coco.json lists it"),
        ("other size", "has 40x30 pixels, its annotations are for 41x30"),
    ],
)
def test_each_bad_entry_stops_or_is_skipped_and_counted(tmp_path, how, words):
    root = tmp_path / "VISION"
    folder = write_part(root / "Casting" / "train", {"000000.jpg": [[SQUARE]], "000001.jpg": [[TRIANGLE]]})
    broken(folder, how)
    with pytest.raises(UserError) as caught:
        build(root, tmp_path)
    message = str(caught.value)
    assert words in message and str(folder) in message and "\n" not in message
    builder, data = build(root, tmp_path, on_error="skip")
    assert "Casting/train/000000" in data["train"]["image_id"]
    assert [remark.message for remark in builder.remarks() if words in remark.message and remark.kind == "skipped"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"images": [{"id": 0, "file_na', ":1: the JSON stops or breaks at column"),
        ('{"images": [], "categories": []}', "has no list 'annotations'"),
        ("[]", "has no list 'images'"),
        ('{"images": [], "annotations": [], "categories": []}', "the list of annotations is empty"),
    ],
)
def test_a_bad_annotation_file_costs_its_part_only(tmp_path, content, words):
    root = tmp_path / "VISION"
    write_part(root / "Groove" / "train", {"000000.jpg": [[SQUARE]]})
    bad = write_part(root / "Groove" / "val", {"000000.jpg": [[SQUARE]]}) / ANNOTATIONS
    bad.write_text(content)
    with pytest.raises(UserError) as caught:
        build(root, tmp_path)
    assert words in str(caught.value) and str(bad) in str(caught.value)
    builder, data = build(root, tmp_path, on_error="skip")
    assert list(data) == ["train"] and words in builder.remarks()[0].message


def test_an_unknown_product_is_named(tmp_path):
    write_part(tmp_path / "VISION" / "Cabel" / "train", {"000000.jpg": [[SQUARE]]})
    with pytest.raises(UserError, match="unknown category 'Cabel'; VISION's are Cable, Capacitor"):
        build(tmp_path / "VISION", tmp_path)
    with pytest.raises(UserError, match="no image to build from"):
        build(tmp_path / "VISION", tmp_path, on_error="skip")
