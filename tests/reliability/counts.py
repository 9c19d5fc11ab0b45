"""Where the long forms write what they counted, for docs/reliability.md (tests/reliability/render.py)."""

import json
import os
from pathlib import Path
from typing import Any


def is_long(name: str) -> bool:
    """Whether the long form was asked for: `make soak` sets VISIONSAM_SOAK, `make fuzz` VISIONSAM_FUZZ."""
    return bool(os.environ.get(f"VISIONSAM_{name.upper()}"))


def record(name: str, counts: dict[str, Any]) -> None:
    """Write `counts` to VISIONSAM_COUNTS/<name>.json; the short forms write nothing."""
    directory = os.environ.get("VISIONSAM_COUNTS")
    if directory:
        Path(directory).mkdir(parents=True, exist_ok=True)
        (Path(directory) / f"{name}.json").write_text(json.dumps(counts, indent=2) + "\n")
