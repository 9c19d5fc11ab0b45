"""Prompts to masks at the original size: of every object of a data set, or on a grid over a photograph.

The grid is SAM's automatic mask generation: masks without a prompt, of which the sure, stable and different ones are
kept. The pipeline of transformers that does it needs torchvision, which this package does without; and it works at the
photograph's size, which for a 12-megapixel photograph takes gigabytes. Here masks are sorted out on the grid of the
logits, and only those that are kept grow to the photograph's size.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import cv2
import datasets
import numpy as np
import torch
from PIL.Image import Image
from transformers import SamModel, SamProcessor

from visionsam_hf.data.geometry import logits_to_original, to_square, valid_region
from visionsam_hf.data.masks import decode_rle, mask_box
from visionsam_hf.data.prompts import interior_point, negative_point
from visionsam_hf.embeddings.cache import EmbeddingCache
from visionsam_hf.embeddings.decoding import decode_image
from visionsam_hf.models.decoder import predict_tokens
from visionsam_hf.models.loading import image_side, mask_side

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
        size = truths[0].shape
        logits, scores = predict_at(model, embedding, boxes, prompt_points(boxes, truths, prompt), size, prompt)
        full = logits_to_original(logits, size, image_side(model)) > 0
        return full.cpu().numpy(), scores.float().cpu().numpy()

    rows = iterate_embeddings(model, processor, dataset, cache=cache, max_prompts=max_prompts)
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
    model: SamModel,
    processor: SamProcessor,
    dataset: datasets.Dataset,
    *,
    cache: EmbeddingCache | None,
    max_prompts: int | None = None,
) -> Iterator[tuple[int, dict, torch.Tensor]]:
    """Every row that has objects: its index, the row with its image undecoded, and the image's (C, h, w) embedding.

    Args:
        cache: filled first with what it lacks of these rows.
        max_prompts: stop after the row with so many objects before it and in it.
    """
    places, objects = [], 0
    for index, row in enumerate(dataset.select_columns(["objects"])):
        if max_prompts is not None and objects >= max_prompts:
            break
        if row["objects"]:
            places.append(index)
            objects += len(row["objects"])
    asked = dataset.select(places)
    keys = cache.add(asked) if cache is not None else []
    for place, row in enumerate(asked.cast_column("image", datasets.Image(decode=False))):
        if cache is not None:
            yield places[place], row, cache[keys[place]]
        else:
            yield places[place], row, encode_image(model, processor, decode_image(row["image"]))


@torch.inference_mode()
def encode_image(model: SamModel, processor: SamProcessor, image: Image) -> torch.Tensor:
    """The (C, h, w) embedding of one PIL image."""
    pixels = processor(images=image, return_tensors="pt")["pixel_values"].to(model.device)
    return model.vision_encoder(pixels).last_hidden_state[0]


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


_BATCH = 64  # points a decoder call
_STABILITY_OFFSET = 1.0
_SAME_BOX_IOU = 0.7
# A mask that takes nearly all of the image is the product, not something on it.
_WHOLE_IMAGE = 0.95


@dataclass(frozen=True)
class GeneratedMask:
    """One mask: (H, W) bool, the predicted IoU, its stability, and the point (x, y) in original pixels that gave it."""

    mask: np.ndarray
    score: float
    stability: float
    point: tuple[float, float]


def generate_masks(
    model: SamModel,
    embedding: torch.Tensor,
    original_size: Sequence[int],
    *,
    points_per_side: int = 32,
    min_score: float = 0.88,
    min_stability: float = 0.95,
) -> Iterator[GeneratedMask]:
    """The masks of a whole photograph, the best-scored first.

    Args:
        embedding: (C, h, w) of the photograph.
        original_size: (H, W).
        points_per_side: of the grid of points.
        min_score: masks whose predicted IoU is below it are dropped.
        min_stability: masks that change more than this IoU when the logits' threshold moves by 1 are dropped.
    """
    points = grid_points(original_size, points_per_side)
    valid = torch.from_numpy(valid_region(original_size, mask_side(model)))
    kept: list[tuple[float, float, np.ndarray, torch.Tensor]] = []
    for start in range(0, len(points), _BATCH):
        asked = points[start : start + _BATCH]
        both = np.zeros((len(asked), 2, 2), np.float32)
        both[:, 0] = asked
        no_boxes = np.zeros((len(asked), 4), np.float32)
        logits, scores = predict_at(model, embedding, no_boxes, both, original_size, "point")
        # Token 0 is for prompts that leave no doubt; a point on a grid does.
        logits = logits[:, 1:].float().cpu().masked_fill(~valid, -torch.inf)
        scores = scores[:, 1:].float().cpu()
        stable = stability(logits)
        share = (logits > 0).sum((-2, -1)) / valid.sum()
        good = (scores >= min_score) & (stable >= min_stability) & (share > 0) & (share < _WHOLE_IMAGE)
        for place, token in good.nonzero().tolist():
            found = logits[place, token].clone()
            kept.append((float(scores[place, token]), float(stable[place, token]), asked[place], found))
    boxes = np.array([mask_box((logits > 0).numpy()) for *_, logits in kept]).reshape(-1, 4)
    for place in suppress(boxes, np.array([score for score, *_ in kept])):
        score, stable_share, point, found = kept[place]
        mask = (logits_to_original(found[None], original_size, image_side(model))[0] > 0).numpy()
        if mask.any():
            yield GeneratedMask(mask, score, stable_share, (float(point[0]), float(point[1])))


def grid_points(original_size: Sequence[int], per_side: int) -> np.ndarray:
    """(per_side², 2) float32 (x, y) at the centres of equal cells of an (H, W) image, row by row."""
    height, width = original_size
    steps = (np.arange(per_side) + 0.5) / per_side
    x, y = np.meshgrid(steps * width, steps * height)
    return np.stack([x.ravel(), y.ravel()], 1).astype(np.float32)


def stability(logits: torch.Tensor) -> torch.Tensor:
    """(...) IoU of the masks (..., h, w) above +1 and above −1: near 1 where the edge is sharp, 0 without a mask."""
    inner = (logits > _STABILITY_OFFSET).sum((-2, -1))
    outer = (logits > -_STABILITY_OFFSET).sum((-2, -1))
    return inner / outer.clamp(min=1)


def suppress(boxes: np.ndarray, scores: np.ndarray, *, same: float = _SAME_BOX_IOU) -> list[int]:
    """Which of (N, 4) boxes [x1, y1, x2, y2) stay when of those with an IoU above `same` only the best-scored does."""
    corners = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)  # [x, y, width, height]
    return [int(place) for place in cv2.dnn.NMSBoxes(corners.tolist(), scores.tolist(), 0.0, same)]
