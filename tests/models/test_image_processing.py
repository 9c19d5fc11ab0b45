"""MedSAM's preprocessing beside the formula and OpenCV's resizing."""

import cv2
import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, SamProcessor

from visionsam_hf.models.image_processing import MinMaxSamImageProcessor, make_processor


def photograph(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng([height, width])
    rows, columns = np.mgrid[:height, :width]
    planes = [120 + 60 * np.sin(columns / 9), 110 + 60 * np.cos(rows / 7), 90 + 0 * rows]
    return (np.stack(planes, -1) + rng.normal(0, 10, (height, width, 3))).clip(20, 230).astype(np.uint8)


@pytest.mark.parametrize("height, width", [(96, 72), (50, 90), (20, 33), (64, 64)])
def test_an_image_is_resized_by_areas_then_stretched_then_padded(height, width):
    image = photograph(height, width)
    scale = 64 / max(height, width)
    inner = int(height * scale + 0.5), int(width * scale + 0.5)
    small = cv2.resize(image, inner[::-1], interpolation=cv2.INTER_AREA)
    stretched = (small - small.min()) / np.clip(small.max() - small.min(), 1e-8, None)
    expected = np.pad(stretched, ((0, 64 - inner[0]), (0, 64 - inner[1]), (0, 0)))
    pixels = make_processor(64, 64, min_max=True)(images=image, return_tensors="pt")["pixel_values"]
    assert pixels.dtype == torch.float32 and pixels.shape == (1, 3, 64, 64)
    np.testing.assert_allclose(pixels[0].permute(1, 2, 0).numpy(), expected, atol=1e-6)


def test_an_image_of_one_colour_is_zeros_and_each_image_has_its_own_range():
    flat, image = np.full((64, 64, 3), 90, np.uint8), photograph(64, 64)
    pixels = make_processor(64, 64, min_max=True)(images=[flat, image, image // 2], return_tensors="pt")["pixel_values"]
    assert float(pixels[0].abs().max()) == 0
    assert [float(each.max()) for each in pixels[1:]] == [1, 1] and [float(each.min()) for each in pixels[1:]] == [0, 0]


def test_label_maps_are_not_stretched():
    labels = np.zeros((32, 64), np.uint8)
    labels[:, 32:] = 7
    encoded = make_processor(64, 16, min_max=True)(images=photograph(32, 64), segmentation_maps=labels, return_tensors="pt")
    assert encoded["labels"].shape == (1, 16, 16) and sorted(encoded["labels"].unique().tolist()) == [0, 7]


def test_it_is_saved_and_found_by_its_name(tmp_path):
    image, processor = photograph(40, 60), make_processor(64, 16, min_max=True)
    processor.save_pretrained(tmp_path / "whole")
    processor.image_processor.save_pretrained(tmp_path / "alone")
    whole = SamProcessor.from_pretrained(tmp_path / "whole")
    alone = AutoImageProcessor.from_pretrained(tmp_path / "alone")
    assert type(whole.image_processor) is type(alone) is MinMaxSamImageProcessor
    for loaded in (whole, alone):
        expected = processor(images=image, return_tensors="pt")["pixel_values"]
        assert torch.equal(loaded(images=image, return_tensors="pt")["pixel_values"], expected)
    assert whole.image_processor.mask_size == {"longest_edge": 16}


def test_mobile_sam_is_preprocessed_as_sam_is():
    image = photograph(32, 64)
    pixels = make_processor(64, 16)(images=image, return_tensors="pt")["pixel_values"][0]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(pixels[:, :32].permute(1, 2, 0), (image / 255 - mean) / std, atol=1e-5)
    assert float(pixels[:, 32:].abs().max()) == 0
