"""Prompts to masks at the original size, each answered from its window: of every object of a data set, or of a photograph."""

import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import datasets
import numpy as np
import torch
from PIL.Image import Image
from transformers import SamModel, SamProcessor

from visionsam_hf.data.geometry import masks_to_original, to_square
from visionsam_hf.data.masks import decode_rle
from visionsam_hf.data.prompts import interior_point, negative_point
from visionsam_hf.data.windows import Window, WindowRule, rule_of, window_key
from visionsam_hf.embeddings.cache import EmbeddingCache
from visionsam_hf.embeddings.decoding import decode_image
from visionsam_hf.inference import TOKENS
from visionsam_hf.models.decoder import predict_tokens
from visionsam_hf.models.loading import image_side

Encoded = TypeVar("Encoded")
# The (C, h, w) embedding of a window of one photograph; None is all of it.
Look = Callable[[Window | None], torch.Tensor]


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
    rule: WindowRule | None = None,
    batch_size: int = 8,
    max_prompts: int | None = None,
) -> Iterator[PromptResult]:
    """Every object of a segmentation data set as a prompt, in order; memory does not grow with the data set.

    Args:
        model, processor: a SAM; the model is used as it is (device, dtype).
        dataset: rows of the segmentation schema.
        prompt: "box" (the object's own), "point" (its deepest pixel) or "point_pm" (that and a negative one beside it).
        cache: reads and fills it; None encodes every window.
        rule: which part of a photograph answers a prompt; None is as the model was tuned.
        batch_size: prompts of one image that are asked at once.
        max_prompts: stop after so many.

    Yields:
        One `PromptResult` an object.
    """

    rule = rule or rule_of(processor)

    def windows(objects: Sequence[dict]) -> list[Window | None]:
        boxes, size = object_boxes(objects), objects[0]["rle"]["size"]
        # Where a point is, only its mask tells; most rules do not ask.
        truths = [decode_rle(item["rle"]) for item in objects] if prompt != "box" and rule.window == "tiles" else []
        return prompt_windows(rule, boxes, prompt_points(boxes, truths, prompt), size, prompt)

    def answer(look: Look, boxes: np.ndarray, truths: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        points, size = prompt_points(boxes, truths, prompt), truths[0].shape
        asked = prompt_windows(rule, boxes, points, size, prompt)
        return answer_prompts(model, look, boxes, points, size, prompt, asked)

    rows = iterate_embeddings(model, processor, dataset, windows, cache=cache, max_prompts=max_prompts)
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
        boxes = object_boxes(row["objects"])
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


def object_boxes(objects: Iterable[dict]) -> np.ndarray:
    """(N, 4) float32 boxes of a segmentation row's objects."""
    return np.array([item["box"] for item in objects], np.float32)


def iterate_embeddings(
    model: SamModel,
    processor: SamProcessor,
    dataset: datasets.Dataset,
    windows: Callable[[Sequence[dict]], Sequence[Window | None]],
    *,
    cache: EmbeddingCache | None,
    max_prompts: int | None = None,
) -> Iterator[tuple[int, dict, Look]]:
    """Every row that has objects: its index, the row with its image undecoded, and the embeddings of its windows.

    Args:
        windows: a row's objects to the windows that answer them.
        cache: filled first with what it lacks of these windows.
        max_prompts: stop after the row with so many objects before it and in it.
    """
    places, asked_windows, objects = [], [], 0
    for index, row in enumerate(dataset.select_columns(["objects"])):
        if max_prompts is not None and objects >= max_prompts:
            break
        if row["objects"]:
            places.append(index)
            asked_windows.append(windows(row["objects"]))
            objects += len(row["objects"])
    asked = dataset.select(places)
    keys = cache.add(asked, windows=asked_windows) if cache is not None else []
    for place, row in enumerate(asked.cast_column("image", datasets.Image(decode=False))):
        if cache is not None:
            yield places[place], row, functools.partial(_cached, cache, keys[place])
        else:
            yield places[place], row, look_at(model, processor, decode_image(row["image"]))


def _cached(cache: EmbeddingCache, key: str, window: Window | None) -> torch.Tensor:
    return cache[window_key(key, window)]


def look_at(model: SamModel, processor: SamProcessor, image: Image) -> Look:
    """The embeddings of one PIL image's windows, each encoded when it is asked for; the last is kept."""

    @functools.lru_cache(1)
    def look(window: Window | None) -> torch.Tensor:
        return encode_image(model, processor, image if window is None else image.crop(window.corners))

    return look


@torch.inference_mode()
def encode_image(model: SamModel, processor: SamProcessor, image: Image) -> torch.Tensor:
    """The (C, h, w) embedding of one PIL image."""
    pixels = processor(images=image, return_tensors="pt")["pixel_values"].to(model.device)
    return model.vision_encoder(pixels).last_hidden_state[0]


def prompt_windows(
    rule: WindowRule, boxes: np.ndarray, points: np.ndarray, original_size: Sequence[int], prompt: str
) -> list[Window | None]:
    """The windows of N prompts of one kind; arguments as in `predict_at`."""
    if prompt == "box":
        return [rule.of_box(box, original_size) for box in boxes]
    return [rule.of_points(pair[: 1 if prompt == "point" else 2], original_size) for pair in points]


def answer_prompts(
    model: SamModel,
    look: Look,
    boxes: np.ndarray,
    points: np.ndarray,
    original_size: Sequence[int],
    prompt: str,
    windows: Sequence[Window | None],
    *,
    tokens: int = TOKENS,
) -> tuple[np.ndarray, np.ndarray]:
    """Masks (N, tokens, H, W) bool and scores (N, tokens) float32 of N prompts, each answered from its window.

    Args:
        look: gives the windows' embeddings.
        boxes, points, original_size, prompt: as in `predict_at`.
        windows: N, of `prompt_windows`.
        tokens: how many of the mask tokens, from the first.
    """
    masks = np.zeros((len(boxes), tokens, *original_size), bool)
    all_scores = np.zeros((len(boxes), tokens), np.float32)
    for window in dict.fromkeys(windows):
        places = [place for place, of_prompt in enumerate(windows) if of_prompt == window]
        logits, scores = predict_at(model, look(window), boxes[places], points[places], original_size, prompt, window)
        for place, of_prompt in zip(places, logits[:, :tokens]):
            masks[place] = masks_to_original(of_prompt, original_size, image_side(model), window)
        all_scores[places] = scores[:, :tokens].float().cpu().numpy()
    return masks, all_scores


def prompt_points(boxes: np.ndarray, truths: Sequence[np.ndarray], prompt: str) -> np.ndarray:
    """(N, 2, 2) float32 positive and negative (x, y) for N objects, in original pixels; zeros where there are none.

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
    window: Window | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N, 4, h, w) and scores (N, 4) for boxes (N, 4) or points (N, 2, 2) in original pixels of one image.

    Args:
        embedding: (C, h, w) of the window, or of the whole image; the logits are of the same part.
    """
    side, device = image_side(model), model.device
    logits, scores = predict_tokens(
        model,
        image_embeddings=embedding.to(device, model.dtype)[None],
        boxes=torch.from_numpy(to_square(boxes, original_size, side, window))[None].to(device),
        points=torch.from_numpy(to_square(points, original_size, side, window))[None].to(device),
        kinds=[prompt],
    )
    return logits[0], scores[0]
