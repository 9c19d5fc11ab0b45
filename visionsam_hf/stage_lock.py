"""One run at a time into one directory, whatever kills the run that holds it."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from visionsam_hf.errors import UserError

try:
    import fcntl
except ImportError:  # not on Windows, where two runs into one directory are not kept apart
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def only_run(lock: Path, output: Path) -> Iterator[None]:
    """Hold `lock`, a file with this process's number, while the body writes `output`.

    The system lets go of it when the process dies, so a killed run never stands in the way of its repetition, and
    children do not inherit it. The file goes at the end; one that a killed run left is taken over.

    Raises:
        UserError: another process holds it (with its number), or the file cannot be written.
    """
    if fcntl is None:
        yield
        return
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = _held(lock)
    except OSError as error:
        raise UserError(f"{lock}: cannot be written ({error.strerror}); choose another output_dir") from None
    if handle is None:
        raise UserError(
            f"{output}: another run{_holder(lock)} is writing it; wait for it or end it, or choose another output_dir"
        )
    try:
        os.truncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.unlink()
        os.close(handle)


def _held(lock: Path) -> int | None:
    """A handle of the locked file, or None when another process holds it."""
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it may have removed the file between our opening and our locking it.
            if os.fstat(handle).st_ino == os.stat(lock).st_ino:
                return handle
        except (BlockingIOError, PermissionError):
            os.close(handle)
            return None
        except FileNotFoundError:
            pass
        except OSError:
            os.close(handle)
            raise
        os.close(handle)


def _holder(lock: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        return f" (process {int(lock.read_text())})"
    return ""
