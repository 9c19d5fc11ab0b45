"""Make the metric's Space stand alone: python recipes/space/assemble_metric.py DIRECTORY

Copies recipes/space/metric and, beside it, the package's own counting of pixels.
"""

import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
COUNTS = HERE.parent.parent / "visionsam_hf" / "evaluation" / "metrics.py"


def assemble(directory: Path) -> None:
    """Write the folder; files of the same names are replaced."""
    shutil.copytree(HERE / "metric", directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(COUNTS, directory / "metrics.py")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    assemble(Path(sys.argv[1]))
