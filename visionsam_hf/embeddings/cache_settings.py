"""The settings of the embedding cache, the same in every command; apart from torch, so that `--help` need not import it."""

from dataclasses import dataclass
from typing import Literal

from visionsam_hf.data.settings import setting
from visionsam_hf.data.windows import WindowSettings


@dataclass
class CacheSettings(WindowSettings):
    """Which embeddings a stage reads and fills, of which windows of the photographs.

    Stages that share a directory share one set of embeddings: where dtype and arithmetic are left open, a stage takes
    what the directory holds for its encoder.
    """

    embeddings: str | None = setting(None, "directory of the embedding cache, shared by all stages; empty: no cache")
    embedding_dtype: Literal["float16", "bfloat16", "float32"] | None = setting(
        None,
        "dtype of the cache: float16 or bfloat16 (2.1 MB an image for ViT-B), or float32 (exact); "
        "empty: what the cache holds, else float16",
    )
    fast: bool | None = setting(
        None,
        "16-bit encoding for 16-bit caches, rearranged decoder in training; false: the library's own forward, in float32; "
        "empty: the encoding that the cache holds, else true",
    )
    embedding_batch_size: int | None = setting(
        None, "images a forward of the encoder, for those that the cache lacks; empty: 8, or 2 without 16-bit arithmetic"
    )
