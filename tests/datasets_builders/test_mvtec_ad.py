"""MVTec AD's layout: defects with masks, good images without, and the study's sample."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets_builders.mvtec_ad import MVTecAD
from visionsam_hf.data.errors import UserError


def make(root: Path, category: str, *, defects: int = 6, mode: str = "RGB") -> None:
    for part, count in (("train/good", 2), ("test/good", 1), ("test/hole", defects)):
        (root / category / part).mkdir(parents=True)
        for number in range(count):
            Image.new(mode, (20, 20), 30 + number if mode == "L" else (30 + number, 60, 90)).save(
                root / category / part / f"{number:03d}.png"
            )
    (root / category / "ground_truth/hole").mkdir(parents=True)
    for number in range(defects):
        mask = np.zeros((20, 20), np.uint8)
        mask[5:9, 3 : 6 + number] = 255
        Image.fromarray(mask).save(root / category / f"ground_truth/hole/{number:03d}_mask.png")


@pytest.fixture
def root(tmp_path):
    make(tmp_path / "mvtec", "bottle")
    make(tmp_path / "mvtec", "grid", mode="L")
    make(tmp_path / "mvtec", "zipper")
    return tmp_path / "mvtec"


def build(root, tmp_path, **settings):
    builder = MVTecAD(data_dir=str(root), cache_dir=str(tmp_path / "cache"), **settings)
    builder.download_and_prepare()
    return builder, builder.as_dataset()


def test_defects_are_for_testing(root, tmp_path):
    _, data = build(root, tmp_path)
    assert list(data) == ["test"] and len(data["test"]) == 18
    row = data["test"][7]
    assert row["image_id"] == "grid/test/hole/001" and row["image"].mode == "L"
    assert [(item["box"], item["area"], item["defect"]) for item in row["objects"]] == [([3, 5, 7, 9], 16, "hole")]
    assert data["test"].features["category"].names == ["bottle", "grid", "zipper"]


def test_the_sample_is_drawn_by_seed_and_per_category(root, tmp_path):
    ids = []
    for seed in (0, 0, 1):
        _, data = build(root, tmp_path, categories=["bottle", "zipper"], sample_per_category=3, seed=seed)
        ids.append(data["test"]["image_id"])
    assert ids[0] == ids[1] != ids[2]
    assert [sum(name.startswith(category) for name in ids[0]) for category in ("bottle", "zipper")] == [3, 3]


def test_good_images_and_held_out_categories(root, tmp_path):
    _, data = build(root, tmp_path, keep_good=True, heldout_categories=["grid"], test=0.5)
    assert {name: len(rows) for name, rows in data.items()} == {"train": 10, "test": 8, "heldout": 9}
    assert sum(data["train"]["defective"]) == 6
    assert {name.split("/")[0] for name in data["heldout"]["image_id"]} == {"grid"}


def test_a_missing_mask_is_named_and_an_edited_one_is_read_anew(root, tmp_path):
    build(root, tmp_path)
    Image.new("L", (20, 20), 255).save(root / "bottle/ground_truth/hole/000_mask.png")
    _, data = build(root, tmp_path)
    assert data["test"][0]["objects"][0]["area"] == 400
    (root / "bottle/ground_truth/hole/000_mask.png").unlink()
    with pytest.raises(UserError, match="000.png: its mask .*000_mask.png is missing"):
        build(root, tmp_path)
    builder, data = build(root, tmp_path, on_error="skip")
    assert len(data["test"]) == 17 and builder.remarks()[0].image == "bottle/test/hole/000"
    with pytest.raises(UserError, match="has no 'botle'; it has bottle, grid, zipper"):
        build(root, tmp_path, categories=["botle"])
