"""The report's rows of pictures, each chosen by a rule that stands above it."""

import base64
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from visionsam_hf.data.errors import decoding
from visionsam_hf.data.masks import decode_mask, decode_rle, mask_iou
from visionsam_hf.data.overlays import CHOSEN, PREDICTION, REJECTED, TRUTH, Colour, Overlay, close_up, data_uri
from visionsam_hf.evaluation.comparison import chosen_by_rule, shared_keys
from visionsam_hf.evaluation.per_sample import TITLES, CaseThresholds, prompt_cases, take_rows
from visionsam_hf.evaluation.result_files import Run, SplitResult, sample_rows, shards

SIDE = 264  # pixels of a thumbnail
RANKED = {"chosen": CHOSEN, "rejected": REJECTED}


def read_photographs(directory: str | Path, split: str, rows: Iterable[int]) -> dict[int, np.ndarray]:
    """(H, W, 3) uint8 photographs of some rows of a data set directory; reads only the row groups they are in.

    Rows that the directory does not have are left out.
    """
    found = {}
    for place, row in take_rows(shards(directory, split), rows, ["image"]).items():
        with decoding(f"{directory}: row {place} of {split}"), Image.open(io.BytesIO(row["image"]["bytes"])) as image:
            found[place] = np.asarray(image.convert("RGB"))
    return found


def thumbnail(
    image: np.ndarray,
    box: Sequence[float],
    *,
    marked: np.ndarray | None = None,
    truth: np.ndarray | None = None,
    show_box: bool = False,
    colour: Colour = PREDICTION,
) -> Image.Image:
    """The box's surroundings.

    Args:
        image: (H, W, 3) uint8.
        box: [x1, y1, x2, y2) in its pixels.
        marked: (H, W) bool, tinted in `colour`: the system's mask.
        truth: (H, W) bool, outlined in white.
        show_box: draw the prompt.
    """
    overlays = [] if marked is None else [Overlay(marked, colour, is_filled=True)]
    overlays += [] if truth is None else [Overlay(truth, TRUTH, is_filled=marked is None)]
    overlays += [Overlay(box=box)] if show_box else []
    return close_up(image, overlays, box, side=SIDE)


_LOOKED_AT = 300  # rows of a candidate or preference set that the choice is made from
_QUANTILES = (0.05, 0.3, 0.5, 0.7, 0.95)


@dataclass
class Cell:
    """A picture with its caption; `best` marks it among its neighbours."""

    picture: str
    alt: str
    title: str
    note: str = ""
    best: bool = False


@dataclass
class PictureRow:
    """Pictures of one prompt."""

    title: str
    note: str
    cells: list[Cell] = field(default_factory=list)


def photograph_directory(run: Run, dataset: str) -> str | None:
    """Where a run's photographs are: the data set it names, else the report's; None if neither is a directory here."""
    return next((name for name in (run.metrics.get("dataset"), dataset) if name and Path(name).is_dir()), None)


def stage_comparison(
    results: Mapping[str, SplitResult], dataset: str, *, seed: int
) -> list[PictureRow]:
    """Photograph, truth and each system's mask for prompts chosen by the gain of the last over the first system."""
    names, split_results = list(results), list(results.values())
    keys = shared_keys(split_results)
    directory = photograph_directory(split_results[0].runs[0], dataset)
    if not keys or directory is None:
        return []
    gains = np.array([split_results[-1].values["iou"][key] - split_results[0].values["iou"][key] for key in keys])
    chosen = chosen_by_rule(gains, keys, seed=seed)
    photographs = read_photographs(directory, split_results[0].split, [keys[place][0] for _, place in chosen])
    records = [result.runs[0].rows([result.places[keys[place]] for _, place in chosen]) for result in split_results]
    rows = []
    for rule, place in chosen:
        key = keys[place]
        image = photographs.get(key[0])
        found = [record[result.places[key]] for record, result in zip(records, split_results)]
        truth = decode_rle(found[0]["truth"])
        if image is None or image.shape[:2] != truth.shape:
            continue
        row = PictureRow(
            f"{rule}: {round(gains[place], 2) + 0.0:+.2f} IoU".replace("-", "−"),
            f"{', '.join(_names(found[0]))} ({key[1]})",
        )
        row.cells += _prompt_cells(image, found[0]["box"], truth, found[0])
        best = max(result.values["iou"][key] for result in split_results)
        for name, record, result in zip(names, found, split_results):
            token = _token(record, result.runs[0].metrics["selection"])
            mask = decode_rle(record["masks"][token])
            iou = mask_iou(mask, truth)
            row.cells.append(
                Cell(
                    data_uri(thumbnail(image, record["box"], marked=mask, truth=truth)),
                    f"{name}'s mask on the {record['defect']}, IoU {iou:.2f}",
                    name,
                    f"IoU {iou:.2f}",
                    best=result.values["iou"][key] == best,
                )
            )
        rows.append(row)
    return rows


def _prompt_cells(
    image: np.ndarray, box: Sequence[float], truth: np.ndarray | None, record: Mapping[str, Any]
) -> list[Cell]:
    names = _names(record)
    picture = data_uri(thumbnail(image, box, show_box=True))
    told = f"Photograph of {' on '.join(names)}, with the box" if names else "Photograph with the box"
    photograph = Cell(picture, told, "Photograph and box")
    if truth is None:
        return [photograph]
    outline = Cell(
        data_uri(thumbnail(image, box, truth=truth)),
        ", ".join(["True outline", *names]),
        "Truth",
        f"{int(truth.sum()):,} pixels",
    )
    return [photograph, outline]


def _names(record: Mapping[str, Any]) -> list[str]:
    """The defect and what it is on, as far as they are known and say different things."""
    return list(dict.fromkeys(str(record[key]) for key in ("defect", "category") if record.get(key)))


def _token(record: Mapping[str, Any], selection: str) -> int:
    if selection == "single":
        return 0
    if selection == "score":
        return 1 + int(np.argmax(record["scores"][1:]))
    truth = decode_rle(record["truth"])
    return 1 + int(np.argmax([mask_iou(decode_rle(code), truth) for code in record["masks"][1:]]))


def case_gallery(result: SplitResult, dataset: str) -> list[PictureRow]:
    """One prompt for each failure case: the one with the median IoU, its three candidates with their scores."""
    run = result.runs[0]
    directory = photograph_directory(run, dataset)
    if directory is None or not np.isfinite(run.columns["scores"]).all():
        return []
    thresholds = CaseThresholds(**run.metrics["cases"]["thresholds"])
    cases, ious = prompt_cases(run.columns, thresholds), run.values["iou"]
    places = {}
    for case in TITLES:
        inside = np.flatnonzero(cases == case)
        if len(inside):
            places[case] = int(inside[np.argsort(ious[inside], kind="stable")[len(inside) // 2]])
    records = run.rows(list(places.values()))
    photographs = read_photographs(directory, result.split, [record["row"] for record in records.values()])
    rows = []
    for case, place in places.items():
        record, share = records[place], float((cases == case).mean())
        image, truth = photographs.get(record["row"]), decode_rle(record["truth"])
        if image is not None and image.shape[:2] == truth.shape:
            note = f"{share:.0%} of the prompts; here {', '.join(_names(record))}"
            row = PictureRow(TITLES[case], note, _prompt_cells(image, record["box"], truth, record))
            masks, scores = [decode_rle(code) for code in record["masks"][1:]], record["scores"][1:]
            row.cells += _candidate_cells(image, record["box"], truth, masks, scores)
            rows.append(row)
    return rows


def _candidate_cells(
    image: np.ndarray,
    box: Sequence[float],
    truth: np.ndarray | None,
    masks: Sequence[np.ndarray],
    scores: Sequence[float],
    sources: Sequence[str] = (),
) -> list[Cell]:
    ious = [None if truth is None else mask_iou(mask, truth) for mask in masks]
    best = max((iou for iou in ious if iou is not None), default=None)
    cells = []
    for index, (mask, score, iou) in enumerate(zip(masks, scores, ious)):
        reached = "" if iou is None else f", IoU {iou:.2f}"
        title = f"Candidate {index + 1}"
        source = f", from {sources[index].replace('_', ' ')}" if len(set(sources)) > 1 else ""
        picture = data_uri(thumbnail(image, box, marked=mask, truth=truth))
        cells.append(
            Cell(
                picture,
                f"{title}: score {score:.2f}{reached}",
                title,
                f"score {score:.2f}{reached}{source}",
                best=iou is not None and iou == best,
            )
        )
    return cells


def candidate_gallery(directory: str) -> list[PictureRow]:
    """Photograph, truth and three candidates with their scores, for prompts from hard to easy."""
    gallery = []
    for shown in _sampled(directory, ("truth", "candidates"), _best_candidate):
        row, image, truth = shown.row, shown.image, shown.truth
        title = row["image_id"] if truth is None else f"Best candidate {shown.value:.2f} IoU"
        cells = _prompt_cells(image, row["box"], truth, {})
        cells += _candidate_cells(
            image,
            row["box"],
            truth,
            [decode_rle(candidate["rle"]) for candidate in row["candidates"]],
            [candidate["score"] for candidate in row["candidates"]],
            [candidate.get("source") or "" for candidate in row["candidates"]],
        )
        gallery.append(PictureRow(title, "" if truth is None else row["image_id"], cells))
    return gallery


@dataclass(frozen=True)
class _Sampled:
    """A row of a data set, its photograph (H, W, 3), its truth (H, W) where it has one, and what it was ordered by."""

    row: dict[str, Any]
    value: float
    image: np.ndarray
    truth: np.ndarray | None


def _sampled(
    directory: str, columns: Sequence[str], value: Callable[[Mapping[str, Any]], float]
) -> Iterator[_Sampled]:
    """Rows of a candidate or preference set at fixed quantiles of a value, lowest first, each image once."""
    rows = sample_rows(directory, ("image_id", "category", "box", *columns), _LOOKED_AT)
    picked = _spread(rows, [value(row) for row in rows])
    wanted = [row["row"] for row, _ in picked]
    photographs = read_photographs(directory, picked[0][0]["split"], wanted) if picked else {}
    for row, of_row in picked:
        if row["row"] in photographs:
            yield _Sampled(row, of_row, photographs[row["row"]], _stored_mask(row["truth"]))


def _best_candidate(row: Mapping[str, Any]) -> float:
    truth = _stored_mask(row["truth"])
    if truth is None:
        return max((candidate["score"] for candidate in row["candidates"]), default=0.0)
    return max((mask_iou(decode_rle(candidate["rle"]), truth) for candidate in row["candidates"]), default=0.0)


def _stored_mask(value: Mapping[str, Any] | None) -> np.ndarray | None:
    if not value or not value.get("bytes"):
        return None
    with decoding("a stored mask"), Image.open(io.BytesIO(value["bytes"])) as image:
        return decode_mask(image)


def _spread(rows: Sequence[dict[str, Any]], values: Sequence[float]) -> list[tuple[dict[str, Any], float]]:
    """(row, value) at fixed quantiles of a value, lowest first, each image once."""
    order = np.argsort(values, kind="stable")
    picked, seen = [], set()
    for quantile in _QUANTILES:
        start = round(quantile * (len(order) - 1)) if len(order) else 0
        for place in order[start:]:
            if rows[place]["image_id"] not in seen:
                seen.add(rows[place]["image_id"])
                picked.append((rows[place], values[place]))
                break
    return picked


def detection_gallery(cases: Iterable[Mapping[str, Any]]) -> list[PictureRow]:
    """Photograph with the true outline, map, and masks, for the cases that `evaluate --finder` drew."""
    gallery = []
    for case in cases:
        is_what = case["outcome"] or ("defective" if case["defective"] else "good")
        reached = "" if case.get("iou") is None else f", IoU {case['iou']:.2f}"
        cells = [
            Cell(
                "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii"),
                f"{name.capitalize()} of {case['image_id']}, {is_what}.",
                name.capitalize(),
            )
            for name, content in case["pictures"].items()
        ]
        gallery.append(PictureRow(f"{is_what.capitalize()}: score {case['score']:.1f}{reached}", case["image_id"], cells))
    return gallery


def preference_gallery(directory: str) -> list[PictureRow]:
    """What was chosen and what was rejected, for pairs from the closest to the clearest."""
    gallery = []
    for shown in _sampled(directory, ("margin", "chosen", "rejected", "truth"), lambda row: row["margin"]):
        row, image, truth = shown.row, shown.image, shown.truth
        cells = _prompt_cells(image, row["box"], truth, {})
        masks = {name: _stored_mask(row[name]) for name in ("chosen", "rejected")}
        ious = {} if truth is None else {name: mask_iou(mask, truth) for name, mask in masks.items()}
        for name, mask in masks.items():
            reached = "" if truth is None else f"IoU {ious[name]:.2f}"
            cells.append(
                Cell(
                    data_uri(thumbnail(image, row["box"], marked=mask, truth=truth, colour=RANKED[name])),
                    f"The {name} mask. {reached}".strip(),
                    name.capitalize(),
                    reached,
                    # By the truth: annotators, and noise, can choose the worse mask, and that must show.
                    best=truth is not None and ious[name] == max(ious.values()),
                )
            )
        gallery.append(PictureRow(f"Margin {shown.value:.2f}", row["image_id"], cells))
    return gallery
