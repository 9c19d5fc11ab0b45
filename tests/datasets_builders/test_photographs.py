"""Every kind of file that a folder can hold: read right, or refused in one line that says what to do."""

import io

import numpy as np
import pytest
from huge_png import huge_png
from PIL import Image

from datasets_builders.photographs import image_files, path_inside, read_mask, read_photograph
from visionsam_hf.data.errors import UserError

GREY = np.arange(12 * 20, dtype=np.uint8).reshape(12, 20)


def pixels_of(photograph) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(photograph.stored["bytes"])))


@pytest.mark.parametrize("name", ["plain.jpg", "plain.png", "mit Leerzeichen und Ümläuten.png", "写真.jpg"])
def test_plain_files_keep_their_bytes(tmp_path, name):
    path = tmp_path / name
    Image.fromarray(GREY).save(path)
    photograph = read_photograph(path)
    assert photograph.stored == {"bytes": path.read_bytes(), "path": name}
    assert photograph.size == (20, 12) and photograph.changes == ()


@pytest.mark.parametrize("orientation", range(2, 9))
def test_exif_rotation_is_applied_and_said(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "phone.png"
    Image.fromarray(GREY).save(path, exif=exif)
    photograph = read_photograph(path)
    turned = {
        2: GREY[:, ::-1],
        3: GREY[::-1, ::-1],
        4: GREY[::-1],
        5: GREY.T,
        6: GREY.T[:, ::-1],
        7: GREY.T[::-1, ::-1],
        8: GREY.T[::-1],
    }[orientation]
    assert np.array_equal(pixels_of(photograph), turned)
    assert photograph.size == turned.shape[::-1]
    assert photograph.changes == ("turned upright by its EXIF orientation",)
    stored = Image.open(io.BytesIO(photograph.stored["bytes"]))
    assert 0x0112 not in stored.getexif()  # or a reader would turn it again


@pytest.mark.parametrize(("bits", "shift"), [(8, 0), (10, 2), (12, 4), (16, 8)])
def test_16_bit_files_keep_their_contrast(tmp_path, bits, shift):
    values = np.linspace(0, 2**bits - 1, 240).astype(np.uint16).reshape(12, 20)
    Image.fromarray(values).save(tmp_path / "deep.png")
    photograph = read_photograph(tmp_path / "deep.png")
    assert np.array_equal(pixels_of(photograph), values >> shift)
    assert "converted from mode I;16 to 8 bits" in photograph.changes


def test_palettes_alpha_and_one_bit(tmp_path):
    colour = np.dstack([GREY, GREY[::-1], GREY[:, ::-1]])
    Image.fromarray(colour).quantize(256).save(tmp_path / "palette.png")
    assert pixels_of(read_photograph(tmp_path / "palette.png")).shape == (12, 20, 3)
    Image.fromarray(np.dstack([colour, GREY])).save(tmp_path / "alpha.png")
    assert np.array_equal(pixels_of(read_photograph(tmp_path / "alpha.png")), colour)
    Image.fromarray(GREY > 90).save(tmp_path / "bits.png")
    assert np.array_equal(pixels_of(read_photograph(tmp_path / "bits.png")), np.where(GREY > 90, 255, 0))
    Image.fromarray(GREY).save(tmp_path / "scan.tif")
    photograph = read_photograph(tmp_path / "scan.tif")
    assert np.array_equal(pixels_of(photograph), GREY) and photograph.stored["path"] == "scan.png"


MASK = np.zeros((12, 20), bool)
MASK[3:6, 4:9] = True


@pytest.mark.parametrize(
    "stored",
    [
        Image.fromarray(MASK),
        Image.fromarray(np.where(MASK, 255, 100).astype(np.uint8)),
        Image.fromarray(np.where(MASK, 65535, 0).astype(np.uint16)),
        Image.fromarray(np.where(MASK[..., None], [200, 0, 0], [0, 0, 0]).astype(np.uint8)),
        Image.fromarray(np.where(MASK[..., None], [255, 255, 255, 255], [0, 0, 0, 255]).astype(np.uint8)),
        Image.fromarray(np.where(MASK, 255, 0).astype(np.uint8)).convert("P"),
    ],
    ids=["1-bit", "grey", "16-bit", "red", "alpha", "grey palette"],
)
def test_masks_of_every_mode(tmp_path, stored):
    stored.save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(tmp_path / "mask.png", size=(20, 12)), MASK)


def test_a_mask_with_a_dark_palette_is_not_lost(tmp_path):
    labels = Image.fromarray(MASK.astype(np.uint8)).convert("P")
    labels.putpalette([0, 0, 0, 0, 60, 0] + [0] * 762)
    labels.save(tmp_path / "labels.png")
    assert np.array_equal(read_mask(tmp_path / "labels.png", size=(20, 12)), MASK)


def test_a_mask_of_zeros_and_ones_is_not_taken_for_an_empty_one(tmp_path):
    Image.fromarray(MASK.astype(np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(UserError, match=r"above mask_threshold 127 \(the highest is 1\); set mask_threshold below 1"):
        read_mask(tmp_path / "mask.png", size=(20, 12))
    assert np.array_equal(read_mask(tmp_path / "mask.png", size=(20, 12), threshold=0), MASK)


def whole_file(format: str) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(buffer, format)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the image is empty (0 bytes)"),
        (b"no image at all", "is not an image file"),
        (whole_file("PNG")[:1000], "is truncated or damaged"),
        (whole_file("JPEG")[:600], "is truncated or damaged"),
        (huge_png(20_000, 15_000), "megapixels, more than the 100 allowed; scale it down"),
        (huge_png(12_000, 10_000), "at least 120 megapixels"),
    ],
    ids=["zero bytes", "text", "half a PNG", "half a JPEG", "300 megapixels", "120 megapixels"],
)
def test_bad_files_are_named(tmp_path, content, words):
    path = tmp_path / "bad one.png"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_photograph(path)
    assert str(caught.value).startswith(f"{path}: the image") and words in str(caught.value)
    with pytest.raises(UserError) as caught:
        read_mask(path, size=(64, 64))
    assert str(caught.value).startswith(f"{path}: the mask")


def test_missing_files_and_masks_of_another_size(tmp_path):
    with pytest.raises(UserError, match="none.png: the image is missing; add the file"):
        read_photograph(tmp_path / "none.png")
    Image.fromarray(MASK).save(tmp_path / "mask.png")
    with pytest.raises(UserError, match=r"the mask is 20x12 pixels, its image \(upright\) 12x20"):
        read_mask(tmp_path / "mask.png", size=(12, 20))


def test_listing_passes_over_shadows_and_paths_stay_inside(tmp_path):
    for name in ("b/2.JPG", "a 1.png", "._a 1.png", ".hidden/3.png", "__notes.txt", "b/4.webp"):
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    names = [path.relative_to(tmp_path / "root").as_posix() for path in image_files(tmp_path / "root")]
    assert names == ["a 1.png", "b/2.JPG", "b/4.webp"]
    (tmp_path / "root/link").symlink_to(tmp_path)
    assert path_inside(tmp_path / "root", "b/2.JPG", "list") == tmp_path / "root/b/2.JPG"
    for name in ("../x.png", "/etc/passwd", "b/../../x.png", "link/x.png", ""):
        with pytest.raises(UserError, match="leaves .*; use names inside that folder"):
            path_inside(tmp_path / "root", name, "list")
