"""The files of an embedding cache: a few hundred embeddings each, written once, checked before they are used.

A shard is `NAME.npy`, an (n, C, h, w) array, and `NAME.json`, which says whose embeddings they are and vouches for the
bytes. The index is renamed into place last, so a shard that was cut short has none and is nobody's.
bfloat16 is stored as its bit patterns (int16): numpy has no such type.
"""

import contextlib
import json
import mmap
import os
import uuid
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from visionsam_hf.errors import UserError

try:
    import fcntl
except ImportError:  # not on Windows, where what a killed writer left stays until `embed --prune`
    fcntl = None  # type: ignore[assignment]

STORED_AS = {"float16": np.float16, "bfloat16": np.int16, "float32": np.float32}
_BLOCK = 4 * 2**20
# Linux maps this much around a page that is read.
_AROUND = 64 * 2**10


@dataclass(frozen=True)
class Shard:
    """One finished shard.

    Attributes:
        path: of the `.npy`.
        keys: of its embeddings, in order.
        crc32: of its data.
    """

    path: Path
    keys: tuple[str, ...]
    crc32: int


def read_index(index: Path) -> Shard:
    """The shard that a `.json` speaks for. Raises `OSError`, `ValueError` or `KeyError` when it cannot."""
    described = json.loads(index.read_text(encoding="utf-8"))
    path = index.with_suffix(".npy")
    path.stat()
    return Shard(path, tuple(described["images"]), int(described["crc32"]))


def verify(shard: Shard) -> None:
    """Read a shard through once. Raises `OSError` or `ValueError` when it is not what its index says."""
    with open(shard.path, "rb") as file:
        shape, dtype = _read_header(file)
        if not shape or shape[0] != len(shard.keys):
            raise ValueError("another number of embeddings than its index says")
        checksum, size = 0, 0
        while block := file.read(_BLOCK):
            checksum, size = zlib.crc32(block, checksum), size + len(block)
    if size != dtype.itemsize * int(np.prod(shape)):
        raise ValueError("its length is wrong")
    if checksum != shard.crc32:
        raise ValueError("checksum differs")


class MappedShard:
    """A shard in memory's address space; what is read is copied and given back, so memory does not grow with reading."""

    def __init__(self, shard: Shard) -> None:
        with open(shard.path, "rb") as file:
            shape, self._dtype = _read_header(file)
            self._start = file.tell()
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._shape = shape[1:]
        self._count = int(np.prod(self._shape))

    def __getitem__(self, row: int) -> np.ndarray:
        """A copy of one (C, h, w) embedding, as stored."""
        size = self._count * self._dtype.itemsize
        offset = self._start + row * size
        copied = np.frombuffer(self._map, self._dtype, self._count, offset).copy()
        if hasattr(mmap, "MADV_DONTNEED"):
            # The pages stay in the system's cache; only this process stops counting them as its own.
            first = max(0, offset - _AROUND) // mmap.PAGESIZE * mmap.PAGESIZE
            last = min(len(self._map), offset + size + _AROUND)
            self._map.madvise(mmap.MADV_DONTNEED, first, last - first)
        return copied.reshape(self._shape)


def write_shard(directory: Path, name: str, keys: Sequence[str], values: Sequence[torch.Tensor], dtype: str) -> None:
    """Write embeddings (C, h, w) of one shape as shard `name`, all or nothing."""
    stored = np.dtype(STORED_AS[dtype])
    checksum = 0
    with _replacing(directory / f"{name}.npy") as file:
        header = {"descr": stored.str, "fortran_order": False, "shape": (len(values), *values[0].shape)}
        np.lib.format.write_array_header_1_0(file, header)
        for value in values:
            content = value.to(getattr(torch, dtype)).contiguous()
            if dtype == "bfloat16":
                content = content.view(torch.int16)
            data = memoryview(content.numpy()).cast("B")
            checksum = zlib.crc32(data, checksum)
            file.write(data)
    write_json(directory / f"{name}.json", {"images": list(keys), "crc32": checksum})


def write_json(path: Path, content: dict) -> None:
    """Write a JSON file, all or nothing."""
    with _replacing(path) as file:
        file.write(json.dumps(content, indent=2).encode())


def remove_leftovers(directory: Path) -> None:
    """Remove the unfinished files of writers that were killed; those of living ones, in any process, stay."""
    if fcntl is None:
        return
    for path in directory.glob(".*.tmp"):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def remove(shard: Path) -> None:
    """Remove a shard's two files; the index first, so that it vouches for nothing in between."""
    shard.with_suffix(".json").unlink(missing_ok=True)
    shard.with_suffix(".npy").unlink(missing_ok=True)


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"array format {version}")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if fortran or dtype not in STORED_AS.values():
        raise ValueError(f"not an array of embeddings ({dtype})")
    return shape, dtype


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the body has written it, and is gone when it could not."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with _held(temporary) as file:
            yield file
            if fcntl is not None:
                file.flush()
                os.replace(temporary, path)  # before letting go of it: from then on it would look left behind
        if fcntl is None:
            os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"{path.parent}: cannot be written ({error.strerror}); free space or choose another directory"
        ) from None


def _held(temporary: Path) -> BinaryIO:
    """A new file, locked where files can be; the system lets go of it when the process dies."""
    while True:
        file = open(temporary, "wb")
        with contextlib.suppress(OSError):  # a file system without locks: `remove_leftovers` gets none there either
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX)
        if temporary.exists():
            return file
        file.close()  # it was taken for a leftover between our opening and our locking it
