"""The synthetic world: what every picture must keep to."""

import numpy as np
import pytest

from datasets_builders.world.scene import DEFECTS, PRODUCTS, render_product, render_shapes
from visionsam_hf.errors import UserError


@pytest.mark.parametrize("category", PRODUCTS)
def test_product_has_a_whole_parts_and_exact_defects(category):
    for index in range(4):
        scene = render_product(category, size=96, seed=3, index=index)
        assert scene.image.shape == (96, 96, 3) and scene.image.dtype == np.uint8
        assert scene.objects[0].kind == category
        assert scene.defects and all(region.kind in DEFECTS for region in scene.defects)
        for region in scene.objects + scene.defects:
            assert region.mask.shape == (96, 96) and region.mask.dtype == bool and region.mask.any()


@pytest.mark.parametrize("category", PRODUCTS)
def test_same_seed_and_index_give_the_same_picture(category):
    once, again = (render_product(category, size=64, seed=1, index=9) for _ in range(2))
    other = render_product(category, size=64, seed=1, index=10)
    assert np.array_equal(once.image, again.image)
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(once.defects, again.defects, strict=True))
    assert not np.array_equal(once.image, other.image)


def test_unknown_category_is_named():
    with pytest.raises(UserError, match="teapot"):
        render_product("teapot", size=64, seed=0, index=0)


def test_shapes_are_visible_parts():
    for index in range(6):
        scene = render_shapes(size=96, seed=0, index=index)
        assert scene.category == "shapes" and scene.objects and not scene.defects
        assert all(region.mask.any() for region in scene.objects)
