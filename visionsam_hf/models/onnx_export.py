"""ONNX files of SAM's two halves, for deployment without PyTorch, and the check that they give its masks.

The encoder runs once an image, the decoder once for any number of prompts of it. Prompts are labelled points, as in
Meta's code, so boxes and points go through one file:

| prompt | points | labels |
|---|---|---|
| box | its two corners | 2, 3 |
| point | the point, and any one | 1, -1 |
| point± | the positive, the negative, and any one | 1, 0, -1 |
"""

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import SamModel, SamProcessor

from visionsam_hf.data.prompts import PROMPT_KINDS
from visionsam_hf.models.decoder import decode_by_modules, predict_tokens
from visionsam_hf.models.loading import image_side, mask_side

ENCODER, DECODER = "encoder.onnx", "decoder.onnx"
_OPSET = 18
# A file of the format cannot pass 2 GB; beyond, weights lie beside it.
_INLINE_BYTES = 1_900_000_000


class OnnxEncoder(nn.Module):
    """(B, 3, S, S) float32 pixels as the processor gives them to (B, C, h, w) image embeddings."""

    def __init__(self, model: SamModel) -> None:
        super().__init__()
        self.vision_encoder = model.vision_encoder

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.vision_encoder(pixel_values).last_hidden_state


class OnnxDecoder(nn.Module):
    """(1, C, h, w) embeddings, (N, P, 2) points and (N, P) labels to (N, 4, 4h, 4w) logits and (N, 4) scores.

    Points are in pixels of the padded square. Token 0 is SAM's single mask, 1 to 3 its three candidates.
    """

    def __init__(self, model: SamModel) -> None:
        super().__init__()
        self.decoder = model.mask_decoder
        prompts = model.prompt_encoder
        self.grid_encoding = prompts.shared_embedding
        self.side = float(image_side(model))
        labelled = torch.cat(
            [prompts.not_a_point_embed.weight, *(embedding.weight for embedding in prompts.point_embed)]
        )
        with torch.no_grad():
            self.register_buffer("by_label", labelled.clone())  # labels -1 to 3
            self.register_buffer("position", model.get_image_wide_positional_embeddings().clone())
            self.register_buffer("no_mask", prompts.no_mask_embed.weight.reshape(1, -1, 1, 1).clone())

    def forward(self, image_embeddings: Tensor, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        where = 2 * (points + 0.5) / self.side - 1
        angles = 2 * torch.pi * (where @ self.grid_encoding.positional_embedding)
        encoded = torch.cat([angles.sin(), angles.cos()], dim=-1)
        # A padding point is its label's embedding alone.
        prompts = encoded * (labels >= 0).unsqueeze(-1) + self.by_label[labels + 1]
        # As so many images of one prompt each.
        image = (image_embeddings + self.no_mask).expand(points.shape[0], -1, -1, -1)
        logits, scores = decode_by_modules(self.decoder, image, self.position, prompts.unsqueeze(1))
        return logits[:, 0], scores[:, 0]


def labelled_points(kind: str, boxes: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Prompts of one kind as the decoder's inputs.

    Args:
        kind: of `PROMPT_KINDS`.
        boxes: (N, 4), read for boxes. points: (N, 2, 2) positive and negative point, read for the others.

    Returns:
        (N, P, 2) float32 points and (N, P) int64 labels.
    """
    if kind == "box":
        coordinates, labels = boxes.reshape(-1, 2, 2), [2, 3]
    else:
        used = points[:, : 1 if kind == "point" else 2]
        coordinates, labels = np.concatenate([used, np.zeros_like(used[:, :1])], 1), [1, 0][: used.shape[1]] + [-1]
    return coordinates.astype(np.float32), np.tile(np.array(labels, np.int64), (len(coordinates), 1))


def export_onnx(model: SamModel, directory: Path) -> None:
    """Write encoder.onnx and decoder.onnx; the number of images, of prompts and of their points stays free."""
    side, grid = image_side(model), mask_side(model) // 4
    channels = model.config.vision_config.output_channels
    model = model.cpu().float().eval()
    batch, prompts, points = (torch.export.Dim(name) for name in ("images", "prompts", "points"))
    _write(
        OnnxEncoder(model), directory / ENCODER, {"pixel_values": torch.zeros(2, 3, side, side)}, ["image_embeddings"],
        {"pixel_values": {0: batch}},
    )
    inputs = {
        "image_embeddings": torch.zeros(1, channels, grid, grid),
        "points": torch.zeros(3, 2, 2),
        "labels": torch.tensor([[2, 3]] * 3),
    }
    shapes = {"image_embeddings": {}, "points": {0: prompts, 1: points}, "labels": {0: prompts, 1: points}}
    _write(OnnxDecoder(model), directory / DECODER, inputs, ["logits", "scores"], shapes)


def _write(module: nn.Module, path: Path, inputs: dict[str, Tensor], outputs: list[str], shapes: dict) -> None:
    size = sum(value.numel() * value.element_size() for value in module.state_dict().values())
    # The exporter warns about its own insides.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), kwargs=inputs, f=str(path), input_names=list(inputs), output_names=outputs,
            dynamic_shapes=shapes, opset_version=_OPSET, dynamo=True, external_data=size > _INLINE_BYTES, verbose=False,
        )


@dataclass(frozen=True)
class Agreement:
    """How the two ways of running a model compare: IoU of their masks by prompt kind, and the largest difference of logits."""

    iou: dict[str, float]
    logit_difference: float


def compare(
    model: SamModel, processor: SamProcessor, directory: Path, *, images: int = 2, prompts: int = 5
) -> Agreement:
    """Masks of the ONNX files beside PyTorch's, on drawn images and prompts of every kind.

    The IoU pools the pixels of all prompts and of the four tokens, on the logits' grid.
    """
    import onnxruntime  # of the extra [onnx]

    encoder, decoder = (
        onnxruntime.InferenceSession(str(directory / name), providers=["CPUExecutionProvider"])
        for name in (ENCODER, DECODER)
    )
    side = image_side(model)
    rng = np.random.default_rng([0, images, prompts])
    shared, either = dict.fromkeys(PROMPT_KINDS, 0), dict.fromkeys(PROMPT_KINDS, 0)
    difference = 0.0
    for _ in range(images):
        pixels = processor(images=_drawn_image(rng, side), return_tensors="pt")["pixel_values"]
        embedding = encoder.run(None, {"pixel_values": pixels.numpy()})[0]
        for kind in PROMPT_KINDS:
            corners = np.sort(rng.uniform(0, side, (prompts, 2, 2)), axis=1).astype(np.float32)
            boxes, points = corners.reshape(-1, 4), rng.uniform(0, side, (prompts, 2, 2)).astype(np.float32)
            with torch.inference_mode():
                expected, _ = predict_tokens(
                    model, pixel_values=pixels, boxes=torch.from_numpy(boxes)[None],
                    points=torch.from_numpy(points)[None], kinds=[kind],
                )
            coordinates, labels = labelled_points(kind, boxes, points)
            logits, _ = decoder.run(None, {"image_embeddings": embedding, "points": coordinates, "labels": labels})
            ours, theirs = expected[0].numpy(), logits
            difference = max(difference, float(np.abs(ours - theirs).max()))
            shared[kind] += int(((ours > 0) & (theirs > 0)).sum())
            either[kind] += int(((ours > 0) | (theirs > 0)).sum())
    return Agreement({kind: shared[kind] / either[kind] if either[kind] else 1.0 for kind in PROMPT_KINDS}, difference)


def _drawn_image(rng: np.random.Generator, side: int) -> np.ndarray:
    """(3/4 side, side, 3) uint8: noise with a few dark discs, so that there is something to segment."""
    height, width = 3 * side // 4, side
    pixels = 150 + 20 * rng.standard_normal((height, width, 3))
    rows, columns = np.mgrid[:height, :width]
    for _ in range(4):
        x, y, radius = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.05, 0.2) * side
        pixels[(columns - x) ** 2 + (rows - y) ** 2 < radius**2] -= 70
    return pixels.clip(0, 255).astype(np.uint8)
