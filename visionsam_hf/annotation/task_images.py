"""What the page draws: a photograph's window, and three masks as the channels of one PNG. Always encoded anew."""

import dataclasses
import functools
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from visionsam_hf.data.masks import mask_box
from visionsam_hf.preferences.preference_rows import candidate_masks, truth_of
from visionsam_hf.preferences.rubric import CRITERIA, rate_masks, worths

# Larger photographs are shown as a window round the prompt: a browser draws three of them at once.
WHOLE = 1600
_KEPT = 64


@dataclasses.dataclass(frozen=True)
class TaskImage:
    """A row of a candidate set, decoded, within `window` (x1, y1, x2, y2) of the original.

    `photo` is (H, W, 3) uint8, `masks` (3, H, W) bool, `truth` (H, W) bool; `size` is the original's height and width.
    """

    photo: np.ndarray
    masks: np.ndarray
    truth: np.ndarray | None
    box: tuple[float, float, float, float]
    window: tuple[int, int, int, int]
    size: tuple[int, int]
    category: str
    image_id: str


class TaskImages:
    """Images of candidate sets, by the kind of task ("ranked" or not) that names the set, split and row."""

    def __init__(self, datasets: Mapping[str, Any], calibration: Mapping[str, Any] | None = None) -> None:
        self._sets = {"ranked": datasets, "calibration": calibration or {}, "gold": calibration or {}}
        self.load = functools.lru_cache(_KEPT)(self._load)

    def _load(self, kind: str, split: str, row: int) -> TaskImage:
        dataset = self._sets[kind][split]
        values = dataset[row]
        photo = _upright(values["image"]["bytes"])
        masks = np.stack(candidate_masks(values))
        if photo.shape[:2] != masks.shape[1:]:
            raise ValueError(f"row {row} of split '{split}': photograph {photo.shape[:2]}, masks {masks.shape[1:]}")
        truth = truth_of(values)
        x1, y1, x2, y2 = view_window(photo.shape[:2], values["box"], masks)
        inside = slice(y1, y2), slice(x1, x2)
        # Copies, so that what is kept is the window and not the photograph.
        return TaskImage(
            photo=photo[inside].copy(),
            masks=masks[(slice(None), *inside)].copy(),
            truth=None if truth is None else truth[inside].copy(),
            box=tuple(values["box"]),
            window=(x1, y1, x2, y2),
            size=photo.shape[:2],
            category=dataset.features["category"].int2str(values["category"]),
            image_id=values["image_id"],
        )


def view_window(size: tuple[int, int], box: Any, masks: np.ndarray) -> tuple[int, int, int, int]:
    """The part of an image to show: all of it, or, of a large one, prompt and masks with as much again on each side.

    Args:
        size: height and width.
        box: [x1, y1, x2, y2).
        masks: (K, H, W) bool.
    """
    height, width = size
    if max(size) <= WHOLE:
        return 0, 0, width, height
    union = masks.any(0)
    x1, y1, x2, y2 = np.array([box, mask_box(union) if union.any() else box]).T
    left, top, right, bottom = x1.min(), y1.min(), x2.max(), y2.max()
    margin_x = max(right - left, WHOLE / 2 - (right - left) / 2)
    margin_y = max(bottom - top, WHOLE / 2 - (bottom - top) / 2)
    return (
        int(max(left - margin_x, 0)),
        int(max(top - margin_y, 0)),
        int(min(np.ceil(right + margin_x), width)),
        int(min(np.ceil(bottom + margin_y), height)),
    )


def photo_png(image: TaskImage) -> bytes:
    """The photograph as RGB PNG, without the original file's metadata."""
    return as_png(image.photo)


def masks_png(image: TaskImage, order: list[int]) -> bytes:
    """Panes 1, 2, 3 as red, green and blue, 255 inside the mask."""
    return as_png(np.stack([image.masks[place] for place in order], -1).astype(np.uint8) * 255)


def mask_png(image: TaskImage, mask: np.ndarray) -> bytes:
    """What is shown of an (H, W) bool mask of the original, as a grey PNG, 255 inside."""
    x1, y1, x2, y2 = image.window
    return as_png(mask[y1:y2, x1:x2].astype(np.uint8) * 255)


def truth_png(image: TaskImage) -> bytes:
    """The truth as a grey PNG, 255 inside; of an image that has one."""
    if image.truth is None:
        raise ValueError("this image has no truth")
    return as_png(image.truth.astype(np.uint8) * 255)


def feedback_numbers(image: TaskImage, order: list[int]) -> list[dict[str, float]]:
    """The four criteria and the worth of the whole of each pane's mask; for calibration, where the truth is known."""
    masks = [image.masks[place] for place in order]
    table, ious = rate_masks(masks, image.truth)
    return [
        {name: round(float(value), 3) for name, value in zip(CRITERIA, row, strict=True)} | {"worth": round(float(of), 3)}
        for row, of in zip(table, worths(table, ious), strict=True)
    ]


def as_png(pixels: np.ndarray) -> bytes:
    """Pixels as a PNG that is quick to make."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _upright(content: bytes) -> np.ndarray:
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    if image.mode.startswith("I") or image.mode == "F":
        # 16 bits: the eye needs eight, stretched over what is there.
        values = np.asarray(image, np.float64)
        low, high = values.min(), values.max()
        image = Image.fromarray(((values - low) * (255 / max(high - low, 1e-9))).astype(np.uint8))
    return np.asarray(image.convert("RGB"))
