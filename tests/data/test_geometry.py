import numpy as np
import pytest
import torch
from conftest import tiny_processor
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from visionsam_hf.data.geometry import (
    join_windows,
    logits_to_original,
    mask_to_target,
    masks_to_original,
    resized_size,
    to_square,
    valid_region,
)
from visionsam_hf.data.windows import Window, crop, tile_grid


@settings(max_examples=50, deadline=None)
@given(height=st.integers(8, 300), width=st.integers(8, 300), data=st.data())
def test_boxes_go_where_sams_processor_puts_them(height, width, data):
    box = [data.draw(st.floats(0, width)), data.draw(st.floats(0, height)), float(width), float(height)]
    inputs = tiny_processor()(Image.new("RGB", (width, height)), input_boxes=[[box]], return_tensors="pt")
    expected = inputs["input_boxes"][0, 0].numpy()
    np.testing.assert_allclose(to_square(np.array(box), (height, width), 64), expected, rtol=1e-5, atol=1e-4)
    assert tuple(inputs["reshaped_input_sizes"][0].tolist()) == resized_size((height, width), 64)


@pytest.mark.parametrize("size", [(48, 64), (90, 33), (64, 64), (200, 201)])
def test_masks_come_back_as_post_process_masks_does(size):
    processor = tiny_processor()
    inputs = processor(Image.new("RGB", size[::-1]), return_tensors="pt")
    logits = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = processor.post_process_masks(
        logits[None], inputs["original_sizes"], inputs["reshaped_input_sizes"], binarize=False
    )[0]
    torch.testing.assert_close(logits_to_original(logits, size, 64), expected)


def test_a_hairline_survives_area_resizing_and_not_nearest():
    scratch = np.zeros((4000, 3000), bool)
    scratch[1001, 500:2500] = True
    area, valid = mask_to_target(scratch, 256)
    assert area.sum() == pytest.approx(scratch.sum() * (256 / 4000) ** 2, rel=0.01)
    assert valid.sum() == 256 * 192
    assert mask_to_target(scratch, 256, resize="nearest")[0].sum() == 0


def test_target_by_hand():
    mask = np.zeros((4, 8), bool)
    mask[0, 0:3] = True
    target, valid = mask_to_target(mask, 4)
    expected = np.zeros((4, 4), np.float32)
    expected[0, :2] = [0.5, 0.25]
    np.testing.assert_allclose(target, expected)
    np.testing.assert_array_equal(valid, [[True] * 4, [True] * 4, [False] * 4, [False] * 4])


def test_small_images_are_enlarged():
    mask = np.zeros((8, 8), bool)
    mask[:4] = True
    target, valid = mask_to_target(mask, 32)
    assert valid.all() and target[:12].min() == 1 and target[20:].max() == 0


def test_an_image_one_pixel_wide_keeps_an_inside():
    assert valid_region((4000, 1), 16).sum() == 16
    assert mask_to_target(np.ones((4000, 1), bool), 16)[0].sum() == 16


def test_refuses_other_ways_to_resize():
    with pytest.raises(ValueError, match="area"):
        mask_to_target(np.ones((4, 4), bool), 4, resize="cubic")


WINDOWS = st.builds(Window, st.integers(0, 90), st.integers(0, 60), st.integers(5, 110), st.integers(5, 90))


@settings(max_examples=60, deadline=None)
@given(WINDOWS, st.integers(0, 2**16))
def test_a_window_is_an_image_of_its_own(window, seed):
    """Prompts go where they would in the cut image; masks come back as its masks, pasted."""
    rng, size = np.random.default_rng(seed), (150, 200)
    boxes = rng.uniform(0, 1, (3, 4)) * ([window.width, window.height] * 2)
    offset = np.array([window.x, window.y] * 2)
    np.testing.assert_allclose(to_square(boxes + offset, size, 64, window), to_square(boxes, window.size, 64), atol=1e-4)
    logits = torch.from_numpy(rng.standard_normal((2, 3, 16, 16)).astype(np.float32))
    full = logits_to_original(logits, size, 64, window)
    inside = full[..., window.y : window.y + window.height, window.x : window.x + window.width]
    torch.testing.assert_close(inside, logits_to_original(logits, window.size, 64), rtol=0, atol=0)
    assert full.isfinite().sum() == 6 * window.width * window.height and not (full == torch.inf).any()
    assert (masks_to_original(logits, size, 64, window) == (full > 0).numpy()).all()
    assert (masks_to_original(logits, size, 64) == (logits_to_original(logits, size, 64) > 0).numpy()).all()


@settings(max_examples=30, deadline=None)
@given(WINDOWS, st.integers(0, 2**16))
def test_a_target_in_a_window_comes_back_as_the_mask(window, seed):
    rng = np.random.default_rng(seed)
    mask = np.zeros((150, 200), bool)
    x, y = rng.integers(window.x, window.x + window.width), rng.integers(window.y, window.y + window.height)
    mask[y : y + window.height // 2 + 1, x : x + window.width // 2 + 1] = True
    target, valid = mask_to_target(crop(mask, window), 128)
    assert valid.sum() >= 128 and not target[~valid].any()
    back = masks_to_original(torch.from_numpy(target - 0.5)[None, None], mask.shape, 512, window)[0, 0]
    shown = np.zeros_like(mask)
    crop(shown, window)[...] = crop(mask, window)
    # At four cells a pixel or fewer only pixels at its edge may differ.
    assert (back ^ shown).sum() <= 2 * (window.width + window.height) * max(1, max(window.size) / 128)
    assert not back[: window.y].any() and not back[:, : window.x].any()


@pytest.mark.parametrize("size", [(150, 200), (96, 300), (150, 90)])
def test_joined_windows_show_no_seam(size):
    """A constant stays one; a gradient stays itself away from the border of the photograph, where resizing flattens it."""
    tiles = tile_grid(size, 96)
    assert len(tiles) > 1
    joined = join_windows([(tile, torch.full((24, 24), 0.7)) for tile in tiles], size, 96)
    torch.testing.assert_close(joined, torch.full(size, 0.7))
    # A tile's logits are the plane at the centres of its cells, of as many pixels as the longer side says.
    rows, columns = np.mgrid[: size[0], : size[1]]
    plane = torch.from_numpy(0.1 * columns - 0.05 * rows).float()

    def seen(tile):
        cell = max(tile.size) / 24
        down, across = (torch.arange(24) + 0.5) * cell - 0.5 + tile.y, (torch.arange(24) + 0.5) * cell - 0.5 + tile.x
        return 0.1 * across - 0.05 * down[:, None]

    joined = join_windows([(tile, seen(tile)) for tile in tiles], size, 96)
    error = (joined - plane).abs()
    assert error[3:-3, 3:-3].max() < 0.06  # a step of the gradient is 0.1 a pixel
    # The worst step from a pixel to the next is the plane's own.
    assert (joined[3:-3, 3:-3].diff(dim=1) - 0.1).abs().max() < 0.06
    alone = join_windows([(tiles[0], seen(tiles[0]))], size, 96)
    assert (alone.isfinite().numpy() == crop_of_ones(size, tiles[0])).all()


def crop_of_ones(size, window):
    shown = np.zeros(size, bool)
    crop(shown, window)[...] = True
    return shown
