"""`per_sample.parquet`: one row a prompt with its masks, scores and counts, from which every table and figure is made.

Masks are run-length codes, so that figures need no model. Columns of four values go by decoder token: 0, SAM's single
mask, then 1 to 3, its three candidates.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from visionsam_hf.evaluation.appearance import defect_contrast, defect_size, defect_thickness
from visionsam_hf.evaluation.counts import COUNTS, mask_counts
from visionsam_hf.schema import encode_rle

if TYPE_CHECKING:
    from visionsam_hf.inference import PromptResult

FILE = "per_sample.parquet"
TOKENS = 4
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


def score_prompt(result: "PromptResult", grey: np.ndarray | None) -> dict[str, Any]:
    """The row of one prompt.

    Args:
        result: masks and scores of the four tokens, and the truth, at the photograph's size.
        grey: (H, W) uint8 photograph, for the defect's contrast; None leaves it unmeasured.
    """
    if len(result.masks) != TOKENS or len(result.scores) != TOKENS:
        raise ValueError(f"expected {TOKENS} masks and scores a prompt, got {len(result.masks)}, {len(result.scores)}")
    counts = [mask_counts(mask, result.truth) for mask in result.masks]
    return {
        "row": result.row,
        "image_id": result.image_id,
        "category": result.category,
        "object_index": result.object_index,
        "defect": result.defect,
        "prompt": result.prompt,
        "box": [float(value) for value in result.box],
        "truth": encode_rle(result.truth),
        "masks": [encode_rle(mask) for mask in result.masks],
        "scores": [float(score) for score in result.scores],
        "size": defect_size(result.truth),
        "thickness": defect_thickness(result.truth),
        "contrast": float("nan") if grey is None else defect_contrast(grey, result.truth),
        **{name: [count[name] for count in counts] for name in COUNTS},
    }


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
    return columns_of(pq.read_table(path, columns=[name for name in SCHEMA.names if name not in MASKS]))


def read_masks(path: Path, places: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Whole rows, masks still coded, by their place in the file."""
    found: dict[int, dict[str, Any]] = {}
    first = 0
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            here = sorted(place for place in set(places) if first <= place < first + count)
            if here:
                rows = file.read_row_group(group).take(pa.array([place - first for place in here])).to_pylist()
                found.update(zip(here, rows))
            first += count
    return found
