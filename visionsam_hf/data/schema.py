"""The columns of the three kinds of data set, and whether the rows of a preference data set mean something.

A schema says that a column holds an image; only its rows say whether the masks are of that image's size, whether the
ranking ranks the candidates that are there, and whether anything was preferred at all.
"""

import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import datasets
import numpy as np
from datasets import ClassLabel, Features, List, Value
from PIL import Image, UnidentifiedImageError

from visionsam_hf.data.critiques import LABELS
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.masks import encode_rle, mask_box

# Columns that came later: data sets without them load all the same.
OPTIONAL = ("regions", "chosen_kind")
RLE = {"size": List(Value("int32")), "counts": Value("string")}


def segmentation_features(categories: Sequence[str]) -> Features:
    """One row an image: the photograph, the union of its defects, and each defect alone."""
    return Features(
        {
            "image": datasets.Image(),
            "mask": datasets.Image(),
            "image_id": Value("string"),
            "source": Value("string"),
            "category": ClassLabel(names=list(categories)),
            "defective": Value("bool"),
            "objects": List(
                {"box": List(Value("float32"), length=4), "defect": Value("string"), "area": Value("int64"), "rle": RLE}
            ),
        }
    )


def _prompt_columns(categories: Sequence[str]) -> dict[str, Any]:
    return {
        "image": datasets.Image(),
        "image_id": Value("string"),
        "category": ClassLabel(names=list(categories)),
        "box": List(Value("float32"), length=4),
        "object_index": Value("int32"),
    }


def candidate_features(categories: Sequence[str]) -> Features:
    """One row a prompt: three candidate masks to rank, with the source and the decoder token of each."""
    return Features(
        {
            **_prompt_columns(categories),
            "truth": datasets.Image(),
            "candidates": List(
                {"rle": RLE, "token": Value("int8"), "source": Value("string"), "score": Value("float32")}
            ),
        }
    )


def preference_features(categories: Sequence[str]) -> Features:
    """One row a prompt: the chosen and the rejected mask, every candidate (best first), every annotation, and the
    mistakes that were circled (`candidate` counts best first). `chosen_kind`: "ranked", the first candidate, or "corrected"."""
    return Features(
        {
            **_prompt_columns(categories),
            "chosen": datasets.Image(),
            "chosen_kind": Value("string"),
            "rejected": datasets.Image(),
            "margin": Value("float32"),
            "votes": Value("int32"),
            "truth": datasets.Image(),
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
            "regions": List(
                {"candidate": Value("int8"), "label": Value("string"), "annotator": Value("string"), "rle": RLE}
            ),
        }
    )


def object_row(mask: np.ndarray, defect: str) -> dict[str, Any]:
    """One entry of the `objects` column for a non-empty (H, W) bool mask."""
    return {"box": mask_box(mask), "defect": defect, "area": int(mask.sum()), "rle": encode_rle(mask)}


class _Wrong(Exception):
    """What is wrong with a value; what to do."""


def checked_preferences(rows: Iterable[dict[str, Any]], where: str) -> Iterator[dict[str, Any]]:
    """Pass preference rows on, each checked.

    Args:
        rows: with images as stored ({"bytes", "path"}; nothing but their headers is read), or as PIL images.
        where: the file, directory or split, for messages.

    Raises:
        UserError: "WHERE: row N, column 'C': what is wrong; what to do". Rows count from 0, as `dataset[N]` does.
    """
    for number, row in enumerate(rows):
        for column, check in _CHECKS.items():
            try:
                if column in row:
                    check(row[column], row)
                elif column not in OPTIONAL:
                    raise _Wrong("is missing; export the preferences again")
            except _Wrong as problem:
                raise UserError(f"{where}: row {number}, column '{column}': {problem}") from None
        yield row


def _size(value: Any) -> tuple[int, int]:
    """(width, height) of an image, from its header alone."""
    if isinstance(value, Image.Image):
        return value.size
    try:
        with Image.open(io.BytesIO(value["bytes"]) if value.get("bytes") else value["path"]) as image:
            return image.size
    except (UnidentifiedImageError, OSError, TypeError, AttributeError, KeyError):
        raise _Wrong("is not an image; export the preferences again") from None


def _check_image(value: Any, row: Mapping[str, Any]) -> None:
    _size(value)


def _check_mask(value: Any, row: Mapping[str, Any]) -> None:
    (width, height), wanted = _size(value), _size(row["image"])
    if (width, height) != wanted:
        measured = f"the mask is {width}x{height} pixels, its image {wanted[0]}x{wanted[1]}"
        raise _Wrong(f"{measured}; store masks at the image's size")


def _check_truth(value: Any, row: Mapping[str, Any]) -> None:
    if value is not None:
        _check_mask(value, row)


def _check_rejected(value: Any, row: Mapping[str, Any]) -> None:
    _check_mask(value, row)
    if _stored(value) == _stored(row["chosen"]):
        raise _Wrong("is the same mask as the chosen one, so nothing was preferred; drop the row")


def _stored(value: Any) -> Any:
    return value.tobytes() if isinstance(value, Image.Image) else value.get("bytes") or value.get("path")


def _check_image_id(value: Any, row: Mapping[str, Any]) -> None:
    if not (isinstance(value, str) and value):
        raise _Wrong(f"must name the image, not {value!r}")


def _check_box(value: Any, row: Mapping[str, Any]) -> None:
    if value is None or len(value) != 4 or not all(math.isfinite(edge) for edge in value):
        raise _Wrong(f"must be four numbers [x1, y1, x2, y2), not {value}")
    x1, y1, x2, y2 = value
    width, height = _size(row["image"])
    if not (x1 < x2 and y1 < y2):
        raise _Wrong(f"[{x1:g}, {y1:g}, {x2:g}, {y2:g}) is empty; x2 and y2 must be the larger ones")
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        box = f"[{x1:g}, {y1:g}, {x2:g}, {y2:g})"
        raise _Wrong(f"{box} lies outside the image ({width}x{height}); give original pixels")


def _check_count_from(least: int) -> Callable[[Any, Mapping[str, Any]], None]:
    def check(value: Any, row: Mapping[str, Any]) -> None:
        if value is None or value < least:
            raise _Wrong(f"must be {least} or more, not {value}")

    return check


def _check_margin(value: Any, row: Mapping[str, Any]) -> None:
    if value is None or not math.isfinite(value) or value < 0:
        raise _Wrong(f"must be a rank distance of 0 or more, not {value}")


def _check_candidates(value: Any, row: Mapping[str, Any]) -> None:
    if not value or len(value) < 2:
        raise _Wrong(f"needs two candidates at least, not {len(value or [])}; a single one is no comparison")
    width, height = _size(row["image"])
    for place, candidate in enumerate(value):
        size = list(candidate["rle"]["size"])
        if size != [height, width]:
            measured = f"candidate {place} is {size} (height, width), the image {[height, width]}"
            raise _Wrong(f"{measured}; store it at that size")


def _check_annotations(value: Any, row: Mapping[str, Any]) -> None:
    count = len(row["candidates"])
    for place, annotation in enumerate(value or []):
        ranks = len(annotation["ranking"])
        if annotation["kind"] not in ("human", "oracle"):
            raise _Wrong(f"annotation {place} has the kind {annotation['kind']!r}; it must be human or oracle")
        if not annotation["annotator"]:
            raise _Wrong(f"annotation {place} has no annotator; give a pseudonym")
        if ranks != count:
            raise _Wrong(f"annotation {place} ranks {ranks} candidates, the row has {count}; export it again")


def _check_chosen_kind(value: Any, row: Mapping[str, Any]) -> None:
    if value not in (None, "ranked", "corrected"):
        raise _Wrong(f"is {value!r}; it must be ranked or corrected")


def _check_regions(value: Any, row: Mapping[str, Any]) -> None:
    for place, region in enumerate(value or []):
        if region["label"] not in LABELS:
            raise _Wrong(f"region {place} has the label {region['label']!r}; it must be one of {', '.join(LABELS)}")
        if region["candidate"] not in range(len(row["candidates"])):
            raise _Wrong(f"region {place} is about candidate {region['candidate']}, which the row has not; export it again")
        if list(region["rle"]["size"]) != list(row["candidates"][0]["rle"]["size"]):
            raise _Wrong(f"region {place} is {list(region['rle']['size'])} (height, width), unlike the masks; export it again")


# In this order: what a check reads of other columns was checked before.
_CHECKS: dict[str, Callable[[Any, Mapping[str, Any]], None]] = {
    "image": _check_image,
    "image_id": _check_image_id,
    "box": _check_box,
    "object_index": _check_count_from(0),
    "chosen": _check_mask,
    "rejected": _check_rejected,
    "truth": _check_truth,
    "margin": _check_margin,
    "votes": _check_count_from(1),
    "candidates": _check_candidates,
    "annotations": _check_annotations,
    "regions": _check_regions,
    "chosen_kind": _check_chosen_kind,
}
