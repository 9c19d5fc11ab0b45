"""Damage in the files that a stage reads, as the one line that a user can act on."""

import traceback
from collections.abc import Iterable

from visionsam_hf.data.errors import UserError

# Code that takes bytes apart. What it raises speaks of the bytes, whatever class the error has.
_DECODERS = (
    "pyarrow/", "/PIL/", "/datasets/features/image.py", "/datasets/packaged_modules/", "/datasets/arrow_dataset.py",
    "/datasets/iterable_dataset.py", "/datasets/table.py", "/datasets/formatting/",
)  # fmt: skip
_WRITERS = ("write_table", "from_pylist", "save")


def explain(error: BaseException, inputs: Iterable[str]) -> UserError | None:
    """What to tell the user about an error that a decoder raised while a stage read its inputs; None for any other."""
    if not isinstance(error, Exception) or isinstance(error, (UserError, MemoryError, NotImplementedError)):
        return None
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or not any(part in frames[-1].filename for part in _DECODERS):
        return None
    if any(frame.name in _WRITERS for frame in frames):
        return None
    names = ", ".join(dict.fromkeys(inputs)) or "the input"
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UserError(f"{names}: cannot be read ({reason}); the files are damaged, make or copy them again")
