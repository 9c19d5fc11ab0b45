"""The table of docs/zoom.md, from a run of recipes/beyond/zoom.

    PYTHONPATH=recipes python -m studies.zoom_table outputs/zoom
"""

import sys
from pathlib import Path

import numpy as np

from studies.evidence_tables import gain_words, markdown_table
from visionsam_hf.evaluation.metrics import compare
from visionsam_hf.evaluation.result_files import Run, read_run

_COLUMNS = ["model, pixels, window", "SAM", "smallest third", "against whole", "SFT-SAM", "smallest third", "against whole"]


def zoom_table(directory: Path) -> str:
    """Mean IoU of every window before and after SFT, and the paired difference to the whole photograph: all, smallest third."""
    rows = []
    for place in sorted((directory / "sam").iterdir()):
        model, pixels, window = place.name.split("-", 2)
        row = [f"{model}, {pixels}, {window.replace('-', ' × ')}"]
        for stage in ("sam", "tuned"):
            run, whole = (read_run(directory / stage / f"{model}-{pixels}-{name}") for name in (window, "whole"))
            small, iou = _smallest_third(run), run.values["iou"]
            gains = [gain_words(_against(run, whole, of)) for of in (np.full(len(iou), True), small)]
            row += [f"{iou.mean():.3f}", f"{iou[small].mean():.3f}", "" if window == "whole" else "; ".join(gains)]
        rows.append(row)
    return markdown_table(_COLUMNS, rows)


def _smallest_third(run: Run) -> np.ndarray:
    area = run.columns["size"]
    return area <= np.quantile(area, 1 / 3)


def _against(run: Run, whole: Run, of: np.ndarray) -> dict:
    images = [image for (_, image, _), taken in zip(run.keys, of) if taken]
    return compare(run.values["iou"][of], whole.values["iou"][of], images)


if __name__ == "__main__":
    print(zoom_table(Path(sys.argv[1])))
