"""COCO annotation files, read as they really are: encoded twice, with scraps of polygons, over the edge, boxes without masks."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from visionsam_hf.data.errors import UserError


@dataclass(frozen=True)
class CocoObject:
    """An annotation: its class name and its segmentation as the file has it, decoded; the score of a predicted one."""

    defect: str
    segmentation: Any
    score: float | None = None


@dataclass(frozen=True)
class CocoImage:
    """An entry of the `images` list with its annotations; `model` is what the file's `info` says that it was predicted by."""

    file_name: str
    width: int
    height: int
    objects: tuple[CocoObject, ...]
    model: str = ""

    @property
    def lowest_score(self) -> float | None:
        """Of its predicted annotations; None where people drew them all."""
        return min((item.score for item in self.objects if item.score is not None), default=None)


def is_coco(path: Path) -> bool:
    """Whether a JSON file is a COCO file of images and annotations."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys()


def read_coco(path: Path) -> tuple[list[CocoImage], list[str]]:
    """The images of an annotation file in its order, and a line about each entry that cannot be used.

    Fields that were JSON-encoded a second time (a segmentation or an id as a string) are decoded.

    Raises:
        UserError: the file is no whole JSON, or lacks `images`, `annotations` or `categories`.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{error.lineno}: the JSON stops or breaks at column {error.colno} ({error.msg}); download it again"
        ) from None
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error}); download it again") from None
    lists = {}
    for key in ("images", "annotations", "categories"):
        value = _decoded(content.get(key)) if isinstance(content, dict) else None
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise UserError(f"{path}: has no list '{key}', so it is not a COCO file; download it again")
        lists[key] = value
    if not lists["annotations"]:
        raise UserError(f"{path}: the list of annotations is empty; download it again, or pass --on_error skip")
    info = content.get("info")
    model = str(info.get("model", "")) if isinstance(info, dict) else ""
    return _join(path, lists["images"], lists["annotations"], lists["categories"], model)


def _join(
    path: Path, images: list[dict], annotations: list[dict], categories: list[dict], model: str
) -> tuple[list, list[str]]:
    problems: list[str] = []
    names = {_key(item.get("id")): str(item.get("name")) for item in categories}
    objects: dict[str, list[CocoObject]] = {}
    sizes: dict[str, tuple[str, int, int]] = {}
    seen_files: set[str] = set()
    for place, item in enumerate(images):
        key, name = _key(item.get("id")), item.get("file_name")
        try:
            entry = (str(name), int(item["width"]), int(item["height"]))
        except (KeyError, TypeError, ValueError):
            problems.append(f"{path}: images[{place}] has no usable file_name, width and height; mend the entry")
            continue
        if key in sizes or str(name) in seen_files:
            problems.append(f"{path}: images[{place}] repeats id {key} or file {name}; remove one of the two")
            continue
        sizes[key] = entry
        seen_files.add(str(name))
        objects[key] = []
    for place, item in enumerate(annotations):
        key, category = _key(item.get("image_id")), _key(item.get("category_id"))
        where = f"{path}: annotations[{place}]"
        if key not in objects:
            problems.append(f"{where} is for image {key}, which the list of images lacks; remove it")
        elif category not in names:
            problems.append(f"{where} has the unknown category {category}; add it to 'categories'")
        else:
            score = float(item["score"]) if _is_number(item.get("score")) else None
            objects[key].append(CocoObject(names[category], _decoded(item.get("segmentation")), score))
    return [CocoImage(*sizes[key], tuple(objects[key]), model) for key in sizes], problems


def _decoded(value: Any) -> Any:
    while isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return value
    return value


def _key(value: Any) -> str:
    return str(_decoded(value))


def object_rle(segmentation: Any, *, width: int, height: int) -> tuple[dict[str, Any] | None, list[str]]:
    """A segmentation as COCO compressed run-length code {"size", "counts": bytes}, and what was dropped of it.

    Polygons are united; what lies over the edge is cut off. None when no pixel is left, for a region
    thinner than the grid.

    Args:
        segmentation: flat polygons [[x1, y1, x2, y2, ...], ...], or a run-length code, compressed or not.
        width, height: of the image in pixels.

    Raises:
        ValueError: neither of the two, or outside the image, or a code for another size.
    """
    if isinstance(segmentation, dict):
        rle = _checked_rle(segmentation, width, height)
        return (rle if coco_mask.area(rle) else None), []
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("the segmentation is neither polygons nor a run-length code")
    if not isinstance(segmentation[0], list):
        segmentation = [segmentation]  # one bare polygon
    whole, dropped = [], []
    for polygon in segmentation:
        if not isinstance(polygon, list) or not all(_is_number(number) for number in polygon):
            raise ValueError("a polygon holds something that is not a number")
        if len(polygon) < 6:
            dropped.append(f"a polygon of {len(polygon)} numbers")
        elif len(polygon) % 2:
            raise ValueError(f"a polygon has an odd number of coordinates ({len(polygon)})")
        else:
            whole.append([float(number) for number in polygon])
    if not whole:
        return None, dropped
    xs = [x for polygon in whole for x in polygon[0::2]]
    ys = [y for polygon in whole for y in polygon[1::2]]
    if min(xs) >= width or max(xs) <= 0 or min(ys) >= height or max(ys) <= 0:
        raise ValueError(f"the polygon lies outside the image ({width}x{height})")
    rle = coco_mask.merge(coco_mask.frPyObjects(whole, height, width))
    return (rle if coco_mask.area(rle) else None), dropped


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _checked_rle(code: dict[str, Any], width: int, height: int) -> dict[str, Any]:
    size, counts = _decoded(code.get("size")), code.get("counts")
    if size != [height, width]:
        raise ValueError(f"the run-length code is for {size} (height, width), the image has {[height, width]}")
    # A compressed code may begin with "[", but never ends with "]", whose bit 0x20 says that the value goes on.
    runs = _runs(counts) if isinstance(counts, str) and not counts.endswith("]") else _decoded(counts)
    if not isinstance(runs, list) or not all(isinstance(run, int) and run >= 0 for run in runs):
        raise ValueError("the run-length code is damaged")
    if sum(runs) != width * height:
        raise ValueError(f"the run-length code covers {sum(runs)} pixels, the image has {width * height}")
    return coco_mask.frPyObjects({"size": size, "counts": runs}, height, width)


def _runs(counts: str) -> list[int]:
    """The run lengths in COCO's compressed string (five bits a character, differences to the run before the last).

    Decoded here, because the C code trusts the string and writes where it says.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise ValueError("the run-length code is damaged")
        value |= (code & 0x1F) << shift
        shift += 5
        if not code & 0x20:
            if code & 0x10:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("the run-length code stops half-way")
    return runs


def annotated_objects(entry: CocoImage) -> tuple[list[dict[str, Any]], np.ndarray, list[str]]:
    """The rows of the `objects` column of an image, their union, and what was dropped.

    A crowd (`iscrowd`) is one object, as annotation tools mark every brushed mask so.

    Returns:
        rows, (H, W) bool, a line for each annotation or polygon that is no mask.

    Raises:
        ValueError: an annotation that cannot be read; its number and class are named.
    """
    rows, codes, dropped = [], [], []
    for place, item in enumerate(entry.objects):
        if item.segmentation in ([], [[]]):
            dropped.append("an annotation without a mask (a box alone)")
            continue
        try:
            rle, lost = object_rle(item.segmentation, width=entry.width, height=entry.height)
        except ValueError as error:
            raise ValueError(f"annotation {place} ('{item.defect}'): {error}") from None
        dropped += lost
        if rle is None:
            dropped.append("a region that covers no pixel")
            continue
        codes.append(rle)
        rows.append(_object_row(rle, item.defect))
    if not codes:
        return [], np.zeros((entry.height, entry.width), bool), dropped
    return rows, np.asarray(coco_mask.decode(coco_mask.merge(codes)), bool), dropped


def _object_row(rle: dict[str, Any], defect: str) -> dict[str, Any]:
    """As `schema.object_row`, without decoding: a photograph of 10 megapixels can have a hundred objects."""
    x, y, width, height = (float(number) for number in coco_mask.toBbox(rle))
    code = {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}
    return {"box": [x, y, x + width, y + height], "defect": defect, "area": int(coco_mask.area(rle)), "rle": code}
