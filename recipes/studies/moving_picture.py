"""The moving picture of README: a box, three masks, a ranking, and what a few hundred of them make of the model.

    python -m studies.moving_picture outputs/quickstart docs/method.gif

Every picture is from the run: ranked prompts whose masks differ and whose best is closest to the truth; and held-out prompts at
the upper quartile of the gain of the last model over the first, one a product.
"""

import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from visionsam_hf.data.masks import decode_rle, mask_iou
from visionsam_hf.data.overlays import CHOSEN, PREDICTION, REJECTED, TRUTH, Colour, Overlay, close_up
from visionsam_hf.evaluation.report.galleries import read_photographs
from visionsam_hf.evaluation.result_files import Run, read_run, sample_rows
from visionsam_hf.preferences.rubric import CRITERIA

SIDE, GAP, HEAD, FOOT = 236, 12, 46, 34
SCENES = 3
_ALIKE = 0.5  # IoU of two masks
_GROUND, _INK, _QUIET = (255, 255, 255), (28, 36, 48), (91, 101, 115)
Pane = tuple[Image.Image | None, str, Colour]


def frame(title: str, panes: Sequence[Pane]) -> Image.Image:
    """Three pictures side by side, each with a line below in its colour, under a title."""
    width = len(panes) * (SIDE + GAP) + GAP
    canvas = Image.new("RGB", (width, HEAD + SIDE + FOOT), _GROUND)
    drawing = ImageDraw.Draw(canvas)
    drawing.text((GAP, 12), title, _INK, ImageFont.load_default(20))
    for place, (picture, words, colour) in enumerate(panes):
        left = GAP + place * (SIDE + GAP)
        if picture is not None:
            canvas.paste(picture, (left, HEAD))
            if colour not in (_INK, _QUIET):
                drawing.rectangle([left - 2, HEAD - 2, left + SIDE + 1, HEAD + SIDE + 1], outline=colour, width=4)
        drawing.text((left, HEAD + SIDE + 8), words, _INK if colour != _QUIET else _QUIET, ImageFont.load_default(16))
    return canvas


def ranked_prompts(directory: Path) -> Iterator[list[Image.Image]]:
    """A box, its three masks in an order drawn by lot, and their ranking; one a category."""
    rows = sample_rows(str(directory), ("image_id", "category", "box", "candidates", "annotations"), sys.maxsize)
    rows = [row for row in rows if sorted(row["annotations"][0]["ranking"]) == [1, 2, 3] and _likeness(row) < _ALIKE]
    lot = np.random.default_rng(0)
    for row in _first_of_each("category", sorted(rows, key=lambda row: -max(map(_quality, row["candidates"])))):
        image = read_photographs(str(directory), row["split"], [row["row"]])[row["row"]]
        order = lot.permutation(3)
        masks = [decode_rle(row["candidates"][place]["rle"]) for place in order]
        pictures = [close_up(image, [Overlay(mask, CHOSEN, is_filled=True)], row["box"], side=SIDE) for mask in masks]
        asked = close_up(image, [Overlay(box=row["box"])], row["box"], side=SIDE)
        places = [row["annotations"][0]["ranking"][place] for place in order]
        colours = {1: CHOSEN, 2: _INK, 3: REJECTED}
        keys = "".join(str(places.index(place) + 1) for place in (1, 2))
        words = {1: "best", 2: "", 3: "worst"}
        yield [
            frame("A box round a defect", [(None, "", _INK), (asked, "", _INK), (None, "", _INK)]),
            frame("Three masks are proposed", [(each, str(number), _INK) for number, each in enumerate(pictures, 1)]),
            frame(
                f"Somebody ranks them with two keys: {keys[0]}, {keys[1]}",
                [(each, f"{number}  {words[of]}", colours[of]) for number, (each, of) in enumerate(zip(pictures, places), 1)],
            ),
        ]


def _quality(candidate: dict) -> float:
    return sum(candidate[name] for name in CRITERIA)


def _likeness(row: dict) -> float:
    one, two, three = (decode_rle(candidate["rle"]) for candidate in row["candidates"])
    return max(mask_iou(one, two), mask_iou(two, three), mask_iou(one, three))


def before_and_after(before: Run, after: Run, data: str, rankings: int) -> Iterator[Image.Image]:
    """Two models' answers to held-out prompts at the upper quartile of the gain, one a product."""
    gains = after.values["iou"] - before.values["iou"]
    order = np.argsort(np.abs(gains - np.quantile(gains, 0.75)), kind="stable").tolist()
    found = before.rows(order)
    for record in _first_of_each("category", [found[place] | {"place": place} for place in order]):
        (other,) = after.rows([record["place"]]).values()
        image = read_photographs(data, before.metrics["split"], [record["row"]])[record["row"]]
        truth = decode_rle(record["truth"])
        asked = close_up(image, [Overlay(truth, TRUTH), Overlay(box=record["box"])], record["box"], side=SIDE)
        panes: list[Pane] = [(asked, "the truth", _INK)]
        for name, answer in (("before", record), ("after", other)):
            mask = decode_rle(answer["masks"][0])
            overlays = [Overlay(mask, PREDICTION, is_filled=True), Overlay(truth, TRUTH)]
            picture = close_up(image, overlays, record["box"], side=SIDE)
            panes.append((picture, f"{name}: IoU {mask_iou(mask, truth):.2f}", PREDICTION if name == "after" else _INK))
        yield frame(f"After {rankings} rankings, on a {record['category'].replace('_', ' ')} it never saw", panes)


def _first_of_each(key: str, rows: Sequence[dict]) -> list[dict]:
    first: dict = {}
    for row in rows:
        first.setdefault(row[key], row)
    return list(first.values())[:SCENES]


def draw_method(run: Path, output: Path) -> None:
    """Write the animation of a run of the quickstart or of `visionsam tune`."""
    preferences = run / "preferences"
    rankings = len(sample_rows(str(preferences), ("image_id",), sys.maxsize))
    after = before_and_after(read_run(run / "evaluate/sam"), read_run(run / "evaluate/dpo"), str(run / "data"), rankings)
    scenes = [[*asked, shown] for asked, shown in zip(ranked_prompts(preferences), after)]
    frames = [each.quantize(128, dither=Image.Dither.NONE) for each in chain.from_iterable(scenes)]
    durations = [1400, 1600, 2200, 3200] * len(scenes)
    frames[0].save(output, save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=True)


if __name__ == "__main__":
    draw_method(Path(sys.argv[1]), Path(sys.argv[2]))
