"""What can be wrong with a folder of images and masks: it stops with one line, or skips and counts."""

import json

import numpy as np
import pytest
from huge_png import huge_png
from PIL import Image

from datasets_builders.mask_folder import MaskFolder
from visionsam_hf.data.errors import UserError

BOMB = huge_png(20_000, 15_000)


def good_pair(folder, name, mask_folder=None):
    for path in (folder, mask_folder or folder):
        path.mkdir(parents=True, exist_ok=True)
    Image.new("L", (24, 16), 99).save(folder / f"{name}.jpg")
    mask = np.zeros((16, 24), np.uint8)
    mask[2:8, 3:9] = 255
    Image.fromarray(mask).save((mask_folder or folder) / f"{name}.png")


def build(root, tmp_path, num_proc=1, **settings):
    builder = MaskFolder(data_dir=str(root), cache_dir=str(tmp_path / "cache"), validation=0.0, test=0.0, **settings)
    builder.download_and_prepare(num_proc=num_proc)
    return builder, builder.as_dataset("train")


def check(root, tmp_path, words, *, left=1):
    """Stops with the words; skipping keeps `left` images and counts the rest, on two processes too."""
    with pytest.raises(UserError) as caught:
        build(root, tmp_path)
    message = str(caught.value)
    assert words in message and str(root) in message and "\n" not in message
    for num_proc in (1, 2):
        builder, data = build(root, tmp_path, num_proc, on_error="skip")
        assert len(data) == left
        assert [remark.kind for remark in builder.remarks()] == ["skipped"]
        assert words in builder.remarks()[0].message


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("2.jpg", b"", "2.jpg: the image is empty (0 bytes)"),
        ("2.png", b"", "2.png: the mask is empty (0 bytes)"),
        ("2.jpg", b"GIF89a, or so it says", "2.jpg: the image is not an image file"),
        ("2.jpg", BOMB, "2.jpg: the image has at least 179 megapixels, more than the 100 allowed"),
        ("2.png", BOMB, "2.png: the mask has at least 179 megapixels, more than the 100 allowed"),
    ],
)
def test_bad_content(tmp_path, file, content, words):
    root = tmp_path / "parts"
    good_pair(root / "chip", "1")
    good_pair(root / "chip", "2")
    (root / "chip" / file).write_bytes(content)
    check(root, tmp_path, words)


def test_half_an_image(tmp_path):
    root = tmp_path / "parts"
    good_pair(root / "chip", "1")
    good_pair(root / "chip", "2")
    content = (root / "chip/2.jpg").read_bytes()
    (root / "chip/2.jpg").write_bytes(content[: len(content) // 2])
    check(root, tmp_path, "2.jpg: the image is truncated or damaged")


def test_mask_of_another_size(tmp_path):
    root = tmp_path / "parts"
    good_pair(root / "chip", "1")
    good_pair(root / "chip", "2")
    Image.new("L", (23, 16), 255).save(root / "chip/2.png")
    check(root, tmp_path, "2.png: the mask is 23x16 pixels, its image (upright) 24x16")


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ("2.png", "chip/2.jpg: an image without its mask (NAME.png)"),
        ("2.jpg", "chip/2.png: a mask without its image (NAME.jpg)"),
    ],
)
def test_one_without_the_other_side_by_side(tmp_path, gone, words):
    root = tmp_path / "parts"
    good_pair(root / "chip", "1")
    good_pair(root / "chip", "2")
    (root / "chip" / gone).unlink()
    check(root, tmp_path, words)


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ("masks/2.png", "images/2.jpg: has no mask in masks/ of the same name"),
        ("images/2.jpg", "masks/2.png: has no image in images/ of the same name"),
    ],
)
def test_one_without_the_other_in_two_folders(tmp_path, gone, words):
    root = tmp_path / "parts"
    good_pair(root / "images", "1", root / "masks")
    good_pair(root / "images", "2", root / "masks")
    (root / gone).unlink()
    check(root, tmp_path, words)


def test_duplicate_ids(tmp_path):
    root = tmp_path / "parts"
    good_pair(root / "images", "1", root / "masks")
    Image.new("L", (24, 16)).save(root / "images/1.png")
    check(root, tmp_path, "images/1.png: the same id as 1.jpg (1); rename one of them")
    side = tmp_path / "side"
    good_pair(side / "chip", "1")
    good_pair(side / "chip", "2")
    Image.new("L", (24, 16)).save(side / "chip/2.bmp")
    check(side, tmp_path, "chip: cannot tell image from mask among 2.bmp, 2.jpg, 2.png; name the mask NAME_mask")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"image_file_name": "2.jpg", "mask_fi', "metadata.jsonl:2: not a JSON object"),
        ("[1, 2]", "metadata.jsonl:2: not a JSON object"),
        ('{"mask_file_name": "2.png"}', "metadata.jsonl:2: has no 'image_file_name'"),
        ('{"image_file_name": "9.jpg"}', "metadata.jsonl:2: the image"),
        ('{"image_file_name": "2.jpg", "mask_file_name": "9.png"}', "9.png is missing; add the file"),
        ('{"image_file_name": "../2.jpg"}', "metadata.jsonl:2: the file name '../2.jpg' leaves"),
        ('{"image_file_name": "2.jpg", "mask_file_name": "/etc/hostname"}', "the file name '/etc/hostname' leaves"),
        ('{"image_file_name": "1.jpg"}', "metadata.jsonl:2: the image '1' is listed twice; remove one line"),
    ],
)
def test_a_bad_line_of_the_list(tmp_path, line, words):
    root = tmp_path / "parts"
    good_pair(root, "1")
    good_pair(root, "2")
    good = json.dumps({"image_file_name": "1.jpg", "mask_file_name": "1.png"})
    (root / "metadata.jsonl").write_text(f"{good}\n{line}\n", encoding="utf-8")
    check(root, tmp_path, words)


def test_a_turned_photograph_is_counted_and_fits_its_upright_mask(tmp_path):
    root = tmp_path / "parts"
    good_pair(root / "images", "1", root / "masks")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (16, 24), 99).save(root / "images/1.jpg", exif=exif)
    builder, data = build(root, tmp_path)
    assert data[0]["image"].size == data[0]["mask"].size == (24, 16)
    assert [(remark.kind, remark.message) for remark in builder.remarks()] == [
        ("changed", "turned upright by its EXIF orientation")
    ]
