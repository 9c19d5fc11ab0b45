"""The one way to write a file or a directory: under a name beside its own, which it takes when it is whole.

What is being written is called `.NAME.0123abcd.tmp` and goes when it cannot be finished. Its writer holds a lock on it,
which the system lets go of when the process dies: so a killed writer's leftovers are told from a living one's work.
"""

import contextlib
import glob
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows, where what a killed writer left stays
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def written_file(path: Path) -> Iterator[Path]:
    """An empty file beside `path` for the body to write; it takes the place of `path` when the body succeeds."""
    with unfinished(path) as temporary:
        yield temporary
        os.replace(temporary, path)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file, all or nothing."""
    with written_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def written_directory(path: Path) -> Iterator[Path]:
    """An empty directory beside `path` for the body to fill; it takes the place of `path` when the body succeeds."""
    with unfinished(path, is_directory=True) as temporary:
        yield temporary
        replace_directory(temporary, path)


def replace_directory(new: Path, path: Path) -> None:
    """Give the directory `new` the name `path`, and remove what had it; of several at once the last stays.

    Whoever is killed in between leaves that as `path` + ".old"; the next call removes it. `path` is not right inside a
    directory that is `unfinished` in this process: it would wait for its own lock.
    """
    old = path.with_name(f"{path.name}.old")
    with _locked(path.parent):
        if old.exists():
            shutil.rmtree(old)
        if path.exists():
            os.rename(path, old)
        os.rename(new, path)
        shutil.rmtree(old, ignore_errors=True)


def names_in(directory: Path) -> set[str]:
    """The names of what a directory holds; none where it is not there, or is being replaced right now."""
    with contextlib.suppress(FileNotFoundError):
        return set(os.listdir(directory))
    return set()


@contextlib.contextmanager
def unfinished(path: Path, *, is_directory: bool = False) -> Iterator[Path]:
    """An empty file or directory beside `path`, gone at the end unless the body has renamed it.

    The directory around it is made, and what killed writers of the same path left there is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent, path.name)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    lock = None
    try:
        lock = _made_and_locked(temporary, is_directory)
        yield temporary
    finally:
        _remove(temporary)
        if lock is not None:
            os.close(lock)


def remove_leftovers(directory: Path, name: str | None = None) -> None:
    """Remove what killed writers left of the file or directory `name`, or of any; living writers' work stays."""
    if fcntl is None:
        return
    for path in directory.glob(f".{'*' if name is None else glob.escape(name)}.*.tmp"):
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(path)
            finally:
                os.close(handle)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file or directory that is there, alone among those who ask for it so."""
    if fcntl is None:
        yield
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        _lock(handle)
        yield
    finally:
        os.close(handle)


def _lock(handle: int) -> None:
    with contextlib.suppress(OSError):  # a file system without locks: `remove_leftovers` gets none there either
        fcntl.flock(handle, fcntl.LOCK_EX)


def _made_and_locked(temporary: Path, is_directory: bool) -> int | None:
    """Make the file or directory and lock it where that is possible; the lock's handle."""
    while True:
        if is_directory:
            temporary.mkdir()
        else:
            temporary.touch()
        if fcntl is None:
            return None
        with contextlib.suppress(FileNotFoundError):
            handle = os.open(temporary, os.O_RDONLY)
            _lock(handle)
            if temporary.exists():
                return handle
            os.close(handle)  # it was taken for a leftover between our making it and our locking it


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
