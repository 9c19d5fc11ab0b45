import numpy as np
import pytest

from visionsam_hf.data.augmentation import Variant, variant_key, variant_of


def test_variant_0_is_the_image():
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    assert np.array_equal(variant_of("a", 0).look(image), image)
    assert variant_key("a", 0) == "a" and variant_key("a", 2) != variant_key("a", 1)


def test_turns_and_mirrors():
    array = np.array([[1, 2, 3], [4, 5, 6]])
    assert Variant(turns=1).turn(array).tolist() == [[3, 6], [2, 5], [1, 4]]
    assert Variant(mirrored=True).turn(array).tolist() == [[3, 2, 1], [6, 5, 4]]


@pytest.mark.parametrize("key", ["a", "b", "c"])
def test_eight_variants_are_the_eight_poses(key):
    poses = {(variant.turns, variant.mirrored) for variant in (variant_of(key, number) for number in range(8))}
    assert len(poses) == 8


def test_a_variant_depends_on_image_and_number_alone():
    assert variant_of("a", 3) == variant_of("a", 3)
    assert variant_of("a", 3) != variant_of("b", 3)


def test_light_changes_every_pixel_alike_and_keeps_the_order():
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    looked = Variant(brightness=1.2, contrast=0.9, gamma=1.2).look(image)
    assert looked.dtype == np.uint8 and (np.diff(looked[..., 0].ravel().astype(int)) >= 0).all()
    assert looked[0, 0, 0] > 0 and not np.array_equal(looked, image)
