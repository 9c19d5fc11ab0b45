"""Photographs of the report: the surroundings of a box, with masks drawn on them, as small inline JPEGs."""

import base64
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
from PIL import Image

SIDE = 264  # pixels of a thumbnail
_MARK = (255, 140, 0)  # what a system marked
_TRUTH = (0, 190, 170)
_HALO = (20, 20, 20)


def read_photographs(directory: str | Path, split: str, rows: Iterable[int]) -> dict[int, np.ndarray]:
    """(H, W, 3) uint8 photographs of some rows of a data set directory; reads only the row groups they are in.

    Rows that the directory does not have are left out.
    """
    wanted, found, first = sorted(set(rows)), {}, 0
    for path in sorted(Path(directory).glob(f"data/{split}-?????-of-?????.parquet")):
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                here = [row for row in wanted if first <= row < first + count]
                if here:
                    images = file.read_row_group(group, columns=["image"])["image"]
                    for row in here:
                        with Image.open(io.BytesIO(images[row - first].as_py()["bytes"])) as image:
                            found[row] = np.asarray(image.convert("RGB"))
                first += count
    return found


def box_window(shape: Sequence[int], box: Sequence[float]) -> tuple[slice, slice]:
    """A square with the box in its middle third or half, inside the image as far as it goes."""
    x1, y1, x2, y2 = box
    side = min(max(2.2 * max(x2 - x1, y2 - y1), 0.12 * max(shape[:2]), 24), max(shape[:2]))
    left, top = (x1 + x2 - side) / 2, (y1 + y2 - side) / 2
    left, top = max(0, min(left, shape[1] - side)), max(0, min(top, shape[0] - side))
    return slice(int(top), int(np.ceil(min(top + side, shape[0])))), slice(
        int(left), int(np.ceil(min(left + side, shape[1])))
    )


def thumbnail(
    image: np.ndarray,
    box: Sequence[float],
    *,
    marked: np.ndarray | None = None,
    truth: np.ndarray | None = None,
    show_box: bool = False,
) -> str:
    """A data URI of the box's surroundings.

    Args:
        image: (H, W, 3) uint8. box: [x1, y1, x2, y2) in its pixels.
        marked: (H, W) bool, drawn in orange: the system's mask.
        truth: (H, W) bool, outlined; filled in teal where nothing is marked.
        show_box: draw the prompt.
    """
    window = box_window(image.shape, box)
    patch = image[window]
    scale = SIDE / max(patch.shape[:2])
    size = max(1, round(patch.shape[1] * scale)), max(1, round(patch.shape[0] * scale))
    canvas = cv2.resize(patch, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    if marked is not None:
        canvas = _fill(canvas, marked[window], _MARK)
        _outline(canvas, marked[window], _MARK, 2)
    if truth is not None:
        if marked is None:
            canvas = _fill(canvas, truth[window], _TRUTH)
            _outline(canvas, truth[window], _TRUTH, 2)
        else:
            _outline(canvas, truth[window], _HALO, 3)
            _outline(canvas, truth[window], (255, 255, 255), 1)
    if show_box:
        corners = (np.array(box) - [window[1].start, window[0].start] * 2) * scale
        x1, y1, x2, y2 = (int(round(value)) for value in corners)
        for color, thickness in ((_HALO, 3), ((255, 255, 255), 1)):
            cv2.rectangle(canvas, (x1, y1), (x2 - 1, y2 - 1), color, thickness)
    return _data_uri(_square(canvas))


def _fill(canvas: np.ndarray, mask: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    inside = _to_canvas(mask, canvas)[..., None]
    return np.where(inside, (0.62 * canvas + 0.38 * np.array(color)).astype(np.uint8), canvas)


def _to_canvas(mask: np.ndarray, canvas: np.ndarray) -> np.ndarray:
    # Shrinking by area keeps hairlines that nearest-neighbour would drop.
    size = (canvas.shape[1], canvas.shape[0])
    if mask.shape[0] > canvas.shape[0]:
        return cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.2
    return cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)


def _outline(canvas: np.ndarray, mask: np.ndarray, color: tuple[int, int, int], thickness: int) -> None:
    contours, _ = cv2.findContours(_to_canvas(mask, canvas).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, contours, -1, color, thickness, cv2.LINE_AA)


def _square(canvas: np.ndarray) -> np.ndarray:
    padded = np.full((SIDE, SIDE, 3), 128, np.uint8)
    top, left = (SIDE - canvas.shape[0]) // 2, (SIDE - canvas.shape[1]) // 2
    padded[top : top + canvas.shape[0], left : left + canvas.shape[1]] = canvas
    return padded


def _data_uri(canvas: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, "JPEG", quality=80, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
