"""Whether the rows of a preference data set mean something, checked before an hour of training on them.

A schema says that a column holds an image; only its rows say whether the masks are of that image's size, whether the
ranking ranks the candidates that are there, and whether anything was preferred at all.
"""

import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from PIL import Image, UnidentifiedImageError

from visionsam_hf.data.errors import UserError

_KINDS = ("human", "oracle")


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
            if column not in row:
                raise UserError(f"{where}: row {number}, column '{column}': is missing; export the preferences again")
            problem = check(row[column], row)
            if problem:
                raise UserError(f"{where}: row {number}, column '{column}': {problem}")
        yield row


def _size(value: Any) -> tuple[int, int]:
    """(width, height) of an image, from its header alone."""
    if isinstance(value, Image.Image):
        return value.size
    try:
        with Image.open(io.BytesIO(value["bytes"])) if value.get("bytes") else Image.open(value["path"]) as image:
            return image.size
    except (UnidentifiedImageError, OSError, TypeError, AttributeError, KeyError):
        raise ValueError("is not an image") from None


def _image(value: Any, row: Mapping[str, Any]) -> str:
    try:
        _size(value)
    except ValueError as error:
        return f"{error}; export the preferences again"
    return ""


def _mask(value: Any, row: Mapping[str, Any]) -> str:
    try:
        size, wanted = _size(value), _size(row["image"])
    except ValueError as error:
        return f"{error}; export the preferences again"
    if size != wanted:
        measured = f"the mask is {size[0]}x{size[1]} pixels, its image {wanted[0]}x{wanted[1]}"
        return f"{measured}; store masks at the image's size"
    return ""


def _optional_mask(value: Any, row: Mapping[str, Any]) -> str:
    return "" if value is None else _mask(value, row)


def _rejected(value: Any, row: Mapping[str, Any]) -> str:
    problem = _mask(value, row)
    if problem:
        return problem
    same = _stored(value) == _stored(row["chosen"])
    return "is the same mask as the chosen one, so nothing was preferred; drop the row" if same else ""


def _stored(value: Any) -> Any:
    return value.tobytes() if isinstance(value, Image.Image) else value.get("bytes") or value.get("path")


def _image_id(value: Any, row: Mapping[str, Any]) -> str:
    return "" if isinstance(value, str) and value else f"must name the image, not {value!r}"


def _box(value: Any, row: Mapping[str, Any]) -> str:
    if value is None or len(value) != 4 or not all(math.isfinite(edge) for edge in value):
        return f"must be four numbers [x1, y1, x2, y2), not {value}"
    x1, y1, x2, y2 = value
    width, height = _size(row["image"])
    if not (x1 < x2 and y1 < y2):
        return f"[{x1:g}, {y1:g}, {x2:g}, {y2:g}) is empty; x2 and y2 must be the larger ones"
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        return f"[{x1:g}, {y1:g}, {x2:g}, {y2:g}) lies outside the image ({width}x{height}); give original pixels"
    return ""


def _count_from(least: int) -> Callable[[Any, Mapping[str, Any]], str]:
    def check(value: Any, row: Mapping[str, Any]) -> str:
        return "" if value is not None and value >= least else f"must be {least} or more, not {value}"

    return check


def _margin(value: Any, row: Mapping[str, Any]) -> str:
    if value is None or not math.isfinite(value) or value < 0:
        return f"must be a rank distance of 0 or more, not {value}"
    return ""


def _candidates(value: Any, row: Mapping[str, Any]) -> str:
    if not value or len(value) < 2:
        return f"needs two candidates at least, not {len(value or [])}; a single one is no comparison"
    width, height = _size(row["image"])
    for place, candidate in enumerate(value):
        size = list(candidate["rle"]["size"])
        if size != [height, width]:
            return f"candidate {place} is {size} (height, width), the image {[height, width]}; store it at that size"
    return ""


def _annotations(value: Any, row: Mapping[str, Any]) -> str:
    count = len(row["candidates"])
    for place, annotation in enumerate(value or []):
        ranking = annotation["ranking"]
        if annotation["kind"] not in _KINDS:
            return f"annotation {place} has the kind {annotation['kind']!r}; it must be human or oracle"
        if not annotation["annotator"]:
            return f"annotation {place} has no annotator; give a pseudonym"
        if len(ranking) != count:
            return f"annotation {place} ranks {len(ranking)} candidates, the row has {count}; export it again"
    return ""


# In this order: what a check reads of other columns was checked before.
_CHECKS: dict[str, Callable[[Any, Mapping[str, Any]], str]] = {
    "image": _image,
    "image_id": _image_id,
    "box": _box,
    "object_index": _count_from(0),
    "chosen": _mask,
    "rejected": _rejected,
    "truth": _optional_mask,
    "margin": _margin,
    "votes": _count_from(1),
    "candidates": _candidates,
    "annotations": _annotations,
}
