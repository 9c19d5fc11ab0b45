"""Is a run-length code whole? The C code that decodes it trusts its string, and reads and writes where that says."""

import numpy as np

from visionsam_hf.errors import UserError

# Above any photograph; a mask of this many pixels takes as many bytes.
MAX_PIXELS = 1 << 28
_LONGEST_VALUE = 8  # characters of five bits


def check_code(size: list[int], counts: str) -> None:
    """Raise `UserError` unless a COCO compressed code covers exactly the (height, width) pixels of its mask."""
    problem = _problem(list(size), counts)
    if problem:
        raise UserError(f"run-length code of a mask of {list(size)} pixels: {problem}; make the data set again")


def _problem(size: list[int], counts: str) -> str:
    if len(size) != 2 or min(size) < 1:
        return "its size is not (height, width)"
    pixels = int(size[0]) * int(size[1])
    if pixels > MAX_PIXELS:
        return f"more than {MAX_PIXELS:,} pixels"
    runs = _runs(counts)
    if runs is None:
        return "is damaged"
    covered = int(runs.sum())
    return "" if covered == pixels and runs.min(initial=0) >= 0 else f"covers {covered} pixels, not {pixels}"


def _runs(counts: str) -> np.ndarray | None:
    """(n,) int64 run lengths of a compressed string; None where it holds none."""
    try:
        codes = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        return None
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 0x20:
        return None
    # Each value is a little-endian group of characters; its last one lacks the bit 0x20 and carries the sign at 0x10.
    ends = np.flatnonzero(codes & 0x20 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST_VALUE:
        return None
    places = np.arange(len(codes)) - np.repeat(starts, lengths)
    values = np.add.reduceat((codes & 0x1F) << (5 * places), starts)
    values -= np.where(codes[ends] & 0x10, 1 << (5 * lengths), 0)
    # From the fourth on, a value is the difference to the run before the last.
    for first in (1, 2):
        values[first::2] = np.cumsum(values[first::2])
    return values
