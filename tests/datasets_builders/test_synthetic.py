"""Rendered and painted data: the settings decide, and nothing else does."""

import numpy as np
import pytest
from PIL import Image

from datasets_builders.synthetic import Synthetic, good_photographs
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.masks import decode_mask, decode_rle


def build(cache, *, num_proc=1, **settings):
    builder = Synthetic(cache_dir=str(cache), **settings)
    builder.download_and_prepare(num_proc=num_proc)
    return builder.as_dataset()


def names(dataset):
    return [dataset.features["category"].names[label] for label in dataset["category"]]


def test_defects_and_held_out_categories(tmp_path):
    data = build(
        tmp_path,
        image_size=64,
        images={"train": 12, "test": 4, "heldout": 4},
        categories=["screw", "ring", "lens"],
        heldout_categories=["lens"],
        good_share=0.5,
    )
    assert set(names(data["train"])) == set(names(data["test"])) == {"screw", "ring"}
    assert set(names(data["heldout"])) == {"lens"}
    assert len(set(data["train"]["defective"])) == 2
    for row in data["train"]:
        assert row["image"].size == (64, 64) and row["defective"] == bool(row["objects"])
        union = np.zeros((64, 64), bool)
        for item in row["objects"]:
            union |= decode_rle(item["rle"])
        assert np.array_equal(union, decode_mask(row["mask"]))
    first, second = np.asarray(data["train"][0]["image"]), np.asarray(data["test"][0]["image"])
    assert not np.array_equal(first, second)


def test_objects_and_shapes(tmp_path):
    data = build(tmp_path, image_size=64, images={"train": 12, "test": 4}, target="objects", shapes_share=0.5)
    shown = names(data["train"])
    assert 0 < shown.count("shapes") < 12 and "shapes" not in names(data["test"])
    product = next(row for row, name in zip(data["train"], shown) if name != "shapes")
    assert product["objects"][0]["defect"] == shown[list(data["train"]["image_id"]).index(product["image_id"])]


def test_parts_and_defects_together(tmp_path):
    settings = {"image_size": 64, "images": {"train": 8}, "categories": ["pcb_1", "console"], "seed": 2}
    both, parts, defects = (build(tmp_path / t, target=t, **settings)["train"] for t in ("both", "objects", "defects"))
    for row, whole, flawed in zip(both, parts, defects, strict=True):
        marked = [item["rle"]["counts"] for item in row["objects"]]
        found = [item["rle"]["counts"] for item in flawed["objects"]]
        assert marked[len(marked) - len(found) :] == found
        assert marked[: len(marked) - len(found)] == [item["rle"]["counts"] for item in whole["objects"]]


def test_rows_do_not_depend_on_processes_or_on_streaming(tmp_path):
    settings = {"image_size": 64, "images": {"train": 6}, "categories": ["groove", "wood"], "seed": 5}
    one = build(tmp_path / "1", **settings)["train"]
    three = build(tmp_path / "3", num_proc=3, **settings)["train"]
    streamed = list(Synthetic(cache_dir=str(tmp_path), **settings).as_streaming_dataset("train"))
    for first, second, third in zip(one, three, streamed, strict=True):
        assert first["image_id"] == second["image_id"] == third["image_id"]
        assert np.array_equal(first["image"], second["image"]) and np.array_equal(first["image"], third["image"])
        assert first["objects"] == second["objects"] == third["objects"]


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "good tiles"
    rng = np.random.default_rng(0)
    for number in range(6):
        path = folder / "line 1" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(90, 130, (70, 90), dtype=np.uint8)).save(path)
        Image.new("L", (90, 70)).save(path.with_suffix(".png"))  # an empty mask beside it
    return folder


def test_painting_on_good_photographs(tmp_path, photographs):
    assert len(good_photographs(photographs)) == 6
    data = build(tmp_path / "cache", background_dir=str(photographs), images={"train": 9, "test": 3})
    assert len(data["train"]) == 9 and len(data["test"]) == 3
    assert set(names(data["train"])) == {"line 1"}
    originals = [np.asarray(Image.open(path)).astype(int) for path in good_photographs(photographs)]
    used = {}
    for split in data:
        for row in data[split]:
            assert row["image"].mode == "L" and row["image"].size == (90, 70)
            pixels, mask = np.asarray(row["image"]).astype(int), decode_mask(row["mask"])
            background = min(range(6), key=lambda place: np.abs(originals[place] - pixels).mean())
            used.setdefault(background, set()).add(split)
            assert mask.any() and (originals[background] != pixels)[mask].mean() > 0.5
    assert all(len(splits) == 1 for splits in used.values())


def test_only_the_chosen_defects_are_painted_as_often_and_as_strongly_as_asked(tmp_path, photographs):
    settings = {"background_dir": str(photographs), "images": {"train": 8}, "foreground": "margin"}
    data = build(tmp_path / "1", defects=["pore", "stain"], defect_count=[2, 2], margin=0.2, **settings)["train"]
    assert {item["defect"] for row in data for item in row["objects"]} == {"pore", "stain"}
    assert np.mean([len(row["objects"]) for row in data]) > 1.5
    for row in data:
        mask = decode_mask(row["mask"])
        assert not mask[:14].any() and not mask[-14:].any() and not mask[:, :14].any() and not mask[:, -14:].any()
    large = build(tmp_path / "2", defects=["pore", "stain"], defect_size=0.3, margin=0.2, **settings)["train"]
    assert np.mean([decode_mask(row["mask"]).sum() for row in large]) > 1.5 * np.mean(
        [decode_mask(row["mask"]).sum() for row in data]
    )


def test_masks_of_the_product_say_where_to_paint(tmp_path, photographs):
    masks = tmp_path / "products"
    for path in good_photographs(photographs):
        allowed = np.zeros((70, 90), np.uint8)
        allowed[:, 45:] = 255
        target = (masks / path.relative_to(photographs)).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(allowed).save(target)
    settings = {"background_dir": str(photographs), "images": {"train": 6}, "foreground": str(masks)}
    data = build(tmp_path / "1", **settings)["train"]
    assert any(decode_mask(row["mask"]).any() for row in data)
    assert not any(decode_mask(row["mask"])[:, :45].any() for row in data)
    (masks / "line 1" / "3.png").unlink()
    with pytest.raises(UserError, match="3.png: the mask is missing"):
        build(tmp_path / "2", **settings)


def test_wrong_settings_are_named(tmp_path, photographs):
    for settings, words in [
        ({"categories": ["lense"]}, "there is no product 'lense'; the products are cable"),
        ({"images": {"training": 5}}, "unknown split 'training'"),
        ({"images": {"heldout": 5}}, "heldout_categories: images asks for a heldout split"),
        ({"categories": ["lens"], "heldout_categories": ["lens"]}, "no category is left for split 'train'"),
        ({"target": "parts"}, "target: 'parts' is not a choice"),
        ({"shapes_share": 0.5}, "shapes_share: generic shapes have no defects"),
        ({"good_share": 1.5}, "good_share: 1.5 is not a share"),
        ({"image_size": 8}, "image_size: 8 is too small"),
        ({"images": {}}, "no image to build from"),
        ({"background_dir": str(tmp_path / "none")}, "no such folder; set background_dir"),
        ({"background_dir": str(photographs), "target": "objects"}, "photographs have no object masks"),
        ({"background_dir": str(photographs), "defects": ["rust"]}, "'rust'] is not a defect type; choose"),
        ({"defects": ["pore"]}, "defects: chosen for photographs only; set background_dir"),
        ({"defect_count": [3, 1]}, "defect_count: [3, 1] is no range"),
        ({"defect_count": [2]}, "defect_count: [2] is no range"),
        ({"defect_size": 2.0}, "defect_size: 2.0 is not in"),
        ({"defect_contrast": 0.0}, "defect_contrast: 0.0 is not in"),
        ({"margin": 0.5}, "margin: 0.5 is not in"),
        ({"background_dir": str(photographs), "foreground": "all"}, "foreground: 'all' is neither estimate"),
        ({"background_dir": str(photographs), "categories": ["x"]}, "no photograph to paint on"),
        ({"background_dir": str(photographs), "images": {"train": 99, "test": 1}}, "leave none for split 'test'"),
    ]:
        with pytest.raises(UserError) as caught:
            Synthetic(cache_dir=str(tmp_path / "cache"), **settings)
        assert words in str(caught.value)
