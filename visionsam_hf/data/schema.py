"""The columns of the three kinds of data set, and how masks are stored in them.

Primary, chosen and rejected masks are 1-bit PNGs that people can look at; instances and candidates are COCO
run-length codes, which are smaller and as fast to decode.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import ClassLabel, Features, Image, List, Value
from PIL import Image as PILImage
from pycocotools import mask as coco_mask

from visionsam_hf.data.errors import UserError

# Above any photograph; a mask of this many pixels takes as many bytes.
MAX_PIXELS = 1 << 28
_LONGEST_VALUE = 8  # characters of five bits


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


RLE = {"size": List(Value("int32")), "counts": Value("string")}


def segmentation_features(categories: Sequence[str]) -> Features:
    """One row an image: the photograph, the union of its defects, and each defect alone."""
    return Features(
        {
            "image": Image(),
            "mask": Image(),
            "image_id": Value("string"),
            "source": Value("string"),
            "category": ClassLabel(names=list(categories)),
            "defective": Value("bool"),
            "objects": List(
                {"box": List(Value("float32"), length=4), "defect": Value("string"), "area": Value("int64"), "rle": RLE}
            ),
        }
    )


def candidate_features(categories: Sequence[str]) -> Features:
    """One row a prompt: three candidate masks to rank, with the source and the decoder token of each."""
    return Features(
        {
            "image": Image(),
            "image_id": Value("string"),
            "category": ClassLabel(names=list(categories)),
            "box": List(Value("float32"), length=4),
            "object_index": Value("int32"),
            "truth": Image(),
            "candidates": List(
                {"rle": RLE, "token": Value("int8"), "source": Value("string"), "score": Value("float32")}
            ),
        }
    )


def preference_features(categories: Sequence[str]) -> Features:
    """One row a prompt: the chosen and the rejected mask, every candidate (best first) and every annotation."""
    return Features(
        {
            "image": Image(),
            "image_id": Value("string"),
            "category": ClassLabel(names=list(categories)),
            "box": List(Value("float32"), length=4),
            "object_index": Value("int32"),
            "chosen": Image(),
            "rejected": Image(),
            "margin": Value("float32"),
            "votes": Value("int32"),
            "truth": Image(),
            "candidates": List(
                {
                    "rle": RLE,
                    "token": Value("int8"),
                    "score": Value("float32"),
                    "mean_rank": Value("float32"),
                    "coverage": Value("float32"),
                    "boundary": Value("float32"),
                    "over_under": Value("float32"),
                    "noise": Value("float32"),
                }
            ),
            "annotations": List(
                {
                    "annotator": Value("string"),
                    "kind": Value("string"),
                    "ranking": List(Value("int8")),
                    "deciding_criterion": Value("string"),
                    "seconds": Value("float32"),
                    "rubric_version": Value("string"),
                }
            ),
        }
    )


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


def decode_rle(rle: dict[str, Any]) -> np.ndarray:
    """The (H, W) bool mask of a COCO compressed run-length code. Raises `UserError` for a damaged one."""
    check_code(rle["size"], rle["counts"])
    return coco_mask.decode({"size": list(rle["size"]), "counts": rle["counts"].encode("ascii")}).astype(bool)


def mask_box(mask: np.ndarray) -> list[float]:
    """The tightest box round a non-empty (H, W) mask: [x1, y1, x2, y2), x2 and y2 exclusive."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]


def object_row(mask: np.ndarray, defect: str) -> dict[str, Any]:
    """One entry of the `objects` column for a non-empty (H, W) bool mask."""
    return {"box": mask_box(mask), "defect": defect, "area": int(mask.sum()), "rle": encode_rle(mask)}
