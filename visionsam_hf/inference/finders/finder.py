"""One interface for whatever says where a photograph looks wrong: an embedding to a map, and a map to a score.

Maps are in units of good parts: 0 is what a cell of a good photograph has on average, 1 is one standard deviation more.
So those of a bank and of a head can be averaged, and a threshold means the same to both.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from visionsam_hf.data.geometry import logits_to_original, valid_region
from visionsam_hf.inference.finders.cell_head import CellHead
from visionsam_hf.inference.finders.map_prompts import PromptPlan
from visionsam_hf.inference.finders.memory_bank import bank_distance

KINDS = ("bank", "head", "both", "maps")


@dataclass
class FinderConfig:
    """What `config.json` says of a finder, beside its weights.

    Attributes:
        kind: "bank", "head" or "both"; "maps" of one whose maps another system made.
        encoder: fingerprint of the encoder whose embeddings it knows. model: the model's name when it was trained.
        maps: folder of another system's maps, of kind "maps".
        image_size: sides of the padded square that the encoder sees, in pixels.
        shape: (C, h, w) of its embeddings.
        heads: how many are averaged.
        units: part ("bank", "head" or "maps") to the mean and standard deviation of good cells in its map.
        false_alarm_rate: share of good photographs that may score above `threshold`.
        threshold: score from which on a photograph is called defective.
        slope, offset: of the probability, the logistic function of slope * score + offset.
        plan: how maps become prompts and masks.
    """

    kind: str
    encoder: str = ""
    model: str = ""
    maps: str = ""
    image_size: int = 0
    shape: tuple[int, ...] = ()
    heads: int = 0
    units: dict[str, tuple[float, float]] = field(default_factory=dict)
    false_alarm_rate: float = 0.05
    threshold: float = 0.0
    slope: float = 1.0
    offset: float = 0.0
    plan: PromptPlan = PromptPlan()

    def probability(self, score: float) -> float:
        """That a photograph with this score is defective."""
        return float(1 / (1 + np.exp(-np.clip(self.slope * score + self.offset, -50, 50))))


class Finder(nn.Module):
    """Maps from embeddings.

    Args:
        config: its calibration.
        bank: (size, C) float32 cells of good photographs, each of length 1; or None.
        heads: of which the logits are averaged; may be empty.
    """

    def __init__(self, config: FinderConfig, bank: Tensor | None = None, heads: Sequence[CellHead] = ()) -> None:
        super().__init__()
        self.config = config
        self.heads = nn.ModuleList(heads)
        self.register_buffer("bank", bank)

    def map_of(self, embedding: Tensor, original_size: Sequence[int]) -> np.ndarray:
        """(h, w) float32 map in units of good parts, of a (C, h, w) embedding of an (H, W) photograph; 0 on padding."""
        return self.maps_of(embedding, original_size)[0]

    @torch.inference_mode()
    def maps_of(self, embedding: Tensor, original_size: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """`map_of`, and an (h, w) map that says better where and worse whether: the heads', or else the bank's, not smoothed.

        The largest value of the heads' own map lies in the defect on 62 to 69% of tiles, that of the mean on 37 to 52%.
        """
        valid = valid_region(original_size, embedding.shape[-1])
        raw = raw_maps(self.bank, self.heads, embedding.to(self._device)[None])
        standard, sharp = [], np.zeros(valid.shape)
        for name, (mean, scale) in self.config.units.items():
            values = raw[name][0].cpu().numpy()
            standard.append((smoothed(values, valid) - mean) / scale)
            sharp = (values - mean) / scale  # the head comes last
        whole = np.mean(standard, axis=0)
        return tuple(np.where(valid, found, 0).astype(np.float32) for found in (whole, sharp))

    @property
    def _device(self) -> torch.device:
        return next((tensor.device for tensor in self.state_dict().values()), torch.device("cpu"))


def raw_maps(bank: Tensor | None, heads: Sequence[CellHead] | nn.ModuleList, embeddings: Tensor) -> dict[str, Tensor]:
    """(N, h, w) of each part that is there, for (N, C, h, w) embeddings: distances of the bank, logits of the heads."""
    found = {}
    if bank is not None:
        found["bank"] = torch.stack([bank_distance(bank, embedding) for embedding in embeddings])
    if len(heads):
        found["head"] = torch.stack([head(embeddings) for head in heads]).mean(0)
    return found


def smoothed(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(h, w) mean of the valid cells among each cell's 3 x 3 neighbours, float32."""
    weight = cv2.blur(valid.astype(np.float32), (3, 3), borderType=cv2.BORDER_CONSTANT)
    total = cv2.blur(np.where(valid, values, 0).astype(np.float32), (3, 3), borderType=cv2.BORDER_CONSTANT)
    return total / np.maximum(weight, 1e-6)


def map_score(found: np.ndarray, original_size: Sequence[int]) -> float:
    """How defective the photograph looks at its worst place: the largest value of an (h, w) map outside its padding."""
    return float(found[valid_region(original_size, found.shape[-1])].max())


def map_to_original(found: np.ndarray, original_size: Sequence[int], image_size: int) -> np.ndarray:
    """(H, W) float32: the (h, w) map of the padded square at the photograph's size."""
    return logits_to_original(torch.from_numpy(found)[None], original_size, image_size)[0].numpy()
