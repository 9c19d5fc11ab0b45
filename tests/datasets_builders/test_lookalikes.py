"""Twice the same photograph is found, two photographs of a texture are not."""

import io

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from datasets_builders.lookalikes import find_leaks, group_lookalikes


def encoded(pixels: np.ndarray, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, format, **options)
    return buffer.getvalue()


def surface(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(120, 150))
    return 110 + 300 * gaussian_filter(noise, 6) + 4 * noise


def test_pixels_exposure_size_and_compression():
    photo = surface(0)
    splits = {
        "train": [("original", encoded(photo)), ("other", encoded(surface(1)))],
        "test": [
            ("copy", encoded(photo)),
            ("brighter", encoded(photo * 1.3 + 10)),
            ("jpeg", encoded(photo, "JPEG", quality=60)),
            ("smaller", encoded(np.asarray(Image.fromarray(photo.astype(np.uint8)).resize((75, 60))))),
            ("another part", encoded(surface(2))),
        ],
    }
    leaks = find_leaks(splits)
    assert [(leak.first, leak.second, leak.kind) for leak in leaks] == [
        ("train: original", "test: copy", "identical"),
        ("train: original", "test: brighter", "similar"),
        ("train: original", "test: jpeg", "similar"),
        ("train: original", "test: smaller", "similar"),
    ]


def test_the_same_split_may_repeat_itself_and_a_parts_mirror_is_another_part():
    photo = surface(0)
    assert find_leaks({"train": [("a", encoded(photo)), ("b", encoded(photo))], "test": []}) == []
    assert find_leaks({"train": [("a", encoded(photo))], "test": [("b", encoded(photo[:, ::-1]))]}) == []


def test_many_images_across_blocks(monkeypatch):
    monkeypatch.setattr("datasets_builders.lookalikes._BLOCK", 3)
    train = [(str(seed), encoded(surface(seed))) for seed in range(8)]
    test = [(str(seed), encoded(surface(seed) + 5)) for seed in range(6, 12)]
    leaks = find_leaks({"train": train, "test": test})
    assert [(leak.first, leak.second) for leak in leaks] == [("train: 6", "test: 6"), ("train: 7", "test: 7")]


def test_groups_are_transitive_and_bad_images_stay_alone():
    photo, other = surface(0), surface(1)
    images = [encoded(other), encoded(photo), b"", encoded(photo * 1.2), encoded(photo), encoded(other + 3), b""]
    assert group_lookalikes(images) == [0, 1, 2, 1, 1, 0, 6]
