"""What is in a data set: counts, sizes of defects, and samples to look at, on one page."""

import base64
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from visionsam_hf.schema import decode_mask, decode_rle
from visionsam_hf.thumbnails import CHOSEN, REJECTED, TRUTH, Overlay, close_up, thumbnail

# Upper edges of the size classes, as shares of the image's area.
SIZE_CLASSES = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_SIDE = 220
# A defect below this share of the image gets a close-up beside the whole.
_SMALL = 0.01


@dataclass
class Sample:
    """One row to look at: pictures as data URIs with a word about each."""

    title: str
    category: str
    lines: list[str]
    pictures: list[tuple[str, str]]


@dataclass
class SplitSummary:
    """The counts of one split and its samples.

    Attributes:
        rows: number of rows.
        defective: images with a defect (segmentation only).
        objects: prompts: objects of all images, or the rows themselves.
        categories: rows per category.
        defects: objects per kind of defect (segmentation only).
        sizes: objects per class of `SIZE_CLASSES`.
        image_sizes: images per (width, height).
        samples: a few rows.
    """

    rows: int = 0
    defective: int = 0
    objects: int = 0
    categories: Counter[str] = field(default_factory=Counter)
    defects: Counter[str] = field(default_factory=Counter)
    sizes: Counter[int] = field(default_factory=Counter)
    image_sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)


def kind_of(columns: Iterable[str]) -> str:
    """Which of the three schemas a data set's columns are: "preference", "candidates" or "segmentation"."""
    columns = set(columns)
    return "preference" if "chosen" in columns else "candidates" if "candidates" in columns else "segmentation"


def summarise(rows: Iterable[dict[str, Any]], categories: Sequence[str], *, kind: str, samples: int) -> SplitSummary:
    """Count one split's rows, and draw up to `samples` of them, taking the first ones of each category in turn.

    Args:
        rows: decoded rows; one is in memory at a time.
        categories: names of the category column.
        kind: from `kind_of`.
    """
    summary = SplitSummary()
    # Without reading twice, nobody knows how many categories will come: keep enough of each, thin out at the end.
    drawn: dict[str, list[Sample]] = defaultdict(list)
    for row in rows:
        category = categories[row["category"]]
        summary.rows += 1
        summary.categories[category] += 1
        summary.image_sizes[row["image"].size] += 1
        if kind == "segmentation":
            _count_objects(summary, row)
        else:
            summary.objects += 1
            if row["truth"] is not None:
                summary.sizes[_size_class(float(decode_mask(row["truth"]).mean()))] += 1
        of = drawn[category]
        seen = summary.categories[category]
        # The 1st, 2nd, 4th, 8th ... row, so that samples are not all from the beginning.
        if len(of) < samples and (len(of) < 2 or seen & (seen - 1) == 0 or seen % 97 == 0):
            of.append(_sample(row, category, kind))
    while len(summary.samples) < samples and any(drawn.values()):
        for category in sorted(drawn):
            if drawn[category] and len(summary.samples) < samples:
                summary.samples.append(drawn[category].pop(0))
    summary.samples.sort(key=lambda sample: sample.category)
    return summary


def _count_objects(summary: SplitSummary, row: Mapping[str, Any]) -> None:
    pixels = row["image"].width * row["image"].height
    summary.defective += bool(row["defective"])
    summary.objects += len(row["objects"])
    for item in row["objects"]:
        summary.defects[item["defect"]] += 1
        summary.sizes[_size_class(item["area"] / pixels)] += 1


def _size_class(share: float) -> int:
    return next(place for place, limit in enumerate(SIZE_CLASSES) if share <= limit)


def _sample(row: Mapping[str, Any], category: str, kind: str) -> Sample:
    image = row["image"]
    if kind == "segmentation":
        overlays = [Overlay(decode_rle(item["rle"]), TRUTH, item["box"]) for item in row["objects"]]
        words = ", ".join(f"{count} {name}" for name, count in Counter(o["defect"] for o in row["objects"]).items())
        lines = [words or "no defect", f"{image.width} × {image.height}"]
        pictures = [("whole image", thumbnail(image, overlays, side=_SIDE))]
        if row["objects"]:
            largest = max(row["objects"], key=lambda item: item["area"])
            if largest["area"] < _SMALL * image.width * image.height:
                pictures.append(("largest defect", close_up(image, overlays, largest["box"], side=_SIDE)))
                pictures.append(("without outline", close_up(image, [], largest["box"], side=_SIDE)))
    else:
        lines, pictures = _ranked(row, kind)
    return Sample(row["image_id"], category, lines, [(word, _data_uri(picture)) for word, picture in pictures])


def _ranked(row: Mapping[str, Any], kind: str) -> tuple[list[str], list[tuple[str, Image.Image]]]:
    """The prompt's surroundings: the truth if known, then chosen and rejected, or every candidate."""
    image, box = row["image"], row["box"]
    shown = []
    if row["truth"] is not None:
        shown.append(("truth", decode_mask(row["truth"]), TRUTH))
    if kind == "preference":
        shown.append(("chosen", decode_mask(row["chosen"]), CHOSEN))
        shown.append(("rejected", decode_mask(row["rejected"]), REJECTED))
        lines = [f"margin {row['margin']:.2f}, {row['votes']} votes"]
    else:
        for candidate in row["candidates"]:
            shown.append((f"score {candidate['score']:.2f}", decode_rle(candidate["rle"]), CHOSEN))
        lines = [f"{len(row['candidates'])} candidates"]
    pictures = [(word, close_up(image, [Overlay(mask, colour)], box, side=_SIDE)) for word, mask, colour in shown]
    return [f"prompt {row['object_index']}", *lines], pictures


def _data_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def size_names() -> list[str]:
    """The size classes in words, as percentages of the image's area."""
    edges = [0.0, *SIZE_CLASSES]
    return [f"{100 * low:g} to {100 * high:g} %" for low, high in zip(edges, edges[1:])]
