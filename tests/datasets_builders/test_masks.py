"""A folder of images and masks, in its three layouts, to exact boxes, areas and splits."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets_builders.mask_folder import JPEG_MASK, MOSTLY_WHITE, MaskFolder
from datasets_builders.photographs import mask_objects
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.masks import decode_mask, decode_rle


def save_image(path: Path, *, size: tuple[int, int] = (20, 16), value: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def save_mask(path: Path, *boxes: tuple[int, int, int, int], size: tuple[int, int] = (20, 16)) -> None:
    """White rectangles [x1, y1, x2, y2) on black."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros(size[::-1], np.uint8)
    for x1, y1, x2, y2 in boxes:
        pixels[y1:y2, x1:x2] = 255
    Image.fromarray(pixels).save(path)


def side_by_side(root: Path) -> Path:
    for name in "ab":
        save_image(root / "scratch" / "Imgs" / f"{name}.jpg")
        save_mask(root / "scratch" / "Imgs" / f"{name}.png", (2, 3, 7, 6), (10, 10, 14, 15))
    save_image(root / "good" / "c.jpg")
    save_mask(root / "good" / "c.png")
    return root


def two_folders(root: Path) -> Path:
    for name in ("schöner Kratzer 1", "b"):
        save_image(root / "images" / "scratch" / f"{name}.png")
    save_mask(root / "masks" / "scratch" / "schöner Kratzer 1.png", (2, 3, 7, 6), (10, 10, 14, 15))
    save_mask(root / "masks" / "scratch" / "b_mask.png", (2, 3, 7, 6), (10, 10, 14, 15))
    save_image(root / "images" / "good" / "c.jpg")
    save_mask(root / "masks" / "good" / "c.png")
    return root


def listed(root: Path) -> Path:
    lines = []
    for name in "ab":
        save_image(root / "photos" / f"{name}.jpg")
        save_mask(root / "annotations" / f"{name}-truth.png", (2, 3, 7, 6), (10, 10, 14, 15))
        lines.append(
            {
                "image_file_name": f"photos/{name}.jpg",
                "mask_file_name": f"annotations/{name}-truth.png",
                "category": "scratch",
            }
        )
    save_image(root / "c.jpg")
    lines.append({"file_name": "c.jpg", "mask_file_name": None, "category": "good"})
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return root


def build(root: Path, cache: Path, *, num_proc: int = 1, **settings):
    settings = {"validation": 0.0, "test": 0.0, **settings}
    builder = MaskFolder(data_dir=str(root), cache_dir=str(cache), **settings)
    builder.download_and_prepare(num_proc=num_proc)
    return builder, builder.as_dataset()


@pytest.mark.parametrize("layout", [side_by_side, two_folders, listed])
def test_each_layout_gives_the_same_rows(tmp_path, layout):
    _, data = build(layout(tmp_path / "parts"), tmp_path / "cache")
    assert len(data["train"]) == 3
    names = data["train"].features["category"].names
    assert names == ["good", "scratch"]
    for row in data["train"]:
        if names[row["category"]] == "good":
            assert not row["defective"] and row["objects"] == [] and not decode_mask(row["mask"]).any()
            continue
        assert row["defective"] and row["source"] == "parts"
        assert [(item["box"], item["area"], item["defect"]) for item in row["objects"]] == [
            ([2, 3, 7, 6], 15, "scratch"),
            ([10, 10, 14, 15], 20, "scratch"),
        ]
        union = np.logical_or(*(decode_rle(item["rle"]) for item in row["objects"]))
        assert np.array_equal(union, decode_mask(row["mask"]))
        assert union.sum() == 35


def test_streaming_gives_the_prepared_rows(tmp_path):
    builder, data = build(side_by_side(tmp_path / "parts"), tmp_path / "cache", num_proc=2)
    streamed = list(builder.as_streaming_dataset("train"))
    assert [row["image_id"] for row in streamed] == data["train"]["image_id"]
    assert [row["objects"] for row in streamed] == list(data["train"]["objects"])


def test_settings_of_objects(tmp_path):
    root = side_by_side(tmp_path / "parts")
    _, whole = build(root, tmp_path / "cache", objects="image")
    assert [item["area"] for row in whole["train"] for item in row["objects"]] == [35, 35]
    builder, one = build(root, tmp_path / "cache", max_objects=1, keep_good=False)
    assert [[item["area"] for item in row["objects"]] for row in one["train"]] == [[20], [20]]
    assert decode_mask(one["train"][0]["mask"]).sum() == 20
    assert sum(remark.count for remark in builder.remarks() if remark.kind == "dropped") == 2
    assert [remark.image for remark in builder.remarks() if remark.kind == "skipped"] == ["good/c"]


def test_regions_touching_by_a_corner_are_one_and_small_ones_go():
    mask = np.zeros((6, 8), bool)
    mask[0, 0] = mask[1, 1] = True
    mask[4:6, 4:8] = True
    mask[0, 7] = True
    rows, union, dropped = mask_objects(mask, "x", objects="components", min_area=2, max_objects=9)
    assert [row["area"] for row in rows] == [2, 8] and dropped == 1 and union.sum() == 10
    rows, union, dropped = mask_objects(mask, "x", objects="components", min_area=0, max_objects=1)
    assert [row["box"] for row in rows] == [[4, 4, 8, 6]] and dropped == 2 and union.sum() == 8


def test_held_out_class_and_pieces_never_cross(tmp_path):
    root = tmp_path / "parts"
    for number in range(30):
        folder = root / ("crack" if number % 3 else "hole")
        for view in "xy":
            save_image(folder / f"exp{view}_num_{number // 2}.jpg")
            save_mask(folder / f"exp{view}_num_{number // 2}.png", (1, 1, 6, 6))
    builder, data = build(
        root, tmp_path / "cache", heldout_categories=["hole"], test=0.3, validation=0.2, group_pattern=r"num_(\d+)"
    )
    pieces = {split: {name.split("num_")[1] for name in rows["image_id"]} for split, rows in data.items()}
    assert set(pieces) == {"train", "validation", "test", "heldout"}
    for one in pieces:
        for other in pieces:
            assert one == other or not pieces[one] & pieces[other]
    assert {name.split("/")[0] for name in data["heldout"]["image_id"]} == {"hole"}
    left_out = [remark for remark in builder.remarks() if "same piece" in remark.message]
    assert sum(map(len, data.values())) + len(left_out) == 50


def test_an_edited_mask_is_never_served_stale(tmp_path):
    root = side_by_side(tmp_path / "parts")
    _, before = build(root, tmp_path / "cache")
    again, _ = build(root, tmp_path / "cache")
    mask = root / "scratch/Imgs/a.png"
    times = mask.stat()
    save_mask(mask, (0, 0, 5, 5))
    os.utime(mask, ns=(times.st_atime_ns, times.st_mtime_ns))
    builder, after = build(root, tmp_path / "cache")
    assert builder.cache_dir != again.cache_dir
    rows = {row["image_id"]: row for row in after["train"]}
    assert [item["area"] for item in rows["scratch/Imgs/a"]["objects"]] == [25]


def test_wrong_settings_are_named(tmp_path):
    root = side_by_side(tmp_path / "parts")
    for settings, words in [
        ({"group_pattern": "num_("}, "group_pattern: not a regular expression"),
        ({"group_pattern": "num_"}, "has no group"),
        ({"objects": "blobs"}, "objects: 'blobs' is not a choice"),
        ({"on_error": "ignore"}, "on_error: 'ignore' is not a choice"),
        ({"heldout_categories": ["crack"]}, "no image of category 'crack'; the categories are: good, scratch"),
        ({"heldout_categories": ["good", "scratch"]}, "every category is held out"),
        ({"test": 0.8, "validation": 0.3}, "are not shares of the images"),
    ]:
        with pytest.raises(UserError, match=".*") as caught:
            build(root, tmp_path / "cache", **settings)
        assert words in str(caught.value)
    with pytest.raises(UserError, match="no such folder; set data_dir"):
        build(tmp_path / "nowhere", tmp_path / "cache")
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match="no image to build from"):
        build(tmp_path / "bare", tmp_path / "cache")


def test_one_piece_taken_again_stays_in_one_split(tmp_path):
    rng = np.random.default_rng(0)
    root = tmp_path / "parts"
    for piece in range(12):
        surface = np.kron(rng.integers(60, 160, (8, 10)), np.ones((6, 6)))
        for exposure in range(3):
            path = root / "chip" / f"{piece}-{exposure}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((surface * (1 + 0.2 * exposure)).astype(np.uint8)).save(path, quality=95)
            save_mask(path.with_suffix(".png"), (2, 2, 9, 9), size=(60, 48))
    _, apart = build(root, tmp_path / "cache", test=0.5)
    _, together = build(root, tmp_path / "cache", test=0.5, group_similar=True)
    _, both = build(root, tmp_path / "cache", test=0.5, group_similar=True, group_pattern=r"^(\d)\d?-")

    def shared(data, digits=None):
        pieces = [{name.split("/")[1].split("-")[0][:digits] for name in data[split]["image_id"]} for split in data]
        return pieces[0] & pieces[1]

    assert shared(apart) and not shared(together) and not shared(both, digits=1)
    assert len(together["train"]) == len(together["test"]) == 18


def test_inverted_and_jpeg_masks_are_remarked_and_can_be_inverted(tmp_path):
    root = tmp_path / "root"
    for name, suffix in (("a", "png"), ("b", "jpg")):
        save_image(root / "images" / f"{name}.png")
        save_mask(root / "masks" / f"{name}.{suffix}", (0, 0, 20, 12))
    builder, data = build(root, tmp_path / "cache")
    messages = [(remark.image, remark.message) for remark in builder.remarks() if remark.kind == "warned"]
    assert messages == [("a", MOSTLY_WHITE), ("b", MOSTLY_WHITE), ("b", JPEG_MASK)]
    builder, data = build(root, tmp_path / "cache", invert_masks=True)
    assert decode_mask(data["train"][0]["mask"]).sum() == 20 * 4
    assert [remark.message for remark in builder.remarks() if remark.kind == "warned"] == [JPEG_MASK]
