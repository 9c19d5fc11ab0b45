"""What an embedding cache holds, and what of it can no longer be read."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import transformers

from visionsam_hf.embedding_shards import read_index, remove, verify
from visionsam_hf.errors import UserError

LAYOUT = 2


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
    """Remove parts of other versions, damaged shards, and files that no index vouches for; says what went.

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
    freed = before - _megabytes(root)
    return (
        f"removed {parts} parts of other versions, {shards} damaged shards, {leftovers} leftover files: {freed:.1f} MB"
    )


def _indices(part: Path) -> list[Path]:
    return [path for path in sorted(part.glob("*.json")) if path.name != "meta.json"]


def _megabytes(directory: Path) -> float:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) / 1e6
