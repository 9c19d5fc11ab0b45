"""Promptable models beside SAM: what transformers has of the family, asked the same prompts through one adapter each.

SAM-HQ sees SAM's padded square. SAM 2 and EdgeTAM see the image stretched to a square, and keep features of several
sizes. Their checkpoints are mostly saved as video models, whose weights the image models read.
"""

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import PreTrainedConfig, PreTrainedModel, SamImageProcessorPil
from transformers.image_processing_base import ImageProcessingMixin

from visionsam_hf.data.errors import UserError
from visionsam_hf.data.geometry import logits_to_original, to_square
from visionsam_hf.data.records import looks_local, resolve_model
from visionsam_hf.embeddings.decoding import decode_image
from visionsam_hf.inference.prediction import PromptResult, iterate_answers, prompt_points
from visionsam_hf.models.loading import load_weights
from visionsam_hf.models.lora import find_adapter, first_line
from visionsam_hf.models.mobile_sam_config import MobileSamConfig
from visionsam_hf.models.pretrained import find_pretrained


@dataclass(frozen=True)
class Adapter:
    """What differs between the families.

    Attributes:
        model_class: its name in transformers.
        stretches: the image is stretched to the square; otherwise its longest side is resized and the rest padded.
        encode: the model and (1, 3, H, W) pixels to the arguments that stand for the image in the model's `forward`.
    """

    model_class: str
    stretches: bool
    encode: Callable[[PreTrainedModel, torch.Tensor], dict[str, Any]]


def _encode_hq(model: PreTrainedModel, pixels: torch.Tensor) -> dict[str, Any]:
    embedding, intermediate = model.get_image_embeddings(pixels)
    return {"image_embeddings": embedding, "intermediate_embeddings": intermediate}


def _encode_pyramid(model: PreTrainedModel, pixels: torch.Tensor) -> dict[str, Any]:
    return {"image_embeddings": model.get_image_embeddings(pixels)}


_SAM2 = Adapter("Sam2Model", True, _encode_pyramid)
_EDGETAM = Adapter("EdgeTamModel", True, _encode_pyramid)
# By the `model_type` of config.json.
ADAPTERS = {
    "sam_hq": Adapter("SamHQModel", False, _encode_hq),
    "sam2": _SAM2,
    "sam2_video": _SAM2,
    "edgetam": _EDGETAM,
    "edgetam_video": _EDGETAM,
}


def model_family(name_or_path: str) -> str:
    """The `model_type` in a model's config.json: "sam", or a key of `ADAPTERS`.

    Raises:
        UserError: no such model, or one that takes no prompts.
    """
    if find_adapter(name_or_path) is not None:
        return "sam"  # whose base is one, or it cannot have been trained here
    find_pretrained(name_or_path)
    path = resolve_model(name_or_path)
    if looks_local(path) and not (Path(path) / "config.json").is_file():
        raise UserError(f"{name_or_path}: has no config.json; give a model directory, a Hub id, or visionsam-tiny")
    try:
        values, _ = PreTrainedConfig.get_config_dict(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{name_or_path}: its config cannot be read ({first_line(error)}); check the name") from None
    family = values.get("model_type")
    if family == MobileSamConfig.model_type:
        return "sam"  # with another encoder
    if family != "sam" and family not in ADAPTERS:
        known = ", ".join(["sam", *ADAPTERS])
        raise UserError(f"{name_or_path}: is a '{family}' model; give one that takes prompts: {known}")
    return family


def load_promptable(name_or_path: str) -> "Promptable":
    """A model of `ADAPTERS` in float32 with its preprocessing, from a directory or a Hub id.

    Raises:
        UserError: no such model, no safetensors, damaged weights, no preprocessing beside it, or a package it needs is
            not installed (EdgeTAM's backbone comes from timm).
    """
    family = model_family(name_or_path)
    adapter = ADAPTERS.get(family)
    if adapter is None:
        raise UserError(f"{name_or_path}: is a plain SAM; load it with load_model")
    model_class = getattr(importlib.import_module("transformers"), adapter.model_class)
    model = load_weights(model_class, name_or_path, name_or_path)
    try:
        settings, _ = ImageProcessingMixin.get_image_processor_dict(name_or_path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{name_or_path}: has no preprocessing ({first_line(error)}); save its processor beside the model"
        ) from None
    return Promptable(model.eval(), adapter, settings)


class Promptable:
    """A loaded model that answers boxes and points with four masks and scores, as SAM does.

    Args:
        model: of an adapter's class, in evaluation mode.
        adapter: of `ADAPTERS`.
        settings: its image processor's, as saved beside it.
    """

    def __init__(self, model: PreTrainedModel, adapter: Adapter, settings: dict[str, Any]) -> None:
        self.model, self.adapter, self.settings = model, adapter, settings
        side = model.config.prompt_encoder_config.image_size
        self.side = side if isinstance(side, int) else side[0]  # of the square that coordinates are given in
        self._padded = None if adapter.stretches else SamImageProcessorPil.from_dict(settings)

    def to(self, device: torch.device | str) -> "Promptable":
        """The same, on a device."""
        self.model.to(device)
        return self

    @torch.inference_mode()
    def encode(self, image: Image.Image) -> dict[str, Any]:
        """The arguments that stand for one RGB image in the model's `forward`."""
        if self._padded is not None:
            pixels = self._padded(images=image, return_tensors="pt")["pixel_values"]
        else:
            pixels = stretched_pixels(image, self.side, self.settings)
        return self.adapter.encode(self.model, pixels.to(self.model.device))

    @torch.inference_mode()
    def answer(
        self, encoded: dict[str, Any], boxes: np.ndarray, points: np.ndarray, original_size: Sequence[int], prompt: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """What the model gives for one mask, then for three; SAM-HQ orders the three by score.

        Args:
            encoded: of `encode`.
            boxes: (N, 4), points: (N, 2, 2) positive and negative, in original pixels.
            original_size: (H, W). prompt: "box", "point" or "point_pm".

        Returns:
            (N, 4, H, W) bool masks and (N, 4) float32 scores.
        """
        asked = self._prompts(boxes, points, original_size, prompt)
        outputs = [self.model(**encoded, **asked, multimask_output=several) for several in (False, True)]
        logits = torch.cat([output.pred_masks[0] for output in outputs], dim=1)
        scores = torch.cat([output.iou_scores[0] for output in outputs], dim=1)
        if self.adapter.stretches:
            full = F.interpolate(logits.float(), tuple(original_size), mode="bilinear", align_corners=False)
        else:
            full = logits_to_original(logits, original_size, self.side)
        return (full > 0).cpu().numpy(), scores.float().cpu().numpy()

    def _prompts(
        self, boxes: np.ndarray, points: np.ndarray, original_size: Sequence[int], prompt: str
    ) -> dict[str, torch.Tensor]:
        given = boxes if prompt == "box" else points[:, : 1 if prompt == "point" else 2]
        if self.adapter.stretches:
            height, width = original_size
            scale = np.array([self.side / width, self.side / height] * (2 if prompt == "box" else 1), np.float32)
            placed = np.asarray(given, np.float32) * scale
        else:
            placed = to_square(given, original_size, self.side)
        coordinates = torch.from_numpy(placed)[None].to(self.model.device)
        if prompt == "box":
            return {"input_boxes": coordinates}
        labels = torch.tensor([1, 0][: coordinates.shape[2]], device=self.model.device)
        return {"input_points": coordinates, "input_labels": labels.expand(coordinates.shape[:3])}


def stretched_pixels(image: Image.Image, side: int, settings: dict[str, Any]) -> torch.Tensor:
    """(1, 3, side, side) float32 pixels of an RGB image stretched to a square, scaled and normalised as `settings` say.

    transformers does this with torchvision only, which this package does without.
    """
    resized = image.resize((side, side), Image.Resampling(settings.get("resample", Image.Resampling.BILINEAR)))
    pixels = np.asarray(resized, np.float32) * settings.get("rescale_factor", 1 / 255)
    mean, std = (np.array(settings[name], np.float32) for name in ("image_mean", "image_std"))
    return torch.from_numpy(((pixels - mean) / std).transpose(2, 0, 1).copy())[None]


def iterate_promptable(
    promptable: Promptable,
    dataset: datasets.Dataset,
    *,
    prompt: str = "box",
    batch_size: int = 8,
    max_prompts: int | None = None,
) -> Iterator[PromptResult]:
    """A model's answer to every object of a segmentation data set; arguments as in `inference.iterate_predictions`."""

    def rows() -> Iterator[tuple[int, dict[str, Any], dict[str, Any]]]:
        for index, row in enumerate(dataset.cast_column("image", datasets.Image(decode=False))):
            if row["objects"]:
                yield index, row, promptable.encode(decode_image(row["image"]))

    def answer(
        encoded: dict[str, Any], boxes: np.ndarray, truths: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        points = prompt_points(boxes, truths, prompt)
        return promptable.answer(encoded, boxes, points, truths[0].shape, prompt)

    names = dataset.features["category"].names
    return iterate_answers(rows(), names, answer, prompt=prompt, batch_size=batch_size, max_prompts=max_prompts)
