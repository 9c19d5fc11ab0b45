"""Masks for the objects of a data set, at the original size: what evaluation, candidates and `predict` build on."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import datasets
import numpy as np
import torch
from PIL.Image import Image
from transformers import SamModel, SamProcessor

from visionsam_hf.decoding import predict_tokens
from visionsam_hf.embeddings import EmbeddingCache, decode_image
from visionsam_hf.geometry import logits_to_original, to_square
from visionsam_hf.modeling import image_side
from visionsam_hf.prompts import interior_point, negative_point
from visionsam_hf.schema import decode_rle

Encoded = TypeVar("Encoded")


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

    def answer(
        embedding: torch.Tensor, boxes: np.ndarray, truths: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        logits, scores = predict_prompts(model, embedding, boxes, truths, prompt)
        full = logits_to_original(logits, truths[0].shape, image_side(model)) > 0
        return full.cpu().numpy(), scores.float().cpu().numpy()

    rows = iterate_embeddings(model, processor, dataset, cache=cache)
    names = dataset.features["category"].names
    return iterate_answers(rows, names, answer, prompt=prompt, batch_size=batch_size, max_prompts=max_prompts)


def iterate_answers(
    rows: Iterable[tuple[int, dict, Encoded]],
    names: Sequence[str],
    answer: Callable[[Encoded, np.ndarray, Sequence[np.ndarray]], tuple[np.ndarray, np.ndarray]],
    *,
    prompt: str,
    batch_size: int = 8,
    max_prompts: int | None = None,
) -> Iterator[PromptResult]:
    """Ask whatever answers prompts for every object of some rows.

    Args:
        rows: the row's index, the row of the segmentation schema, and the image as `answer` wants it.
        names: of the categories.
        answer: the encoded image, (N, 4) boxes in original pixels and N (H, W) truths to (N, 4, H, W) bool masks and
            (N, 4) scores.
        prompt, batch_size, max_prompts: as in `iterate_predictions`.
    """
    left = sys.maxsize if max_prompts is None else max_prompts
    for index, row, encoded in rows:
        truths = [decode_rle(item["rle"]) for item in row["objects"]]
        boxes = np.array([item["box"] for item in row["objects"]], np.float32)
        for start in range(0, len(truths), batch_size):
            stop = min(start + batch_size, len(truths), start + left)
            masks, scores = answer(encoded, boxes[start:stop], truths[start:stop])
            for place in range(start, stop):
                item = row["objects"][place]
                yield PromptResult(
                    row=index,
                    image_id=row["image_id"],
                    category=names[row["category"]],
                    object_index=place,
                    defect=item["defect"],
                    box=tuple(map(float, item["box"])),  # type: ignore[arg-type]  # four of them
                    prompt=prompt,
                    truth=truths[place],
                    masks=masks[place - start],
                    scores=scores[place - start],
                )
            left -= stop - start
            if left <= 0:
                return


def iterate_embeddings(
    model: SamModel, processor: SamProcessor, dataset: datasets.Dataset, *, cache: EmbeddingCache | None
) -> Iterator[tuple[int, dict, torch.Tensor]]:
    """Every row that has objects: its index, the row with its image undecoded, and the image's (C, h, w) embedding."""
    rows = dataset.cast_column("image", datasets.Image(decode=False))
    keys = cache.add(dataset) if cache is not None else []
    for index in range(len(rows)):
        row = rows[index]
        if row["objects"]:
            if cache is not None:
                yield index, row, cache[keys[index]]
            else:
                yield index, row, encode_image(model, processor, decode_image(row["image"]))


@torch.inference_mode()
def encode_image(model: SamModel, processor: SamProcessor, image: Image) -> torch.Tensor:
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
    points = prompt_points(boxes, truths, prompt)
    return predict_at(model, embedding, boxes, points, truths[0].shape, prompt)


def prompt_points(boxes: np.ndarray, truths: Sequence[np.ndarray], prompt: str) -> np.ndarray:
    """(N, 2, 2) float32 positive and negative (x, y) for N objects, in original pixels; zeros where `prompt` has none.

    Args:
        boxes: (N, 4) in original pixels. truths: N (H, W) bool, from which points are taken.
        prompt: "box", "point" or "point_pm".
    """
    points = np.zeros((len(boxes), 2, 2), np.float32)
    if prompt != "box":
        for index, (truth, box) in enumerate(zip(truths, boxes)):
            points[index, 0] = interior_point(truth)
            if prompt == "point_pm":
                points[index, 1] = negative_point(truth, box)
    return points


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
