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
import uuid
import zlib
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import torch
import transformers
from PIL import Image as PILImage
from tqdm.auto import tqdm
from transformers import SamModel, SamProcessor

from visionsam_hf.errors import UserError
from visionsam_hf.modeling import encoder_fingerprint

logger = logging.getLogger(__name__)

DTYPES = {"float16": np.float16, "float32": np.float32}
_SHARD_BYTES = 256 * 2**20


def image_hash(image: dict) -> str:
    """The key of an undecoded image, `{"bytes", "path"}`: a hash of its file's bytes."""
    return hashlib.sha256(_image_bytes(image)).hexdigest()[:32]


def decode_image(image: dict) -> PILImage.Image:
    """An undecoded image as RGB. Raises `UserError` for bytes that are no image."""
    try:
        return PILImage.open(io.BytesIO(_image_bytes(image))).convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{image.get('path') or 'image'}: cannot be decoded ({error}); replace or remove it") from None


def _image_bytes(image: dict) -> bytes:
    if image["bytes"] is not None:
        return image["bytes"]
    return Path(image["path"]).read_bytes()


class EmbeddingCache:
    """The embeddings of one encoder, by image content.

    Args:
        directory: shared by any number of encoders and data sets.
        model, processor: what encodes; their fingerprint chooses the sub-directory, so a stale entry cannot be read.
        dtype: "float16" (2.1 MB an image for ViT-B) or "float32".
    """

    def __init__(
        self, directory: str | os.PathLike, model: SamModel, processor: SamProcessor, *, dtype: str = "float16"
    ) -> None:
        if dtype not in DTYPES:
            raise UserError(f"embedding_dtype: {dtype!r} is not one of {', '.join(DTYPES)}")
        self.model, self.processor, self.dtype = model, processor, dtype
        described = {
            "encoder": encoder_fingerprint(model),
            "preprocessing": json.loads(processor.image_processor.to_json_string()),
            "dtype": dtype,
            "transformers": transformers.__version__,
            "layout": 1,
        }
        key = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:32]
        self.directory = Path(directory) / key
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{directory}: cannot be written ({error.strerror}); choose another embeddings directory") from None
        meta = self.directory / "meta.json"
        if not meta.exists():
            _write_atomically(meta, json.dumps(described, indent=2).encode())
        self._places: dict[str, tuple[Path, int]] = {}
        self._shards: dict[Path, np.ndarray] = {}
        self.refresh()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __getitem__(self, key: str) -> torch.Tensor:
        """The (C, h, w) embedding of an image by its `image_hash`, in the cache's dtype."""
        shard, row = self._places[key]
        return torch.from_numpy(np.array(self._open(shard)[row]))

    def refresh(self) -> None:
        """Read the indices of shards that any process has finished; damaged shards are set aside and encoded again."""
        for index in sorted(self.directory.glob("*.json")):
            shard = index.with_suffix(".npy")
            if index.name == "meta.json" or shard in self._shards:
                continue
            try:
                keys = json.loads(index.read_text())["images"]
                self._open(shard)
            except (OSError, ValueError, KeyError) as error:
                logger.warning("%s: damaged (%s); its images are encoded again", shard, error)
                index.unlink(missing_ok=True)
                shard.unlink(missing_ok=True)
                continue
            self._places.update({key: (shard, row) for row, key in enumerate(keys)})

    def _open(self, shard: Path) -> np.ndarray:
        if shard not in self._shards:
            index = json.loads(shard.with_suffix(".json").read_text())
            array = np.load(shard, mmap_mode="r")
            checksum = 0
            for row in array:
                checksum = zlib.crc32(row.tobytes(), checksum)
            if checksum != index["crc32"]:
                raise ValueError("checksum differs")
            self._shards[shard] = array
        return self._shards[shard]

    def add(self, dataset: datasets.Dataset, *, batch_size: int = 1, column: str = "image", progress: bool = True) -> list[str]:
        """Encode the images that are not in the cache yet.

        Args:
            dataset: rows with an `Image` column.
            batch_size: images a forward of the encoder.
            column: the image column.
            progress: show a bar.

        Returns:
            Each row's key, for `cache[key]`.
        """
        keys = self.keys(dataset, column=column)
        missing = list({key: row for row, key in enumerate(keys) if key not in self._places}.items())
        images = dataset.select_columns([column]).cast_column(column, datasets.Image(decode=False))
        writer = f"{os.getpid():08d}-{uuid.uuid4().hex[:8]}"
        bar = tqdm(total=len(missing), desc="embed", unit="image", disable=not progress or not missing)
        pending_keys: list[str] = []
        pending: list[np.ndarray] = []
        shard = 0
        for start in range(0, len(missing), batch_size):
            batch = missing[start : start + batch_size]
            values = self._encode([decode_image(images[row][column]) for _, row in batch])
            pending_keys += [key for key, _ in batch]
            pending += list(values)
            bar.update(len(batch))
            if sum(value.nbytes for value in pending) >= _SHARD_BYTES or start + batch_size >= len(missing):
                self._write_shard(f"{writer}-{shard:05d}", pending_keys, np.stack(pending))
                pending_keys, pending, shard = [], [], shard + 1
        bar.close()
        self.refresh()
        return keys

    def keys(self, dataset: datasets.Dataset, *, column: str = "image") -> list[str]:
        """Each row's `image_hash`; repeated images (a row a prompt) are hashed once a row, never decoded."""
        images = dataset.select_columns([column]).cast_column(column, datasets.Image(decode=False))
        return [image_hash(row[column]) for row in images]

    def _encode(self, images: Sequence[PILImage.Image]) -> np.ndarray:
        device = self.model.device
        pixels = self.processor(images=list(images), return_tensors="pt")["pixel_values"].to(device)
        with torch.inference_mode():
            embeddings = self.model.vision_encoder(pixels).last_hidden_state
        return embeddings.float().cpu().numpy().astype(DTYPES[self.dtype])

    def _write_shard(self, name: str, keys: list[str], array: np.ndarray) -> None:
        buffer = io.BytesIO()
        np.save(buffer, array)
        _write_atomically(self.directory / f"{name}.npy", buffer.getbuffer())
        index = {"images": keys, "crc32": zlib.crc32(array.tobytes())}
        _write_atomically(self.directory / f"{name}.json", json.dumps(index).encode())


def _write_atomically(path: Path, content: bytes | memoryview) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path.parent}: cannot be written ({error.strerror}); free space or choose another directory") from None
