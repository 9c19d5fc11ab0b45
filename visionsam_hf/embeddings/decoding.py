"""Photographs of a data set: their hashes, and their pixels, decoded by threads while others are encoded."""

import functools
import hashlib
import io
import os
import pickle
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import torch
from PIL import Image as PILImage

from visionsam_hf.data.errors import UserError


def image_hash(image: dict) -> str:
    """The key of an undecoded image, `{"bytes", "path"}`: a hash of its file's bytes."""
    return hashlib.sha256(image_bytes(image)).hexdigest()[:32]


def decode_image(image: dict) -> PILImage.Image:
    """An undecoded image as RGB. Raises `UserError` for bytes that are no image."""
    try:
        return PILImage.open(io.BytesIO(image_bytes(image))).convert("RGB")
    except (OSError, ValueError, SyntaxError, PILImage.DecompressionBombError) as error:
        raise UserError(f"{image.get('path') or 'image'}: cannot be decoded ({error}); replace or remove it") from None


def image_bytes(image: dict) -> bytes:
    if image["bytes"] is not None:
        return image["bytes"]
    return Path(image["path"]).read_bytes()


def undecoded(dataset: datasets.Dataset, column: str) -> datasets.Dataset:
    """The images of a data set as stored, through memory maps of their own: what is read counts as this process's until
    the map is closed, and the data set's own stays open."""
    images = dataset.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    # A copy of our own object, never bytes from elsewhere.
    return pickle.loads(pickle.dumps(images)) if images.cache_files else images  # noqa: S301


def prepared(
    prepare: Callable[[Any], torch.Tensor], entries: Sequence, batch_size: int
) -> Iterator[tuple[int, list[torch.Tensor]]]:
    """Batches of prepared entries and where each starts; threads prepare the next one while the caller is at this one."""
    workers = max(1, min(8, (os.cpu_count() or 1) - 1, len(entries)))
    with ThreadPoolExecutor(workers) as pool:
        waiting: list = []
        ahead = iter(range(0, len(entries), batch_size))
        for start in range(0, len(entries), batch_size):
            while len(waiting) < 2 and (place := next(ahead, None)) is not None:
                waiting.append([pool.submit(prepare, entry) for entry in entries[place : place + batch_size]])
            yield start, [future.result() for future in waiting.pop(0)]


class DecodeOnce:
    """Photographs by row, for threads that take them in order: one that is wanted more than once is kept until the next."""

    def __init__(self, decode: Callable[[int], PILImage.Image], uses: Counter[int]) -> None:
        self._decode, self._uses = decode, uses
        self._lock, self._kept = threading.Lock(), functools.lru_cache(1)(decode)

    def __call__(self, row: int) -> PILImage.Image:
        if self._uses[row] == 1:
            return self._decode(row)
        with self._lock:
            return self._kept(row)
