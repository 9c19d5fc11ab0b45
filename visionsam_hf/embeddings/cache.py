"""Image embeddings, encoded once and kept on disk: the frozen vision encoder costs 209 times the mask decoder.

```
DIRECTORY/
└── <key of encoder, preprocessing, dtype and versions>/
    ├── meta.json               what the key stands for
    ├── <writer>-00000.npy      (n, C, h, w) embeddings, memory-mapped when read
    └── <writer>-00000.json     the images' hashes in order, and the checksum; written last, so it vouches for the .npy
```
Every writer writes its own shards and renames them into place, so any number of processes can fill and read one cache.
"""

import hashlib
import io
import json
import logging
import os
import pickle
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from visionsam_hf.embeddings.shards import (
    LAYOUT,
    STORED_AS,
    MappedShard,
    Shard,
    read_index,
    remove,
    verify,
    write_json,
    write_shard,
)
from visionsam_hf.models.encoder import ImageEncoder
from visionsam_hf.models.loading import encoder_fingerprint

logger = logging.getLogger(__name__)

DTYPES = tuple(STORED_AS)
# What a kill costs at most: a shard is written when either is reached.
_SHARD_BYTES, _SHARD_SECONDS = 128 * 2**20, 60.0
_OPEN_SHARDS = 64


def image_hash(image: dict) -> str:
    """The key of an undecoded image, `{"bytes", "path"}`: a hash of its file's bytes."""
    return hashlib.sha256(_image_bytes(image)).hexdigest()[:32]


def decode_image(image: dict) -> PILImage.Image:
    """An undecoded image as RGB. Raises `UserError` for bytes that are no image."""
    try:
        return PILImage.open(io.BytesIO(_image_bytes(image))).convert("RGB")
    except (OSError, ValueError, SyntaxError, PILImage.DecompressionBombError) as error:
        raise UserError(f"{image.get('path') or 'image'}: cannot be decoded ({error}); replace or remove it") from None


def _image_bytes(image: dict) -> bytes:
    if image["bytes"] is not None:
        return image["bytes"]
    return Path(image["path"]).read_bytes()


def _undecoded(dataset: datasets.Dataset, column: str) -> datasets.Dataset:
    """The images of a data set as stored, through memory maps of their own: what is read counts as this process's until
    the map is closed, and the data set's own stays open."""
    images = dataset.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    # A copy of our own object, never bytes from elsewhere.
    return pickle.loads(pickle.dumps(images)) if images.cache_files else images  # noqa: S301


class EmbeddingCache:
    """The embeddings of one encoder, by image content.

    Args:
        directory: shared by any number of encoders and data sets.
        model, processor: what encodes; their fingerprint chooses the sub-directory, so a stale entry cannot be read.
        dtype: "float16" or "bfloat16" (2.1 MB an image for ViT-B), or "float32".
        fast: encode with 16-bit arithmetic where the processor has it; never for "float32", which stays exact.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        model: SamModel,
        processor: SamProcessor,
        *,
        dtype: str = "float16",
        fast: bool = True,
    ) -> None:
        if dtype not in DTYPES:
            raise UserError(f"embedding_dtype: {dtype!r} is not one of {', '.join(DTYPES)}")
        self.model, self.processor, self.dtype = model, processor, dtype
        self.fast = fast and dtype != "float32"
        described = {
            "encoder": encoder_fingerprint(model),
            "preprocessing": json.loads(processor.image_processor.to_json_string()),
            "dtype": dtype,
            "arithmetic": "16 bit" if self.fast else "float32",
            "transformers": transformers.__version__,
            "layout": LAYOUT,
        }
        key = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:32]
        self.directory = Path(directory) / key
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{directory}: cannot be written ({error.strerror}); choose another embeddings directory"
            ) from None
        meta = self.directory / "meta.json"
        if not meta.exists():
            write_json(meta, described)
        self._shards: dict[Path, Shard] = {}
        self._places: dict[str, tuple[Path, int]] = {}
        self._checked: set[Path] = set()
        self._open: OrderedDict[Path, MappedShard] = OrderedDict()
        self.refresh()

    def __getstate__(self) -> dict:
        # A data loader's workers may get a copy; a memory map is opened anew there.
        return {**self.__dict__, "_open": OrderedDict()}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __getitem__(self, key: str) -> torch.Tensor:
        """The (C, h, w) embedding of an entry, by its key from `add`, in the cache's dtype.

        Raises:
            UserError: its shard is damaged.
        """
        path, row = self._places[key]
        if path not in self._checked and not self._is_sound(path):
            raise UserError(f"{path}: is damaged; run visionsam embed again, which encodes its images anew")
        if path not in self._open:
            self._open[path] = MappedShard(self._shards[path])
            if len(self._open) > _OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(path)
        value = torch.from_numpy(self._open[path][row])
        return value.view(torch.bfloat16) if self.dtype == "bfloat16" else value

    def refresh(self) -> None:
        """Read the indices of shards that any process has finished since; forget those that are gone."""
        found = {
            index.with_suffix(".npy"): index for index in self.directory.glob("*.json") if index.name != "meta.json"
        }
        for path in set(self._shards) - set(found):
            self._forget(path)
        for path in sorted(set(found) - set(self._shards)):
            try:
                shard = read_index(found[path])
            except (OSError, ValueError, KeyError, TypeError) as error:
                _set_aside(path, error)
                continue
            self._shards[path] = shard
            self._places.update({key: (path, row) for row, key in enumerate(shard.keys)})

    def keys(self, dataset: datasets.Dataset, *, column: str = "image") -> list[str]:
        """Each row's `image_hash`; repeated images (a row a prompt) are hashed once a row, never decoded."""
        return [image_hash(row[column]) for row in _undecoded(dataset, column)]

    def add(
        self,
        dataset: datasets.Dataset,
        *,
        batch_size: int = 1,
        column: str = "image",
        variants: int = 1,
        together: bool = False,
        progress: bool = True,
    ) -> list[str]:
        """Check the shards these images need, and encode the images that are in none.

        Args:
            dataset: rows with an `Image` column.
            batch_size: images a forward of the encoder.
            column: the image column.
            variants: looks of every image to hold (`visionsam_hf.data.augmentation`); 1 is the image as it is.
            together: every process of `accelerate launch` makes this same call; each takes its share of the work, and
                all return when the whole is done. Without it a process works alone.
            progress: show a bar.

        Returns:
            Each row's key, for `cache[key]` or `cache[variant_key(key, number)]`.
        """
        keys = self.keys(dataset, column=column)
        wanted = {variant_key(key, number): (row, number) for row, key in enumerate(keys) for number in range(variants)}
        share, shares = (PartialState().process_index, PartialState().num_processes) if together else (0, 1)
        self._check_shards(wanted, share, shares)
        missing = [key for key in wanted if key not in self._places]
        if shares > 1:
            # What other processes checked and set aside, and one list for all: directories change meanwhile.
            PartialState().wait_for_everyone()
            self.refresh()
            self._checked.update(self._places[key][0] for key in wanted if key in self._places)
            agreed = [[key for key in wanted if key not in self._places]]
            broadcast_object_list(agreed)
            missing = agreed[0]
        mine = [(key, *wanted[key]) for key in missing[share::shares]]
        if mine:
            images = _undecoded(dataset, column)
            with tqdm(total=len(mine), desc="embed", unit="image", disable=not progress or share > 0) as bar:
                self._encode_missing(images, column, keys, mine, batch_size, bar)
        if shares > 1:
            PartialState().wait_for_everyone()
        self.refresh()
        return keys

    def _check_shards(self, wanted: dict[str, tuple[int, int]], share: int, shares: int) -> None:
        needed = sorted({self._places[key][0] for key in wanted if key in self._places} - self._checked)
        for path in needed[share::shares]:
            self._is_sound(path)

    def _is_sound(self, path: Path) -> bool:
        """Check a shard, once; a damaged one is removed, and its images count as missing."""
        try:
            verify(self._shards[path])
        except (OSError, ValueError) as error:
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
        self._open.pop(path, None)
        self._checked.discard(path)

    def _encode_missing(
        self,
        images: datasets.Dataset,
        column: str,
        hashes: Sequence[str],
        missing: Sequence[tuple[str, int, int]],
        batch_size: int,
        bar: tqdm,
    ) -> None:
        """Encode (key, row, variant) triples and write them as shards."""
        remove_leftovers(self.directory)
        encoder = ImageEncoder(self.model, fast=self.fast)
        writer = f"{os.getpid():08d}-{uuid.uuid4().hex[:8]}"
        keys: list[str] = []
        values: list[torch.Tensor] = []
        written, since = 0, time.monotonic()

        def pixels(entry: tuple[str, int, int]) -> torch.Tensor:
            _, row, number = entry
            image = decode_image(images[row][column])
            if number:
                image = PILImage.fromarray(variant_of(hashes[row], number).look(np.asarray(image)))
            return self._pixels(image)

        for start, batch in _prepared(pixels, missing, batch_size):
            values += list(self._encode(encoder, batch))
            keys += [key for key, _, _ in missing[start : start + len(batch)]]
            bar.update(len(batch))
            size = sum(value.nbytes for value in values)
            if size >= _SHARD_BYTES or time.monotonic() - since >= _SHARD_SECONDS or start + len(batch) == len(missing):
                name = f"{writer}-{written:05d}"
                write_shard(self.directory, name, keys, values, self.dtype)
                # Written from memory a moment ago: nothing to check before its first use here.
                self._checked.add(self.directory / f"{name}.npy")
                keys, values, written, since = [], [], written + 1, time.monotonic()

    def _pixels(self, image: PILImage.Image) -> torch.Tensor:
        return self.processor(images=image, return_tensors="pt")["pixel_values"][0]

    def _encode(self, encoder: ImageEncoder, pixels: Sequence[torch.Tensor]) -> torch.Tensor:
        embeddings = encoder(torch.stack(list(pixels)).to(self.model.device))
        return embeddings.to(getattr(torch, self.dtype)).cpu()


def _prepared(
    prepare: Callable[[Any], torch.Tensor], entries: Sequence, batch_size: int
) -> Iterator[tuple[int, list[torch.Tensor]]]:
    """Batches of prepared entries and where each starts; threads decode the next one while this one is encoded."""
    workers = max(1, min(8, (os.cpu_count() or 1) - 1, len(entries)))
    with ThreadPoolExecutor(workers) as pool:
        waiting: list = []
        ahead = iter(range(0, len(entries), batch_size))
        for start in range(0, len(entries), batch_size):
            while len(waiting) < 2 and (place := next(ahead, None)) is not None:
                waiting.append([pool.submit(prepare, entry) for entry in entries[place : place + batch_size]])
            yield start, [future.result() for future in waiting.pop(0)]


def _set_aside(path: Path, error: Exception) -> None:
    logger.warning("%s: damaged (%s); its images are encoded again", path, error)
    remove(path)
