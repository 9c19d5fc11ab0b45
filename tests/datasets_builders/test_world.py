"""The synthetic world: what every picture must keep to."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets_builders.world import textures
from datasets_builders.world.scene import DEFECTS, PRODUCTS, render_product, render_shapes
from visionsam_hf.data.errors import UserError


def test_the_renderer_has_one_door():
    root = Path(__file__).parents[2]
    for place in ("visionsam_hf/**/*.py", "recipes/**/*.py", "datasets_builders/*.py"):
        for path in root.glob(place):
            text = path.read_text(encoding="utf-8")
            found = re.findall(r"^\s*from datasets_builders\.world(?:\.| import )(\w+)", text, re.MULTILINE)
            assert set(found) <= {"scene"}, path


def test_the_order_of_products_and_defects_is_fixed():
    assert PRODUCTS == (
        "cable", "capacitor", "casting", "console", "cylinder", "electronics", "groove", "hemisphere", "lens",
        "pcb_1", "pcb_2", "ring", "screw", "wood",
    )  # fmt: skip
    assert len(DEFECTS) == 10 and DEFECTS[0] == "scratch" and DEFECTS[-1] == "discolouration"


@pytest.mark.parametrize("category", PRODUCTS)
def test_product_has_a_whole_parts_and_exact_defects(category):
    for index in range(4):
        scene = render_product(category, size=96, seed=3, index=index)
        assert scene.image.shape == (96, 96, 3) and scene.image.dtype == np.uint8
        assert scene.category == category and scene.objects[0].kind == category
        assert scene.defects and all(region.kind in DEFECTS for region in scene.defects)
        for region in scene.objects + scene.defects:
            assert region.mask.shape == (96, 96) and region.mask.dtype == bool and region.mask.any()


@pytest.mark.parametrize("category", PRODUCTS)
def test_a_picture_depends_on_its_name_alone(category):
    state = np.random.get_state()[1].copy()
    once = render_product(category, size=64, seed=1, index=9)
    other = render_product(category, size=64, seed=1, index=10)
    again = render_product(category, size=64, seed=1, index=9)
    assert np.array_equal(once.image, again.image) and not np.array_equal(once.image, other.image)
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(once.defects, again.defects, strict=True))
    assert np.array_equal(state, np.random.get_state()[1])


@pytest.mark.parametrize("category", PRODUCTS)
def test_the_good_picture_is_the_same_but_for_the_defects(category):
    kinds = tuple(name for name in DEFECTS if name != "missing_part")
    for index in range(3):
        bad = render_product(category, size=128, seed=2, index=index, defects=kinds)
        good = render_product(category, size=128, seed=2, index=index, defective=False)
        assert good.defects == () and bad.defects
        assert all(np.array_equal(a.mask, b.mask) for a, b in zip(good.objects, bad.objects, strict=True))
        union = np.any([region.mask for region in bad.defects], axis=0).astype(np.uint8)
        difference = np.abs(good.image.astype(int) - bad.image.astype(int)).max(2)
        near = cv2.dilate(union, np.ones((9, 9), np.uint8)) > 0
        assert difference[union > 0].mean() > 3 and difference[near].sum() > 0.7 * difference.sum()


@pytest.mark.parametrize("category", PRODUCTS)
def test_a_missing_part_is_gone_where_its_mask_says(category):
    bad = render_product(category, size=128, seed=0, index=1, defects=("missing_part",))
    good = render_product(category, size=128, seed=0, index=1, defective=False)
    assert {region.kind for region in bad.defects} == {"missing_part"}
    difference = np.abs(good.image.astype(int) - bad.image.astype(int)).max(2)
    union = np.any([region.mask for region in bad.defects], axis=0)
    assert difference[union].mean() > 4 * (difference[~union].mean() + 0.1)


def test_a_part_taken_off_the_side_leaves_the_silhouette():
    for index in range(8):
        bad = render_product("capacitor", size=128, seed=5, index=index, defects=("missing_part",))
        good = render_product("capacitor", size=128, seed=5, index=index, defective=False)
        lost = good.objects[0].mask & ~bad.objects[0].mask
        if lost.any():
            assert (lost & ~bad.defects[0].mask).sum() <= 0.02 * good.objects[0].mask.sum()
            return
    pytest.fail("no lead was taken off in eight pictures")


@pytest.mark.parametrize("defect", DEFECTS)
def test_only_the_types_asked_for_are_drawn(defect):
    for category in ("screw", "pcb_2"):
        scene = render_product(category, size=96, seed=2, index=3, defects=(defect,))
        assert scene.defects and {region.kind for region in scene.defects} == {defect}


def test_most_defects_are_small_and_none_is_a_speck():
    shares = [
        region.mask.mean()
        for index in range(70)
        for region in render_product(PRODUCTS[index % 14], size=128, seed=6, index=index).defects
    ]
    assert min(shares) >= 6 / 256**2 and np.median(shares) < 0.01 and max(shares) > 0.02


def test_size_changes_the_grain_not_the_object():
    small, large = (render_product("ring", size=size, seed=0, index=2, defective=False) for size in (64, 256))
    shrunk = cv2.resize(large.objects[0].mask.astype(np.float32), (64, 64), interpolation=cv2.INTER_AREA) > 0.5
    assert (shrunk & small.objects[0].mask).sum() > 0.9 * (shrunk | small.objects[0].mask).sum()


def test_bad_names_and_sizes_are_named():
    with pytest.raises(UserError, match="teapot"):
        render_product("teapot", size=64, seed=0, index=0)
    with pytest.raises(UserError, match="rust"):
        render_product("wood", size=64, seed=0, index=0, defects=("rust",))
    with pytest.raises(UserError, match="size"):
        render_shapes(size=8, seed=0, index=0)


def test_shapes_show_many_sizes_of_visible_things():
    spans = []
    for index in range(25):
        scene = render_shapes(size=96, seed=0, index=index)
        assert scene.category == "shapes" and scene.objects and not scene.defects
        assert np.array_equal(scene.image, render_shapes(size=96, seed=0, index=index).image)
        for region in scene.objects:
            rows, columns = np.nonzero(region.mask)
            assert region.mask.shape == (96, 96) and rows.size
            spans.append(max(np.ptp(rows), np.ptp(columns)) / 96)
    assert min(spans) < 0.08 and max(spans) > 0.6


@pytest.mark.parametrize("name", ["fractal", "brushed", "wood_grain", "weave", "pitted", "turned", "grain"])
def test_textures_hover_about_zero(name):
    rng = np.random.default_rng(0)
    rest = {
        "fractal": (12,),
        "brushed": (0.5,),
        "wood_grain": (0.5, 9),
        "weave": (0.5, 4),
        "pitted": (5,),
        "turned": ((60, 40), 2),
    }
    field = getattr(textures, name)(rng, 100, 130, *rest.get(name, ()))
    assert field.shape == (100, 130) and field.dtype == np.float32
    assert abs(field.mean()) < 0.6 and 0.3 < field.std() < 2
