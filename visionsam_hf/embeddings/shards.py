"""What an embedding cache holds, and what of it can no longer be read."""

import contextlib
import json
import mmap
import os
import shutil
import time
import uuid
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import transformers

from visionsam_hf.data.errors import UserError

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


LAYOUT = 2
# Beside the encoders' parts: logits that preference optimisation computes once a model and data set.
REFERENCES = "reference"


@dataclass(frozen=True)
class Holding:
    """One encoder's embeddings.

    Attributes:
        directory: where they lie.
        described: meta.json: encoder, preprocessing, dtype, arithmetic, library version, layout.
        images: embeddings, a variant counted as one.
        megabytes: of all files.
    """

    directory: Path
    described: dict
    images: int
    megabytes: float

    @property
    def is_current(self) -> bool:
        """Whether this installation could read or fill it."""
        described = self.described
        return described.get("transformers") == transformers.__version__ and described.get("layout") == LAYOUT


def holdings(directory: str | Path) -> Iterator[Holding]:
    """Every encoder's part of a cache. Raises `UserError` for a directory that is none."""
    root = Path(directory)
    metas = sorted(root.glob("*/meta.json"))
    if not metas:
        raise UserError(f"{directory}: is no embedding cache; give the directory that `embeddings` names")
    for meta in metas:
        try:
            described = json.loads(meta.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            described = {}
        images = 0
        for index in _indices(meta.parent):
            try:
                images += len(read_index(index).keys)
            except (OSError, ValueError, KeyError, TypeError):
                continue
        yield Holding(meta.parent, described, images, _megabytes(meta.parent))


def describe_cache(directory: str | Path) -> str:
    """A table of a cache's parts, a line each."""
    lines = [f"{'images':>8} {'MB':>9}  {'dtype':8} {'arithmetic':10} {'transformers':12} directory"]
    for holding in holdings(directory):
        described = holding.described
        note = "" if holding.is_current else "  (another version's: --prune removes it)"
        lines.append(
            f"{holding.images:8d} {holding.megabytes:9.1f}  {described.get('dtype', '?'):8}"
            f" {described.get('arithmetic', '?'):10} {described.get('transformers', '?'):12} {holding.directory}{note}"
        )
    return "\n".join(lines)


def prune_cache(directory: str | Path) -> str:
    """Remove parts of other versions, damaged shards, files that no index vouches for, and reference logits that no run has
    used for a month; says what went.

    Not while something writes to the cache: its unfinished files look like leftovers.
    """
    root = Path(directory)
    before = _megabytes(root)
    parts = shards = leftovers = 0
    for holding in list(holdings(root)):
        if not holding.is_current:
            shutil.rmtree(holding.directory)
            parts += 1
            continue
        for index in _indices(holding.directory):
            try:
                verify(read_index(index))
            except (OSError, ValueError, KeyError, TypeError):
                remove(index.with_suffix(".npy"))
                shards += 1
        orphans = [path for path in holding.directory.glob("*.npy") if not path.with_suffix(".json").exists()]
        for path in [*orphans, *holding.directory.glob(".*.tmp")]:
            path.unlink()
            leftovers += 1
    references = remove_stale_references(root / REFERENCES, unfinished_days=0.0)
    freed = before - _megabytes(root)
    return (
        f"removed {parts} parts of other versions, {shards} damaged shards, {leftovers} leftover files,"
        f" {references} files of reference logits: {freed:.1f} MB"
    )


def remove_stale_references(
    directory: Path, *, keep: Collection[Path] = (), unused_days: float = 30.0, unfinished_days: float = 1.0
) -> int:
    """Remove reference logits last used so long ago, and unfinished ones last written to so long ago; returns how many.

    A run that needs them again computes them again, in one pass over its pairs.
    """
    now, removed = time.time(), 0
    for pattern, clock, days in (
        ("reference_logits.*.npy", "st_atime", unused_days),
        (".reference_logits.*", "st_mtime", unfinished_days),
    ):
        for path in directory.glob(pattern):
            with contextlib.suppress(FileNotFoundError):  # another run removed it
                if path not in keep and now - getattr(path.stat(), clock) >= days * 86400:
                    path.unlink()
                    removed += 1
    return removed


def _indices(part: Path) -> list[Path]:
    return [path for path in sorted(part.glob("*.json")) if path.name != "meta.json"]


def _megabytes(directory: Path) -> float:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) / 1e6
