"""A gallery of the report as one picture, for a paper or a slide."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from visionsam_hf.evaluation.galleries import PictureRow

_CELL = 1.75  # inches
_STYLE = {"font.family": "DejaVu Sans", "font.size": 8}


def plate(rows: Sequence[PictureRow], *, dpi: int = 150) -> bytes:
    """A PNG of rows of pictures with their captions, one row of pictures under the other.

    Args:
        rows: at least one.
    """
    columns = max(len(row.cells) for row in rows)
    with rc_context(_STYLE):
        figure = Figure(figsize=(_CELL * columns, (_CELL + 0.62) * len(rows)), layout="constrained")
        for part, row in zip(np.atleast_1d(figure.subfigures(len(rows), 1)), rows):
            part.suptitle(f"{row.title} ({row.note})", x=0.01, ha="left", fontsize=9.5, fontweight="bold")
            for axes, cell in zip(part.subplots(1, columns, squeeze=False)[0], row.cells):
                axes.imshow(_picture(cell.picture))
                axes.set_title(cell.title, fontsize=8.5, pad=3)
                axes.set_xlabel(cell.note, labelpad=3)
            for axes in part.axes:
                axes.set_xticks([])
                axes.set_yticks([])
                axes.spines[:].set_visible(False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def _picture(uri: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        return np.asarray(image.convert("RGB"))
