"""What ends a command without being its bug: the user's mistake or wish, damage in what is read, a disk that is full."""

import contextlib
import errno
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

_ADVICE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "raise the limit on the size of files",
    errno.EROFS: "choose a directory that can be written",
    errno.EACCES: "allow it, or choose another directory",
    errno.EPERM: "allow it, or choose another directory",
}
# These come of writing only: from a decoder, they speak of its cache and not of what it reads.
_OF_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
# What is left on a disk that libraries call full; they write in blocks.
_FULL_BYTES = 64 * 1024


class UserError(Exception):
    """A bad file, key or value: one line that names it, says what is wrong and what to do. Exit code 2."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).split()))


class Interrupted(KeyboardInterrupt):
    """SIGTERM or Ctrl-C. Exit code 128 plus the signal's number.

    Args:
        number: the signal.
        advice: how the work goes on.
    """

    def __init__(self, number: int, advice: str = "") -> None:
        self.number = number
        how = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        super().__init__(
            f"stopped by {how}; {advice or 'nothing half-written is left; the same command starts it again'}"
        )


@contextlib.contextmanager
def decoding(where: str | Path) -> Iterator[None]:
    """Round a call that decodes a user's bytes, and round nothing else: whatever it raises speaks of the bytes.

    Decoders raise errors of every class. A full disk and an error that is a `UserError` already pass through.

    Args:
        where: the file, or the data set and its split, for the message.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        if any(isinstance(cause, OSError) and cause.errno in _OF_WRITING for cause in _chain(error)):
            raise
        cause = error.__cause__ or error  # `datasets` itself says only that it failed
        reason = " ".join(str(cause).split())[:200] or type(cause).__name__
        raise UserError(f"{where}: cannot be read ({reason}); it is damaged, make or copy it again") from error


@contextlib.contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Round what writes into a directory: a full disk or a forbidden place is a `UserError`."""
    try:
        yield
    except Exception as error:
        told = writing_error(error, directory)
        if told is None:
            raise
        raise told from error


def writing_error(error: BaseException, directory: Path) -> UserError | None:
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
