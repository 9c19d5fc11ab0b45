"""Masks for the objects of a data set, at the original size: what evaluation, candidates and `predict` build on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import datasets
import numpy as np
import torch
from transformers import SamModel, SamProcessor

from visionsam_hf.decoding import predict_tokens
from visionsam_hf.embeddings import EmbeddingCache, decode_image
from visionsam_hf.geometry import logits_to_original, to_square
from visionsam_hf.modeling import image_side
from visionsam_hf.prompts import interior_point, negative_point
from visionsam_hf.schema import decode_rle


@dataclass(frozen=True)
class PromptResult:
    """What the model answers to one prompt.

    Attributes:
        row: row of the data set; image_id, category, object_index, defect: what was prompted.
        box: [x1, y1, x2, y2) in original pixels. prompt: its kind, "box", "point" or "point_pm".
        truth: (H, W) bool at the original size.
        masks: (4, H, W) bool: token 0 (single), then tokens 1 to 3.
        scores: (4,) float32 predicted IoU.
    """

    row: int
    image_id: str
    category: str
    object_index: int
    defect: str
    box: tuple[float, float, float, float]
    prompt: str
    truth: np.ndarray
    masks: np.ndarray
    scores: np.ndarray


def iterate_predictions(
    model: SamModel,
    processor: SamProcessor,
    dataset: datasets.Dataset,
    *,
    prompt: str = "box",
    cache: EmbeddingCache | None = None,
    batch_size: int = 8,
    max_prompts: int | None = None,
) -> Iterator[PromptResult]:
    """Every object of a segmentation data set as a prompt, in order; memory does not grow with the data set.

    Args:
        model, processor: a SAM; the model is used as it is (device, dtype).
        dataset: rows of the segmentation schema.
        prompt: "box" (the object's own), "point" (its deepest pixel) or "point_pm" (that and a negative one beside it).
        cache: reads and fills it; None encodes every image.
        batch_size: prompts of one image that share a decoder call.
        max_prompts: stop after so many.

    Yields:
        One `PromptResult` an object.
    """
    names = dataset.features["category"].names
    done = 0
    for index, row, embedding in iterate_embeddings(model, processor, dataset, cache=cache):
        truths = [decode_rle(item["rle"]) for item in row["objects"]]
        boxes = np.array([item["box"] for item in row["objects"]], np.float32)
        for start in range(0, len(truths), batch_size):
            stop = min(start + batch_size, len(truths))
            if max_prompts is not None:
                stop = min(stop, start + max_prompts - done)
            logits, scores = predict_prompts(model, embedding, boxes[start:stop], truths[start:stop], prompt)
            full = (logits_to_original(logits, truths[0].shape, image_side(model)) > 0).cpu().numpy()
            for offset in range(stop - start):
                item = row["objects"][start + offset]
                yield PromptResult(
                    row=index,
                    image_id=row["image_id"],
                    category=names[row["category"]],
                    object_index=start + offset,
                    defect=item["defect"],
                    box=tuple(float(value) for value in item["box"]),
                    prompt=prompt,
                    truth=truths[start + offset],
                    masks=full[offset],
                    scores=scores[offset].float().cpu().numpy(),
                )
            done += stop - start
            if max_prompts is not None and done >= max_prompts:
                return


def iterate_embeddings(
    model: SamModel, processor: SamProcessor, dataset: datasets.Dataset, *, cache: EmbeddingCache | None
) -> Iterator[tuple[int, dict, torch.Tensor]]:
    """Every row that has objects: its index, the row with its image undecoded, and the image's (C, h, w) embedding."""
    rows = dataset.cast_column("image", datasets.Image(decode=False))
    keys = cache.add(dataset) if cache is not None else None
    for index in range(len(rows)):
        row = rows[index]
        if row["objects"]:
            known = keys is not None
            yield index, row, cache[keys[index]] if known else encode_image(model, processor, decode_image(row["image"]))


@torch.inference_mode()
def encode_image(model: SamModel, processor: SamProcessor, image) -> torch.Tensor:
    """The (C, h, w) embedding of one PIL image."""
    pixels = processor(images=image, return_tensors="pt")["pixel_values"].to(model.device)
    return model.vision_encoder(pixels).last_hidden_state[0]


@torch.inference_mode()
def predict_prompts(
    model: SamModel, embedding: torch.Tensor, boxes: np.ndarray, truths: Sequence[np.ndarray], prompt: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N, 4, h, w) and scores (N, 4) for N prompts of one image.

    Args:
        embedding: (C, h, w).
        boxes: (N, 4) in original pixels. truths: N (H, W) bool, from which points are taken.
        prompt: the kind for all of them.
    """
    points = np.zeros((len(boxes), 2, 2), np.float32)
    if prompt != "box":
        for index, (truth, box) in enumerate(zip(truths, boxes)):
            points[index, 0] = interior_point(truth)
            if prompt == "point_pm":
                points[index, 1] = negative_point(truth, box)
    return predict_at(model, embedding, boxes, points, truths[0].shape, prompt)


@torch.inference_mode()
def predict_at(
    model: SamModel,
    embedding: torch.Tensor,
    boxes: np.ndarray,
    points: np.ndarray,
    original_size: Sequence[int],
    prompt: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N, 4, h, w) and scores (N, 4) for boxes (N, 4) or points (N, 2, 2) in original pixels of one image."""
    side, device = image_side(model), model.device
    logits, scores = predict_tokens(
        model,
        image_embeddings=embedding.to(device, model.dtype)[None],
        boxes=torch.from_numpy(to_square(boxes, original_size, side))[None].to(device),
        points=torch.from_numpy(to_square(points, original_size, side))[None].to(device),
        kinds=[prompt],
    )
    return logits[0], scores[0]
