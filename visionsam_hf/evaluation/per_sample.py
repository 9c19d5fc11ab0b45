"""`per_sample.parquet`: one row a prompt with its masks, scores and counts, from which every table and figure is made.

Masks are run-length codes, so that figures need no model. Columns of four values go by decoder token: 0, SAM's single
mask, then 1 to 3, its three candidates. What is read off a row stands here too: the token that a selection takes, how
hard the defect is to see (small, thin, faint), and the four ways a prompt can end.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from visionsam_hf.data.errors import decoding
from visionsam_hf.data.masks import mask_width
from visionsam_hf.evaluation.metrics import COUNTS, METRICS, mask_window, metric_values
from visionsam_hf.inference import TOKENS

FILE = "per_sample.parquet"
_RLE = pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])
MASKS = ("truth", "masks")  # the columns that only figures read
SCHEMA = pa.schema(
    [
        ("row", pa.int64()),  # of the split
        ("image_id", pa.string()),
        ("category", pa.string()),
        ("object_index", pa.int32()),
        ("defect", pa.string()),
        ("prompt", pa.string()),
        ("box", pa.list_(pa.float32(), 4)),  # [x1, y1, x2, y2) in pixels of the photograph
        ("truth", _RLE),
        ("masks", pa.list_(_RLE, TOKENS)),
        ("scores", pa.list_(pa.float32(), TOKENS)),  # NaN for a system without scores
        ("size", pa.float64()),  # share of the image
        ("thickness", pa.float64()),  # share of the longer side
        ("contrast", pa.float64()),  # share of the grey range, NaN where not measured
        *((name, pa.list_(pa.int64(), TOKENS)) for name in COUNTS),
    ]
)


def write_groups(path: Path, groups: Iterable[list[dict[str, Any]]]) -> None:
    """Write groups of rows as they come, a Parquet row group each, with one group in memory."""
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for group in groups:
            if group:
                writer.write_table(pa.Table.from_pylist(group, schema=SCHEMA))


def join_parts(path: Path, parts: Sequence[Path]) -> None:
    """Put the files of several processes together in the data set's order, and delete them."""
    files = [pq.ParquetFile(part) for part in parts]
    groups = []
    for number, file in enumerate(files):
        for group in range(file.num_row_groups):
            groups.append((file.metadata.row_group(group).column(0).statistics.min, number, group))
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for _, number, group in sorted(groups):
            writer.write_table(files[number].read_row_group(group))
    for file, part in zip(files, parts):
        file.close()
        part.unlink()


def columns_of(table: pa.Table) -> dict[str, np.ndarray]:
    """The columns of numbers and names as arrays: (N,) or, for columns by token, (N, 4); masks are left out."""
    found = {}
    for field in table.schema:
        if field.name in MASKS:
            continue
        column = table[field.name].combine_chunks()
        if pa.types.is_fixed_size_list(field.type):
            values = column.flatten().to_numpy(zero_copy_only=False)
            found[field.name] = values.reshape(len(column), field.type.list_size)
        elif pa.types.is_string(field.type):
            found[field.name] = np.array(column.to_pylist(), object)
        else:
            found[field.name] = column.to_numpy(zero_copy_only=False)
    return found


def read_columns(path: Path) -> dict[str, np.ndarray]:
    """`columns_of` a file, without reading its masks."""
    with decoding(path):
        table = pq.read_table(path, columns=[name for name in SCHEMA.names if name not in MASKS])
    return columns_of(table)


def take_rows(
    paths: Iterable[Path], places: Iterable[int], columns: Sequence[str] | None = None
) -> dict[int, dict[str, Any]]:
    """Rows of Parquet files by their place in all of them, one file after the other.

    Reads only the row groups that they are in; places beyond the last row are left out.

    Args:
        columns: which; None for all.
    """
    found: dict[int, dict[str, Any]] = {}
    wanted, first = sorted(set(places)), 0
    for path in paths:
        with decoding(path):
            file = pq.ParquetFile(path)
        with file:
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                here = [place for place in wanted if first <= place < first + count]
                if here:
                    with decoding(path):
                        table = file.read_row_group(group, columns=columns)
                    found.update(zip(here, table.take(pa.array([at - first for at in here])).to_pylist()))
                first += count
    return found


def selected_tokens(scores: np.ndarray, ious: np.ndarray) -> dict[str, np.ndarray]:
    """The token that each selection takes: (N,) ints per selection, from (N, 4) scores and IoU."""
    return {
        "single": np.zeros(len(scores), int),
        "score": 1 + scores[:, 1:].argmax(1),
        "oracle": 1 + ious[:, 1:].argmax(1),
    }


def take_token(columns: dict[str, np.ndarray], selection: str) -> dict[str, np.ndarray]:
    """The metrics of one selection's masks: (N,) floats for each of `METRICS`, and "score"."""
    values = metric_values({name: columns[name] for name in COUNTS})
    token = selected_tokens(columns["scores"], values["iou"])[selection]
    rows = np.arange(len(token))
    return {name: values[name][rows, token] for name in METRICS} | {"score": columns["scores"][rows, token]}


# Measure -> (upper edges, labels): the classes are fixed, so that data sets compare.
BINS = {
    "size": ((0.001, 0.01, 0.1), ("under 0.1% of the image", "0.1 to 1%", "1 to 10%", "over 10%")),
    "thickness": ((0.01, 0.03, 0.1), ("under 1% of the longer side", "1 to 3%", "3 to 10%", "over 10%")),
    "contrast": ((0.05, 0.1, 0.2), ("under 5% of the grey range", "5 to 10%", "10 to 20%", "over 20%")),
}


def defect_size(truth: np.ndarray) -> float:
    """The share of the image that a (H, W) mask takes."""
    return float(truth.mean())


def defect_thickness(truth: np.ndarray) -> float:
    """The width of a (H, W) mask where it is thickest, as a share of the image's longer side; 0 if empty."""
    return mask_width(truth) / max(truth.shape)


def defect_contrast(grey: np.ndarray, truth: np.ndarray) -> float:
    """How much a defect's mean grey differs from that of the ring around it, as a share of the grey range.

    The ring is as wide as the defect is thick, at least 3 pixels. NaN if the mask or the ring is empty.

    Args:
        grey: (H, W) uint8. truth: (H, W) bool.
    """
    width = max(3, round(defect_thickness(truth) * max(truth.shape)))
    window = mask_window(truth, margin=width)
    if window is None:
        return float("nan")
    inside, grey = truth[window], grey[window]
    ring = (cv2.distanceTransform((~inside).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= width) & ~inside
    if not ring.any():
        return float("nan")
    return abs(float(grey[inside].mean()) - float(grey[ring].mean())) / 255


def bin_index(name: str, values: np.ndarray) -> np.ndarray:
    """Which of the labels of `BINS[name]` each of (N,) values falls under; -1 for NaN."""
    edges, _ = BINS[name]
    return np.where(np.isnan(values), -1, np.searchsorted(edges, values, side="right"))


CASES = ("aligned", "misaligned", "partial", "failure")
TITLES = {
    "aligned": "Correct, and scored so",
    "misaligned": "Correct, but another mask is scored higher",
    "partial": "Too much: the defect and its surroundings",
    "failure": "Failure",
}


@dataclasses.dataclass(frozen=True)
class CaseThresholds:
    """Where the four cases part.

    Args:
        correct_iou: from this IoU on, the best of the three masks is correct.
        aligned_gap: the best-scored mask may be this much IoU below the best one and still count as aligned.
        partial_coverage, partial_precision: a mask that covers at least so much of the defect at a lower precision
            than this is over-segmentation.
    """

    correct_iou: float = 0.7
    aligned_gap: float = 0.05
    partial_coverage: float = 0.8
    partial_precision: float = 0.5


def classify(
    ious: np.ndarray,
    coverage: np.ndarray,
    precision: np.ndarray,
    scores: np.ndarray,
    thresholds: CaseThresholds = CaseThresholds(),
) -> np.ndarray:
    """The case of each prompt, judged on its three candidates.

    'Partial' is judged on the best mask: if even that one covers the defect at low precision, the model found the
    object that the defect is on.

    Args:
        ious, coverage, precision, scores: (N, 3) of the candidates.

    Returns:
        (N,) strings of `CASES`.
    """
    rows = np.arange(len(ious))
    best, scored = ious.argmax(1), scores.argmax(1)
    # Rounding must not decide at a threshold.
    correct = ious[rows, best] >= thresholds.correct_iou - 1e-9
    aligned = ious[rows, scored] >= ious[rows, best] - thresholds.aligned_gap - 1e-9
    partial = (coverage[rows, best] >= thresholds.partial_coverage) & (
        precision[rows, best] < thresholds.partial_precision
    )
    return np.select([correct & aligned, correct, partial], ["aligned", "misaligned", "partial"], "failure")


def prompt_cases(columns: dict[str, np.ndarray], thresholds: CaseThresholds = CaseThresholds()) -> np.ndarray:
    """(N,) failure cases, judged on the three candidates."""
    values = metric_values({name: columns[name][:, 1:] for name in COUNTS})
    return classify(values["iou"], values["coverage"], values["precision"], columns["scores"][:, 1:], thresholds)
