"""Image embeddings, encoded once and kept on disk: the frozen vision encoder costs 209 times the mask decoder.

```
DIRECTORY/
└── <key of encoder, preprocessing, dtype and versions>/
    ├── meta.json                     what the key stands for
    └── <writer>-00000.safetensors    (n, C, h, w) embeddings; in its header the images' hashes in order, and a checksum
```
Every writer writes its own shards and renames them into place, so any number of processes can fill and read one cache.
"""

import contextlib
import functools
import hashlib
import json
import logging
import os
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from PIL import Image as PILImage
from tqdm.auto import tqdm
from transformers import SamModel, SamProcessor

from visionsam_hf.data.augmentation import variant_key, variant_of
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.files import remove_leftovers
from visionsam_hf.data.windows import Window, look_window, window_key
from visionsam_hf.embeddings.cache_settings import CacheSettings
from visionsam_hf.embeddings.decoding import DecodeOnce, decode_image, image_hash, prepared, undecoded
from visionsam_hf.embeddings.shards import (
    DAMAGE,
    DTYPES,
    FAST,
    LAYOUT,
    SUFFIX,
    OpenShards,
    Shard,
    choose_set,
    read_shard,
    verify,
    write_shard,
    writing,
)
from visionsam_hf.models.encoder import ImageEncoder
from visionsam_hf.models.loading import encoder_fingerprint

logger = logging.getLogger(__name__)

# What a kill costs at most: a shard is written when either is reached.
_SHARD_BYTES, _SHARD_SECONDS = 64 * 2**20, 60.0
# Images a forward of the encoder; the library's own attention takes 0.8 GB an image of ViT-B.
_BATCH, _EXACT_BATCH = 8, 2


def _preprocessing(processor: SamProcessor) -> dict[str, Any]:
    """What happens to an image or window; not which windows a model was tuned with, which is in an entry's own key."""
    described = json.loads(processor.image_processor.to_json_string())
    described.pop("window", None)
    return described


class EmbeddingCache:
    """The embeddings of one encoder, by image content.

    Args:
        directory: shared by any number of encoders and data sets.
        model, processor: what encodes; their fingerprint chooses the sub-directory, so a stale entry cannot be read.
        dtype: "float16" or "bfloat16" (2.1 MB an image for ViT-B), or "float32"; None takes what the directory holds for
            this encoder, else "float16".
        fast: encode with 16-bit arithmetic where the processor has it; never for "float32", which stays exact. None takes
            what the directory holds, else True.
        batch_size: images a forward of the encoder; None is 8, or 2 with the library's own arithmetic.

    Raises:
        UserError: an unknown dtype, no image a batch, a directory that cannot be written, or one that holds several sets
                to choose from.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        model: SamModel,
        processor: SamProcessor,
        *,
        dtype: str | None = None,
        fast: bool | None = None,
        batch_size: int | None = None,
    ) -> None:
        if dtype is not None and dtype not in DTYPES:
            raise UserError(f"embedding_dtype: {dtype!r} is not one of {', '.join(DTYPES)}")
        if batch_size is not None and batch_size < 1:
            raise UserError(f"embedding_batch_size: {batch_size} is too few; give 1 or more")
        self.model, self.processor, self.batch_size = model, processor, batch_size
        encoder = {
            "encoder": encoder_fingerprint(model),
            "preprocessing": _preprocessing(processor),
        }
        self.dtype, arithmetic = choose_set(Path(directory), encoder, dtype, fast)
        self.fast = arithmetic == FAST
        described = encoder | {
            "dtype": self.dtype,
            "arithmetic": arithmetic,
            "transformers": transformers.__version__,
            "layout": LAYOUT,
        }
        key = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:32]
        self.directory = Path(directory) / key
        meta = self.directory / "meta.json"
        if not meta.exists():
            with writing(meta) as temporary:
                temporary.write_text(json.dumps(described, indent=2), encoding="utf-8")
        self._shards: dict[Path, Shard] = {}
        self._places: dict[str, tuple[Path, int]] = {}
        self._checked: set[Path] = set()
        self._open = OpenShards()
        self._filling: _Filling | None = None
        self.refresh()

    def __getstate__(self) -> dict:
        # A data loader's workers may get a copy; a memory map is opened anew there, and nobody else writes our shards.
        return {**self.__dict__, "_open": OpenShards(), "_filling": None}

    def __len__(self) -> int:
        return len(self._places) + len(self._unwritten)

    def __contains__(self, key: str) -> bool:
        return key in self._places or key in self._unwritten

    def __getitem__(self, key: str) -> torch.Tensor:
        """The (C, h, w) embedding of an entry, by its key from `add`, in the cache's dtype.

        Raises:
            UserError: its shard is damaged.
        """
        if key in self._unwritten:
            return self._unwritten[key]
        path, row = self._places[key]
        if path not in self._checked and not self._is_sound(path):
            raise UserError(f"{path}: is damaged; run visionsam embed again, which encodes its images anew")
        return self._open.read(path, row)

    @property
    def _unwritten(self) -> dict[str, torch.Tensor]:
        return {} if self._filling is None else self._filling.values

    def refresh(self) -> None:
        """Read the headers of shards that any process has finished since; forget those that are gone."""
        found = set(self.directory.glob(f"*{SUFFIX}"))
        for path in set(self._shards) - found:
            self._forget(path)
        for path in sorted(found - set(self._shards)):
            try:
                shard = read_shard(path)
            except DAMAGE as error:
                _set_aside(path, error)
                continue
            self._shards[path] = shard
            self._places.update({key: (path, row) for row, key in enumerate(shard.keys)})

    def keys(self, dataset: datasets.Dataset, *, column: str = "image") -> list[str]:
        """Each row's `image_hash`; repeated images (a row a prompt) are hashed once a row, never decoded."""
        return [image_hash(row[column]) for row in undecoded(dataset, column)]

    def add(
        self,
        dataset: datasets.Dataset,
        *,
        batch_size: int | None = None,
        column: str = "image",
        windows: Sequence[Sequence[Window | None]] | None = None,
        variants: int = 1,
        together: bool = False,
        progress: bool = True,
    ) -> list[str]:
        """Check the shards these images need, and encode the images, or windows of them, that are in none.

        Args:
            dataset: rows with an `Image` column.
            batch_size: images a forward of the encoder; None is the cache's own.
            column: the image column.
            windows: each row's; None is every photograph as a whole.
            variants: looks of every window to hold (`visionsam_hf.data.augmentation`); 1 is the image as it is.
            together: every process of `accelerate launch` makes this same call; each takes its share of the work, and
                all return when the whole is done. Without it a process works alone.
            progress: show a bar.

        Returns:
            Each row's key, for `cache[key]`, `cache[window_key(key, window)]` or `cache[variant_key(..., number)]` of either.
        """
        keys = self.keys(dataset, column=column)
        wanted = {
            variant_key(window_key(key, window), number): (row, window, number)
            for row, key in enumerate(keys)
            for window in (windows[row] if windows is not None else (None,))
            for number in range(variants)
        }
        share, shares = (PartialState().process_index, PartialState().num_processes) if together else (0, 1)
        self._check_shards(wanted, share, shares)
        missing = [key for key in wanted if key not in self]
        if shares > 1:
            # What other processes checked and set aside, and one list for all: directories change meanwhile.
            PartialState().wait_for_everyone()
            self.refresh()
            self._checked.update(self._places[key][0] for key in wanted if key in self._places)
            agreed = [[key for key in wanted if key not in self]]
            broadcast_object_list(agreed)
            missing = agreed[0]
        # Neighbours stay together: a photograph is decoded once for all its windows.
        mine = missing[len(missing) * share // shares : len(missing) * (share + 1) // shares]
        if mine:
            is_silent = not progress or share > 0 or self._filling is not None
            with self.filling() as filling:
                entries = [(key, *wanted[key]) for key in mine]
                self._encode_missing(filling, undecoded(dataset, column), column, keys, entries, batch_size, is_silent)
        if shares > 1:
            if self._filling is not None:
                self._filling.write()
            PartialState().wait_for_everyone()
        self.refresh()
        return keys

    @contextlib.contextmanager
    def filling(self) -> "Iterator[_Filling]":
        """While this is open, calls of `add` share one encoder and fill shards together, however little each adds.

        What they encode can be read at once, and is written when a shard is full, or when this closes.
        """
        if self._filling is not None:
            yield self._filling
            return
        self._filling = _Filling(self)
        try:
            yield self._filling
            self._filling.write()
        finally:
            self._filling = None

    def _check_shards(self, wanted: dict[str, tuple], share: int, shares: int) -> None:
        needed = sorted({self._places[key][0] for key in wanted if key in self._places} - self._checked)
        for path in needed[share::shares]:
            self._is_sound(path)

    def _is_sound(self, path: Path) -> bool:
        """Check a shard, once; a damaged one is removed, and its images count as missing."""
        try:
            verify(self._shards[path])
        except DAMAGE as error:
            self._forget(path)
            _set_aside(path, error)
            return False
        self._checked.add(path)
        return True

    def _forget(self, path: Path) -> None:
        shard = self._shards.pop(path)
        for key in shard.keys:
            if self._places.get(key, (None,))[0] == path:
                del self._places[key]
        self._open.close(path)
        self._checked.discard(path)

    def _encode_missing(
        self,
        filling: "_Filling",
        images: datasets.Dataset,
        column: str,
        hashes: Sequence[str],
        missing: Sequence[tuple[str, int, Window | None, int]],
        batch_size: int | None,
        is_silent: bool,
    ) -> None:
        """Encode (key, row, window, variant) entries."""
        batch_size = batch_size or self.batch_size or (_BATCH if filling.encoder.is_fast else _EXACT_BATCH)
        decode = DecodeOnce(lambda row: decode_image(images[row][column]), Counter(row for _, row, *_ in missing))

        def pixels(entry: tuple[str, int, Window | None, int]) -> torch.Tensor:
            _, row, window, number = entry
            image = decode(row)
            shown = look_window(window, image.size[::-1], hashes[row], number)
            if shown is not None:
                image = image.crop(shown.corners)
            if number:
                image = PILImage.fromarray(variant_of(hashes[row], number).look(np.asarray(image)))
            return self._pixels(image)

        started = time.perf_counter()
        unit = "image" if all(window is None for _, _, window, _ in missing) else "window"
        with tqdm(total=len(missing), desc="embed", unit=unit, disable=is_silent) as bar:
            for start, batch in prepared(pixels, missing, batch_size):
                encoded = self._encode(filling.encoder, batch)
                filling.add([key for key, *_ in missing[start : start + len(batch)]], encoded)
                if start == 0 and unit == "window" and not is_silent:
                    seconds = (time.perf_counter() - started) * len(missing) / len(batch)
                    bar.write(_cost(missing, encoded[0].nbytes, seconds), file=sys.stderr)
                bar.update(len(batch))

    def _written(self, path: Path) -> None:
        # Written from memory a moment ago: nothing to check before its first use here.
        self._checked.add(path)
        self.refresh()

    def _pixels(self, image: PILImage.Image) -> torch.Tensor:
        return self.processor(images=image, return_tensors="pt")["pixel_values"][0]

    def _encode(self, encoder: ImageEncoder, pixels: Sequence[torch.Tensor]) -> torch.Tensor:
        embeddings = encoder(torch.stack(list(pixels)).to(self.model.device))
        return embeddings.to(getattr(torch, self.dtype)).cpu()


class _Filling:
    """Embeddings on their way into one writer's shards.

    Attributes:
        values: what is not written yet, by key.
    """

    def __init__(self, cache: EmbeddingCache) -> None:
        self._cache = cache
        self._writer = f"{os.getpid():08d}-{uuid.uuid4().hex[:8]}"
        self._shards, self._since = 0, 0.0
        self.values: dict[str, torch.Tensor] = {}

    @functools.cached_property
    def encoder(self) -> ImageEncoder:
        """The model's, made when the first image turns out to be missing."""
        remove_leftovers(self._cache.directory)
        return ImageEncoder(self._cache.model, fast=self._cache.fast)

    def add(self, keys: Sequence[str], embeddings: torch.Tensor) -> None:
        """Take embeddings (n, C, h, w), and write what has gathered when it is enough."""
        if not self.values:
            self._since = time.monotonic()
        self.values.update(zip(keys, embeddings))
        size = len(self.values) * embeddings[0].nbytes
        if size >= _SHARD_BYTES or time.monotonic() - self._since >= _SHARD_SECONDS:
            self.write()

    def write(self) -> None:
        """Write a shard of what has gathered."""
        if self.values:
            path = self._cache.directory / f"{self._writer}-{self._shards:05d}{SUFFIX}"
            write_shard(path, list(self.values), list(self.values.values()))
            self.values = {}
            self._shards += 1
            self._cache._written(path)


def open_cache(settings: CacheSettings, model: SamModel, processor: SamProcessor) -> EmbeddingCache | None:
    """The cache that a stage's settings name, for a model on the device that will encode; None when they name none."""
    if not settings.embeddings:
        return None
    return EmbeddingCache(
        settings.embeddings,
        model,
        processor,
        dtype=settings.embedding_dtype,
        fast=settings.fast,
        batch_size=settings.embedding_batch_size,
    )


def _cost(missing: Sequence[tuple[str, int, Window | None, int]], size: int, seconds: float) -> str:
    """What is to be encoded, in words; `size` is an embedding's bytes, `seconds` for all."""
    count, images = len(missing), len({row for _, row, *_ in missing})
    each = f"{count / images:.1f} an image"
    return f"{count} windows of {images} images ({each}): about {seconds:.0f} s and {count * size / 1e6:.0f} MB"


def _set_aside(path: Path, error: Exception) -> None:
    logger.warning("%s: damaged (%s); its images are encoded again", path, error)
    path.unlink(missing_ok=True)
