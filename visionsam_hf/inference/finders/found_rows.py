"""The rows of a data set as finders see them: all of them, good ones too."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from transformers import SamModel, SamProcessor

from visionsam_hf.data.geometry import mask_to_target
from visionsam_hf.data.masks import decode_mask, decode_rle
from visionsam_hf.embeddings.cache import EmbeddingCache
from visionsam_hf.embeddings.decoding import decode_image
from visionsam_hf.inference.finders.cell_head import Cells
from visionsam_hf.inference.finders.finder import Finder, map_score, map_to_original
from visionsam_hf.inference.finders.finder_files import OutsideMaps
from visionsam_hf.inference.prediction import encode_image, object_boxes


@dataclass(frozen=True)
class EmbeddedRow:
    """A row with its (C, h, w) embedding, the (H, W) bool mask of all defects, and each defect's with its box."""

    row: dict[str, Any]
    embedding: torch.Tensor
    truth: np.ndarray

    @property
    def defects(self) -> list[np.ndarray]:
        """(H, W) bool of each."""
        return [decode_rle(item["rle"]) for item in self.row["objects"]]

    @property
    def boxes(self) -> np.ndarray:
        """(N, 4) float32."""
        return object_boxes(self.row["objects"]).reshape(-1, 4)


def embedded_rows(
    model: SamModel, processor: SamProcessor, dataset: datasets.Dataset, cache: EmbeddingCache | None
) -> Iterator[EmbeddedRow]:
    """Every row of a segmentation data set; the cache is filled first with what it lacks."""
    keys = cache.add(dataset) if cache is not None else []
    for place, row in enumerate(dataset.cast_column("image", datasets.Image(decode=False))):
        embedding = cache[keys[place]] if cache is not None else encode_image(model, processor, decode_image(row["image"]))
        yield EmbeddedRow(row, embedding, decode_mask(row["mask"]))


def as_cells(rows: list[EmbeddedRow]) -> Cells:
    """What a head and a bank learn from."""
    side = rows[0].embedding.shape[-1]
    targets, valid = zip(*(mask_to_target(row.truth, side) for row in rows))
    return Cells(
        torch.stack([row.embedding.cpu() for row in rows]),
        torch.from_numpy(np.stack(targets)),
        torch.from_numpy(np.stack(valid)),
    )


@dataclass(frozen=True)
class FoundMaps:
    """Of a photograph: (H, W) float32 `whole`, `sharp` (where to prompt) and the score of the whole."""

    whole: np.ndarray
    sharp: np.ndarray
    score: float


def found_maps(source: Finder | OutsideMaps, row: EmbeddedRow, units: tuple[float, float] = (0.0, 1.0)) -> FoundMaps:
    """The maps of a row: from its embedding, or from another system's file, in its `units` (mean, standard deviation)."""
    if isinstance(source, OutsideMaps):
        found = (source.map_of(row.row["image_id"], row.truth.shape) - units[0]) / units[1]
        return FoundMaps(found, found, float(found.max()))
    return finder_maps(source, row.embedding, row.truth.shape)


def finder_maps(finder: Finder, embedding: torch.Tensor, original_size: tuple[int, ...]) -> FoundMaps:
    """The maps of a (C, h, w) embedding."""
    cells = finder.maps_of(embedding, original_size)
    whole, sharp = (map_to_original(found, original_size, finder.config.image_size) for found in cells)
    return FoundMaps(whole, sharp, map_score(cells[0], original_size))
