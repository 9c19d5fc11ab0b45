"""The defect painter: exact masks, on the foreground only, in the photograph's own terms."""

import cv2
import numpy as np
import pytest

from datasets_builders.world.defects import (
    BLEMISHES,
    EXPANSES,
    KINDS,
    photograph_expanses,
    photograph_kinds,
    texture_direction,
)
from datasets_builders.world.scene import ALL_DEFECTS, DEFECTS, PaintSettings, estimate_foreground, paint_defects
from visionsam_hf.data.errors import UserError


def plate(height: int = 120, width: int = 160, *, tint: tuple[float, float, float] = (150, 140, 120)) -> np.ndarray:
    """A plain surface with fine grain, (H, W, 3) uint8."""
    noise = np.random.default_rng(0).normal(0, 3, (height, width, 1))
    return np.clip(np.asarray(tint) + noise, 0, 255).astype(np.uint8)


def change(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(H, W) largest change over the channels, grey levels."""
    return np.abs(after.astype(int) - before.astype(int)).max(2)


def painted(image: np.ndarray, seed: int, **settings) -> tuple[np.ndarray, tuple]:
    return paint_defects(image, rng=np.random.default_rng(seed), settings=PaintSettings(**settings))


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("defect", ALL_DEFECTS)
def test_the_mask_is_what_changed(defect, share):
    image = plate()
    for seed in range(5):
        result, (region,) = painted(image, seed, defects=(defect,), count=(1, 1), expanse_share=share, contrast=0.3)
        difference = change(image, result)
        assert region.kind == defect and region.mask.shape == (120, 160) and region.mask.dtype == bool
        grown = cv2.dilate(region.mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        assert difference[region.mask].mean() > 3 * max(1.0, difference[~grown].mean())
        assert difference.sum() == 0 or difference[grown].sum() > 0.6 * difference.sum()


def test_every_spreading_type_is_a_defect_type():
    assert set(KINDS) == set(DEFECTS) and set(EXPANSES) < set(DEFECTS)
    assert set(photograph_kinds(None)) == set(BLEMISHES) and set(photograph_expanses(None)) < set(BLEMISHES)


@pytest.mark.parametrize("degrees", [0, 30, 90, 135])
def test_the_texture_has_the_direction_of_its_lines(degrees):
    angle = np.radians(degrees)
    y, x = np.mgrid[:120, :160].astype(float)
    across = x * np.sin(angle) - y * np.cos(angle)  # constant along (cos, sin)
    lines = np.repeat((128 + 40 * np.sin(across / 2))[..., None], 3, 2).astype(np.uint8)
    found = texture_direction(lines)
    assert found is not None and abs((found - angle + np.pi / 2) % np.pi - np.pi / 2) < np.radians(3)


def test_noise_and_nothing_have_no_direction():
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 1), dtype=np.uint8).repeat(3, 2)
    assert texture_direction(noise) is None
    assert texture_direction(np.full((50, 60, 3), 90, np.uint8)) is None


def test_chips_sit_on_the_border_and_pores_do_not():
    def share(defect):
        count = 0
        for seed in range(20):
            _, regions = painted(plate(), seed, defects=(defect,), count=(1, 1))
            edge = np.zeros((120, 160), bool)
            edge[:2] = edge[-2:] = edge[:, :2] = edge[:, -2:] = True
            count += bool(regions) and bool(regions[0].mask[edge].any())
        return count / 20

    assert share("chip") > 0.7 and share("pore") < 0.3


def test_a_hairline_runs_along_or_across_the_grain():
    y, x = np.mgrid[:160, :160].astype(float)
    turn = np.radians(30)
    lines = 128 + 20 * np.sin((x * np.sin(turn) - y * np.cos(turn)) / 1.5)
    image = np.repeat(lines[..., None], 3, 2).astype(np.uint8)
    aligned = 0
    for seed in range(30):
        _, regions = painted(image, seed, defects=("hairline",), count=(1, 1), size=0.15)
        points = np.argwhere(regions[0].mask)[:, ::-1]
        axis = np.linalg.svd(points - points.mean(0), full_matrices=False)[2][0]
        off = (np.arctan2(axis[1], axis[0]) - turn) % (np.pi / 2)
        aligned += min(off, np.pi / 2 - off) < np.radians(15)
    assert aligned > 18  # by chance: a third


def test_same_chance_same_defects_and_the_photograph_is_left_alone():
    image = plate()
    kept = image.copy()
    (once, first), (again, second) = (painted(image, 7) for _ in range(2))
    assert np.array_equal(once, again) and np.array_equal(image, kept) and not np.array_equal(once, image)
    assert [region.kind for region in first] == [region.kind for region in second]
    assert not np.array_equal(once, painted(image, 8)[0])


def test_nothing_is_painted_outside_the_foreground():
    image, disc = plate(), np.zeros((120, 160), np.uint8)
    cv2.circle(disc, (80, 60), 40, 1, -1)
    for seed in range(30):
        result, regions = paint_defects(
            image, rng=np.random.default_rng(seed), settings=PaintSettings(expanse_share=0.5), foreground=disc > 0
        )
        assert change(image, result)[disc == 0].max() == 0
        assert all(not region.mask[disc == 0].any() for region in regions)


def test_without_a_foreground_a_margin_stays_clean():
    image = plate()
    for seed in range(10):
        result, _ = painted(image, seed, margin=0.1, expanse_share=1.0)
        border = np.ones((120, 160), bool)
        border[12:-12, 12:-12] = False
        assert change(image, result)[border].max() == 0


def test_a_grey_photograph_stays_grey():
    image = plate(tint=(128, 128, 128))
    for seed in range(20):
        result, _ = painted(image, seed)
        assert np.array_equal(result[..., 0], result[..., 1]) and np.array_equal(result[..., 1], result[..., 2])


def test_defects_do_not_overlap_and_count_is_kept():
    for seed in range(10):
        _, regions = painted(plate(), seed, defects=("stain", "hole"), count=(6, 8), size=0.2, expanse_share=0.0)
        assert 4 <= len(regions) <= 8
        assert np.sum([region.mask for region in regions], axis=0).max() == 1


def test_contrast_and_size_follow_the_settings():
    image = plate(256, 256)

    def typical(**settings):
        found = [(change(image, result), regions[0].mask) for result, regions in
                 (painted(image, seed, defects=("hole",), count=(1, 1), **settings) for seed in range(12))]  # fmt: skip
        return np.mean([difference[mask].mean() for difference, mask in found]), np.mean(
            [mask.sum() for _, mask in found]
        )

    faint, _ = typical(contrast=0.06)
    strong, small = typical(contrast=0.3)
    _, large = typical(contrast=0.3, size=0.3)
    assert strong > 2 * faint and large > 4 * small


@pytest.mark.parametrize("shape", [(64, 64), (80, 512), (1024, 700)])
def test_any_size_of_photograph(shape):
    image = plate(*shape)
    least = PaintSettings().min_area * shape[0] * shape[1] / 256**2
    for seed in range(3):
        result, regions = painted(image, seed)
        assert result.shape == image.shape and result.dtype == np.uint8
        assert all(region.mask.shape == shape and region.mask.sum() >= least for region in regions)


@pytest.mark.parametrize("value", [0, 255])
def test_black_and_white_photographs_can_be_painted(value):
    image = np.full((100, 100, 3), value, np.uint8)
    result, regions = painted(image, 1, defects=("hole",), count=(1, 1))
    assert regions and change(image, result)[regions[0].mask].mean() > 5


def test_a_foreground_too_small_for_any_defect_gives_none():
    image, dot = plate(), np.zeros((120, 160), bool)
    result, regions = paint_defects(image, rng=np.random.default_rng(0), settings=PaintSettings(), foreground=dot)
    assert regions == () and np.array_equal(result, image)
    dot[50, 50] = True
    result, regions = paint_defects(image, rng=np.random.default_rng(0), settings=PaintSettings(), foreground=dot)
    assert regions == () and np.array_equal(result, image)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"defects": ("rust",)}, "rust"),
        ({"defects": ()}, "defects"),
        ({"count": (3, 1)}, "count"),
        ({"size_range": (0.5, 0.1)}, "size_range"),
    ],
)
def test_wrong_settings_are_named(settings, said):
    with pytest.raises(UserError, match=said):
        PaintSettings(**settings)


@pytest.mark.parametrize("scale", [1, 8])
def test_the_foreground_of_a_product_on_a_plain_bench(scale):
    image = plate(120 * scale, 160 * scale, tint=(200, 200, 200))
    cv2.circle(image, (80 * scale, 60 * scale), 35 * scale, (60, 70, 90), -1)
    disc = np.zeros((120 * scale, 160 * scale), np.uint8)
    cv2.circle(disc, (80 * scale, 60 * scale), 35 * scale, 1, -1)
    guess = estimate_foreground(image)
    assert (guess & (disc > 0)).sum() / (guess | (disc > 0)).sum() > 0.9


def test_shading_is_no_bench():
    y, x = np.mgrid[:120, :160].astype(float)
    dome = 90 + 80 * np.exp(-((x - 80) ** 2 + (y - 60) ** 2) / 1500)
    assert estimate_foreground(np.repeat(dome[..., None], 3, 2).astype(np.uint8)).all()


def test_a_photograph_without_a_bench_is_all_foreground():
    assert estimate_foreground(plate()).all()
