"""What happens to an image before the encoder, where it differs from SAM's own way."""

from typing import Any

import cv2
import numpy as np
from PIL.Image import Resampling
from transformers import SamProcessor
from transformers.image_utils import SizeDict
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil


class MinMaxSamImageProcessor(SamImageProcessorPil):
    """MedSAM's preprocessing: every image is stretched to [0, 1] by its own smallest and largest value, all channels together.

    As in LiteMedSAM's own code the longer side is resized by averaging areas (OpenCV's INTER_AREA; Pillow's filters differ
    from it by up to a sixth of the range), then the image is stretched, then padded with zeros.
    Mean 0 and deviation 1 say that nothing is done besides; other values would be ignored.
    """

    resample = Resampling.BOX
    do_rescale = False
    image_mean = [0.0, 0.0, 0.0]
    image_std = [1.0, 1.0, 1.0]

    def resize(self, image: np.ndarray, size: SizeDict, resample: Resampling | None = None, **kwargs: Any) -> np.ndarray:
        """(3, H, W) to the size whose longer side is asked for; maps of labels by their nearest pixel, as in SAM."""
        if resample != self.resample:
            return super().resize(image, size, resample=resample, **kwargs)
        height, width = self._get_preprocess_shape(image.shape[-2:], size.longest_edge)
        pixels = np.ascontiguousarray(np.moveaxis(image, 0, -1))
        return np.moveaxis(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), -1, 0)

    def normalize(self, image: np.ndarray, mean: list[float], std: list[float], **kwargs: Any) -> np.ndarray:
        """(3, H, W) of any range to float32 in [0, 1]; an image of one colour becomes zeros."""
        image = image.astype(np.float32)
        low, high = image.min(), image.max()
        return (image - low) / max(high - low, np.float32(1e-8))


def make_processor(image_size: int, mask_size: int, *, min_max: bool = False) -> SamProcessor:
    """The processor of a model with these squares.

    Args:
        image_size: side of the padded square in pixels.
        mask_size: side of the square of mask logits, four times the embeddings' grid.
        min_max: stretch each image by its own range (MedSAM, LiteMedSAM) instead of ImageNet's mean and deviation.
    """
    kind = MinMaxSamImageProcessor if min_max else SamImageProcessorPil
    return SamProcessor(
        kind(
            size={"longest_edge": image_size},
            pad_size={"height": image_size, "width": image_size},
            mask_size={"longest_edge": mask_size},
            mask_pad_size={"height": mask_size, "width": mask_size},
        )
    )


# Its code, this file, is saved beside every model that has one (`auto_classes`).
MinMaxSamImageProcessor.register_for_auto_class()
