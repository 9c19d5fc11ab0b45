"""How masks are stored, and how much two of them share.

Primary, chosen and rejected masks are 1-bit PNGs that people can look at; instances and candidates are COCO
run-length codes, which are smaller and as fast to decode. The C code that decodes those trusts its string, and reads
and writes where that says, so every code is checked first.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image as PILImage
from pycocotools import mask as coco_mask

from visionsam_hf.data.errors import UserError

# Above any photograph; a mask of this many pixels takes as many bytes.
MAX_PIXELS = 1 << 28
_LONGEST_VALUE = 8  # characters of five bits
# Pixels that are compared at once: as float32 their sums are exact, and they take little memory.
_PART = 1 << 20


def check_code(size: list[int], counts: str) -> None:
    """Raise `UserError` unless a COCO compressed code covers exactly the (height, width) pixels of its mask."""
    problem = _problem(list(size), counts)
    if problem:
        raise UserError(f"run-length code of a mask of {list(size)} pixels: {problem}; make the data set again")


def _problem(size: list[int], counts: str) -> str:
    if len(size) != 2 or min(size) < 1:
        return "its size is not (height, width)"
    pixels = int(size[0]) * int(size[1])
    if pixels > MAX_PIXELS:
        return f"more than {MAX_PIXELS:,} pixels"
    runs = _runs(counts)
    if runs is None:
        return "is damaged"
    covered = int(runs.sum())
    return "" if covered == pixels and runs.min(initial=0) >= 0 else f"covers {covered} pixels, not {pixels}"


def _runs(counts: str) -> np.ndarray | None:
    """(n,) int64 run lengths of a compressed string; None where it holds none."""
    try:
        codes = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        return None
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 0x20:
        return None
    # Each value is a little-endian group of characters; its last one lacks the bit 0x20 and carries the sign at 0x10.
    ends = np.flatnonzero(codes & 0x20 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST_VALUE:
        return None
    places = np.arange(len(codes)) - np.repeat(starts, lengths)
    values = np.add.reduceat((codes & 0x1F) << (5 * places), starts)
    values -= np.where(codes[ends] & 0x10, 1 << (5 * lengths), 0)
    # From the fourth on, a value is the difference to the run before the last.
    for first in (1, 2):
        values[first::2] = np.cumsum(values[first::2])
    return values


def encode_mask(mask: np.ndarray) -> PILImage.Image:
    """A (H, W) bool mask as a 1-bit image; `datasets` stores it as PNG."""
    return PILImage.fromarray(np.asarray(mask, bool))


def decode_mask(image: PILImage.Image) -> np.ndarray:
    """A stored mask as (H, W) bool, whatever its mode: 1-bit, or 0/255 grey, must not become labels of 255."""
    return np.asarray(image.convert("L")) > 127


def encode_rle(mask: np.ndarray) -> dict[str, Any]:
    """A (H, W) bool mask as COCO's compressed run-length code, `{"size": [h, w], "counts": str}`."""
    code = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")}


def decode_rle(rle: Mapping[str, Any]) -> np.ndarray:
    """The (H, W) bool mask of a COCO compressed run-length code. Raises `UserError` for a damaged one."""
    check_code(rle["size"], rle["counts"])
    return coco_mask.decode({"size": list(rle["size"]), "counts": rle["counts"].encode("ascii")}).astype(bool)


def mask_box(mask: np.ndarray) -> list[float]:
    """The tightest box round a non-empty (H, W) mask: [x1, y1, x2, y2), x2 and y2 exclusive."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]


def mask_width(mask: np.ndarray) -> float:
    """How wide a (H, W) bool mask is at its widest place, in pixels: of a line its thickness, of a disc its diameter."""
    if not mask.any():
        return 0.0
    x1, y1, x2, y2 = map(int, mask_box(mask))
    inside = np.pad(mask[y1:y2, x1:x2], 1).astype(np.uint8)
    # The distance from a pixel's centre to the nearest centre outside: 1 for a line one pixel wide.
    return 2 * float(cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).max()) - 1


def united(masks: Sequence[np.ndarray], shape: Sequence[int]) -> np.ndarray:
    """(H, W) bool: what any of the masks covers."""
    return np.logical_or.reduce(masks) if masks else np.zeros(shape, bool)


def mask_iou(first: np.ndarray, second: np.ndarray) -> float:
    """IoU of two (H, W) bool masks; two empty ones are the same mask, so 1."""
    union = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / union if union else 1.0


def pairwise_iou(masks: np.ndarray) -> np.ndarray:
    """(K, K) float64 `mask_iou` of every two of (K, H, W) bool masks."""
    flat = masks.reshape(len(masks), -1)
    overlap = np.zeros((len(masks), len(masks)))
    for start in range(0, flat.shape[1], _PART):
        part = flat[:, start : start + _PART].astype(np.float32)
        overlap += part @ part.T
    area = np.diag(overlap)
    union = area[:, None] + area[None] - overlap
    return np.where(union > 0, overlap / np.maximum(union, 1), 1.0)
