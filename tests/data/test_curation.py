"""Curation: clear defects on calm backgrounds first, and every kind in its turn."""

from dataclasses import replace

import numpy as np
import pytest

from visionsam_hf.data.curation import Scored, measure, pick, read_kept, write_manifest
from visionsam_hf.data.errors import UserError

MASK = np.zeros((200, 200), bool)
MASK[90:110, 90:110] = True


def picture(contrast: float, *, stripes: int = 0, noise: float = 3.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    pixels = 120 + noise * rng.normal(size=(200, 200, 3))
    for x in range(0, stripes * 10, 10):
        pixels[:60, x : x + 5] += 80
    pixels[MASK] += contrast
    return np.clip(pixels, 0, 255).astype(np.uint8)


def test_clarity_is_contrast_in_standard_deviations():
    flat = np.full((256, 256, 3), 100, np.uint8)  # the size at which all is measured
    mask = np.zeros((256, 256), bool)
    mask[90:110, 90:110] = True
    flat[mask] = 130
    # No noise: the gap is 30 in each of three channels, the spread the square root of the floor, 3.
    assert measure("a", "x", flat, mask).clarity == pytest.approx(30)
    clarity = [measure("a", "x", picture(contrast), MASK).clarity for contrast in (0, 10, 40)]
    assert clarity[0] < 0.5 < clarity[1] < clarity[2]
    assert measure("a", "x", picture(40, noise=20), MASK).clarity < clarity[2]


def test_clutter_is_the_share_of_edges_outside_the_defect():
    calm, busy = (measure("a", "x", picture(60, stripes=stripes), MASK).clutter for stripes in (0, 15))
    assert calm < 0.01 < busy
    assert measure("a", "x", picture(120), MASK).clutter < 0.01  # the defect's own edge does not count


def test_measures_do_not_depend_on_resolution():
    small = measure("a", "x", picture(40, noise=0), MASK)
    large = measure("a", "x", picture(40, noise=0).repeat(4, 0).repeat(4, 1), MASK.repeat(4, 0).repeat(4, 1))
    assert large.clarity == pytest.approx(small.clarity, rel=0.05) and large.scale == small.scale


@pytest.mark.parametrize(
    ("box", "scale", "shape"),
    [((0, 0, 6, 6), "tiny", "compact"), ((0, 0, 3, 100), "small", "elongated"), ((0, 0, 200, 180), "large", "compact")],
)
def test_scale_and_shape(box, scale, shape):
    mask = np.zeros((200, 200), bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    mask[150, 150] = True
    scored = measure("a", "x", picture(0), mask)
    assert (scored.scale, scored.shape) == (scale, shape)


def scored(name: str, category: str, clarity: float, clutter: float = 0.1, scale: str = "tiny") -> Scored:
    return Scored(name, category, clarity, clutter, scale, "compact")


def test_the_clearer_and_the_calmer_one_wins():
    images = [scored("dull", "x", 1.0), scored("clear", "x", 5.0), scored("busy", "x", 5.0, 0.6)]
    picked = {image.image_id: image for image in pick(images, 1)}
    assert [name for name, image in picked.items() if image.keep] == ["clear"]
    assert picked["clear"].reason == "number 1 of 3 in tiny compact"
    assert (
        picked["dull"].reason == "unclear; 1 of its kind picked"
        and picked["busy"].reason == "cluttered; 1 of its kind picked"
    )
    assert picked["clear"].score == pytest.approx((0.75 + 0.75) / 2)


def test_categories_and_kinds_take_turns():
    images = [scored(f"a{number}", "a", number) for number in range(20)]
    images += [scored(f"large{number}", "a", -1 - number, scale="large") for number in range(3)]
    images += [scored("b0", "b", 0.1), scored("b1", "b", 0.2)]
    kept = [image for image in pick(images, 8) if image.keep]
    assert sum(image.category == "b" for image in kept) == 2  # all it has
    assert sum(image.scale == "large" for image in kept) == 3
    assert len(kept) == 8
    assert sum(image.keep for image in pick(images, 99)) == 25


def test_the_order_of_the_images_does_not_matter():
    rng = np.random.default_rng(0)
    figures = rng.integers(4, size=(30, 2)).astype(float)
    images = [scored(str(number), "ab"[number % 2], *pair) for number, pair in enumerate(figures)]
    first = {image.image_id: image for image in pick(images, 11)}
    second = {image.image_id: image for image in pick(images[::-1], 11)}
    assert first == second


def test_the_manifest_comes_back_edited(tmp_path):
    images = pick([scored("weiß/1, 2", "x", 3.0), scored("b", "x", 2.0), scored("c", "x", 1.0)], 2)
    path = tmp_path / "manifest.csv"
    write_manifest(path, images)
    assert read_kept(path) == ["weiß/1, 2", "b"]
    text = path.read_text(encoding="utf-8").replace("yes,b", "no,b").replace("no,c", "YES ,c")
    path.write_text(text, encoding="utf-8-sig")
    assert read_kept(path) == ["weiß/1, 2", "c"]
    path.write_text("keep;image_id\nyes;d\nno;e\n")
    assert read_kept(path) == ["d"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image_id,score\na,1\n", "has no column 'keep'; keep the header"),
        ("keep,image_id\nyes,a\nperhaps,b\n", "manifest.csv:3: needs an image_id, and yes or no under keep"),
        ("keep,image_id\nyes,\n", "manifest.csv:2: needs an image_id"),
        ("keep,image_id\nyes,a\nno,a\n", "manifest.csv:3: the image 'a' is listed twice"),
        ("keep,image_id\nno,a\n", "keeps no image"),
        ("", "has no column 'keep'"),
    ],
)
def test_a_spoilt_manifest_is_named(tmp_path, text, words):
    (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(UserError) as caught:
        read_kept(tmp_path / "manifest.csv")
    assert words in str(caught.value) and str(tmp_path) in str(caught.value)
    with pytest.raises(UserError, match="none.csv: cannot be read"):
        read_kept(tmp_path / "none.csv")


def test_an_image_without_room_for_a_ring_has_no_clarity():
    everything = measure("a", "x", picture(0), np.ones((200, 200), bool))
    assert everything.clarity == 0 and everything.clutter == 0
    assert pick([replace(everything)], 1)[0].score == 1
