"""Shards, the files of an embedding cache: written and read, and what of a cache can no longer be read."""

import contextlib
import json
import logging
import os
import shutil
import time
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from visionsam_hf.data.errors import UserError
from visionsam_hf.data.files import written_file

logger = logging.getLogger(__name__)

LAYOUT = 3
DTYPES = ("float16", "bfloat16", "float32")
FAST, EXACT = "16 bit", "float32"  # the arithmetic in meta.json
SUFFIX = ".safetensors"
# What reading a file can raise that is not what it should be.
DAMAGE = (OSError, SafetensorError, ValueError, KeyError, TypeError)
_TENSOR = "embeddings"
_BLOCK = 4 * 2**20
# Bytes that may be mapped before all maps are closed. Linux maps so much around a page that is read, at the most.
_MAPPED_BYTES, _AROUND = 16 * 2**20, 2 * 2**20


@dataclass(frozen=True)
class Shard:
    """One finished shard.

    Attributes:
        path: of the file: a tensor (n, C, h, w), and what follows in its header.
        keys: of its embeddings, in order.
        crc32: of the keys and the data.
    """

    path: Path
    keys: tuple[str, ...]
    crc32: int


def read_shard(path: Path) -> Shard:
    """What a shard's header says. Raises one of `DAMAGE` when it says nothing."""
    with safe_open(path, "pt") as file:
        described = file.metadata() or {}
        count = file.get_slice(_TENSOR).get_shape()[0]
    shard = Shard(path, tuple(json.loads(described["images"])), int(described["crc32"]))
    if count != len(shard.keys):
        raise ValueError("another number of embeddings than of images")
    return shard


def verify(shard: Shard) -> None:
    """Read a shard through once. Raises one of `DAMAGE` when it is not what its header says."""
    with open(shard.path, "rb") as file:
        # The format: the header's length in 8 bytes, the header, the data.
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        checksum = _checksum(shard.keys)
        while block := file.read(_BLOCK):
            checksum = zlib.crc32(block, checksum)
    if checksum != shard.crc32:
        raise ValueError("checksum differs")


def _checksum(keys: Sequence[str]) -> int:
    return zlib.crc32("\n".join(keys).encode())


def write_shard(path: Path, keys: Sequence[str], values: Sequence[Tensor]) -> None:
    """Write embeddings (C, h, w) of one shape and dtype, all or nothing. Raises `UserError` when it cannot."""
    data = torch.stack(list(values))
    checksum = zlib.crc32(data.view(torch.uint8).numpy(), _checksum(keys))
    # Not `save_file`, which writes another file, locked by nobody and readable by its owner alone.
    content = save({_TENSOR: data}, {"images": json.dumps(list(keys)), "crc32": str(checksum)})
    with writing(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A file beside `path` that takes its place; `UserError` where the cache cannot be written."""
    try:
        with written_file(path) as temporary:
            yield temporary
    except OSError as error:
        raise UserError(
            f"{path.parent}: cannot be written ({error.strerror}); free space or choose another embeddings directory"
        ) from None


class OpenShards:
    """Rows of shards, by memory maps that stay open between reads.

    A row costs a row, however large its file. Mapped pages count as this process's memory until their map is closed, so
    all are closed after some megabytes.
    """

    def __init__(self) -> None:
        self._maps: dict[Path, Any] = {}
        self._mapped = 0

    def read(self, path: Path, row: int) -> Tensor:
        """A copy of one (C, h, w) embedding, as stored."""
        if self._mapped > _MAPPED_BYTES:
            self._maps.clear()
            self._mapped = 0
        if path not in self._maps:
            self._maps[path] = safe_open(path, "pt").get_slice(_TENSOR)
        value = self._maps[path][row].clone()
        self._mapped += value.nbytes + _AROUND
        return value

    def close(self, path: Path) -> None:
        """Let go of a shard."""
        self._maps.pop(path, None)


# Beside the encoders' parts: logits that preference optimisation computes once a model and data set.
REFERENCES = "reference"


@dataclass(frozen=True)
class Holding:
    """One encoder's embeddings.

    Attributes:
        directory: where they lie.
        described: meta.json: encoder, preprocessing, dtype, arithmetic, library version, layout.
    """

    directory: Path
    described: dict[str, Any]

    @property
    def is_current(self) -> bool:
        """Whether this installation could read or fill it."""
        described = self.described
        return described.get("transformers") == transformers.__version__ and described.get("layout") == LAYOUT

    @property
    def images(self) -> int:
        """Embeddings, a variant counted as one."""
        count = 0
        for path in self.directory.glob(f"*{SUFFIX}"):
            try:
                count += len(read_shard(path).keys)
            except DAMAGE:
                continue
        return count


def holdings(directory: str | Path) -> Iterator[Holding]:
    """Every encoder's part of a cache; none of a directory that is no cache."""
    for meta in sorted(Path(directory).glob("*/meta.json")):
        try:
            described = json.loads(meta.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            described = {}
        yield Holding(meta.parent, described)


def choose_set(root: Path, encoder: dict[str, Any], dtype: str | None, fast: bool | None) -> tuple[str, str]:
    """The dtype and arithmetic to use: what is asked for, and for what is left open, what an encoder has in a cache.

    A second set beside those of the same encoder is said in a line, since it takes their disk space and time again.
    """
    default = (dtype or "float16", EXACT if dtype == "float32" or fast is False else FAST)
    same = [held for held in holdings(root) if encoder.items() <= held.described.items()]
    current = {(held.described["dtype"], held.described["arithmetic"]) for held in same if held.is_current}
    fitting = {
        (stored, arithmetic)
        for stored, arithmetic in current
        if dtype in (None, stored) and (fast is None or stored == "float32" or arithmetic == (FAST if fast else EXACT))
    }
    if default in fitting:
        return default
    names = " and ".join(sorted(f"{stored} by {arithmetic} arithmetic" for stored, arithmetic in fitting or current))
    if len(fitting) > 1:
        raise UserError(f"{root}: holds this encoder's embeddings as {names}; say which, with embedding_dtype and fast")
    if fitting:
        return fitting.pop()
    if os.environ.get("RANK", "0") == "0":
        if current:
            logger.warning("%s: holds this encoder's embeddings as %s; %s by %s makes another set", root, names, *default)
        elif same:
            logger.warning("%s: holds another version's embeddings, which embed --prune removes; encoding anew", root)
    return default


def _some_holdings(directory: str | Path) -> list[Holding]:
    found = list(holdings(directory))
    if not found:
        raise UserError(f"{directory}: is no embedding cache; give the directory that `embeddings` names")
    return found


def describe_cache(directory: str | Path) -> str:
    """A table of a cache's parts, a line each. Raises `UserError` for a directory that is no cache."""
    lines = [f"{'images':>8} {'MB':>9}  {'dtype':8} {'arithmetic':10} {'transformers':12} directory"]
    for holding in _some_holdings(directory):
        described = holding.described
        note = "" if holding.is_current else "  (another version's: --prune removes it)"
        lines.append(
            f"{holding.images:8d} {_megabytes(holding.directory):9.1f}  {described.get('dtype', '?'):8}"
            f" {described.get('arithmetic', '?'):10} {described.get('transformers', '?'):12} {holding.directory}{note}"
        )
    return "\n".join(lines)


def prune_cache(directory: str | Path) -> str:
    """Remove parts of other versions, damaged shards, files that no index vouches for, and reference logits that no run has
    used for a month; says what went.

    Not while something writes to the cache: its unfinished files look like leftovers.

    Raises:
        UserError: a directory that is no cache.
    """
    root = Path(directory)
    before = _megabytes(root)
    parts = shards = leftovers = 0
    for holding in _some_holdings(root):
        if not holding.is_current:
            shutil.rmtree(holding.directory)
            parts += 1
            continue
        for path in holding.directory.glob(f"*{SUFFIX}"):
            try:
                verify(read_shard(path))
            except DAMAGE:
                path.unlink()
                shards += 1
        for path in holding.directory.glob(".*.tmp"):
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


def _megabytes(directory: Path) -> float:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) / 1e6
