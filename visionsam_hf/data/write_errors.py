"""A full disk or a forbidden directory, whichever library ran into it, as the one line that a user can act on."""

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from visionsam_hf.data.errors import UserError

_ADVICE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "raise the limit on the size of files",
    errno.EROFS: "choose a directory that can be written",
    errno.EACCES: "allow it, or choose another directory",
    errno.EPERM: "allow it, or choose another directory",
}
# What is left on a disk that libraries call full; they write in blocks.
_FULL_BYTES = 64 * 1024


def explain(error: BaseException, directory: Path) -> UserError | None:
    """What to tell the user about an error while `directory` was written; None when it was not the disk.

    Libraries in other languages wrap the system's error in one of their own, some without its number, so a disk without
    space explains any failure.
    """
    if not isinstance(error, Exception) or isinstance(error, UserError):
        return None
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.errno in _ADVICE:
            where = cause.filename or directory
            return UserError(f"{where}: cannot be written ({cause.strerror}); {_ADVICE[cause.errno]}, then repeat")
    try:
        is_full = shutil.disk_usage(directory).free < _FULL_BYTES
    except OSError:
        is_full = False
    if is_full or os.strerror(errno.ENOSPC) in str(error):
        return UserError(f"{directory}: the disk is full; free some space, then repeat")
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
