"""What a study keeps of a system: the IoU and the predicted score of every mask of every prompt, nothing else."""

import dataclasses
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np

from visionsam_hf.data.masks import decode_rle, mask_iou
from visionsam_hf.embeddings.cache import decode_image, image_hash
from visionsam_hf.inference.baselines import BASELINES

if TYPE_CHECKING:
    from transformers import SamModel, SamProcessor

    from visionsam_hf.embeddings.cache import EmbeddingCache

_DIGITS = 5


@dataclasses.dataclass(frozen=True)
class Scores:
    """N prompts of one split.

    Attributes:
        keys: N (image_id, object_index).
        categories: N names.
        iou, scores: (N, 4) true and predicted IoU by token, at the images' own sizes; scores are NaN without a model.
    """

    keys: list[tuple[str, int]]
    categories: list[str]
    iou: np.ndarray
    scores: np.ndarray

    def as_json(self) -> dict[str, Any]:
        """JSON-ready; NaN becomes null."""
        scores = None if np.isnan(self.scores).any() else np.round(self.scores.astype(float), _DIGITS).tolist()
        return {
            "keys": [list(key) for key in self.keys],
            "categories": self.categories,
            "iou": np.round(self.iou.astype(float), _DIGITS).tolist(),
            "scores": scores,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Scores":
        """What `as_json` gave."""
        iou = np.array(values["iou"], float).reshape(-1, 4)
        scores = np.full_like(iou, np.nan) if values["scores"] is None else np.array(values["scores"], float)
        return cls([tuple(key) for key in values["keys"]], values["categories"], iou, scores.reshape(-1, 4))


def score_model(
    model: "SamModel", processor: "SamProcessor", rows: datasets.Dataset, cache: "EmbeddingCache"
) -> Scores:
    """Box prompts of every object of a segmentation data set."""
    from visionsam_hf.inference.prediction import iterate_predictions

    keys, categories, iou, scores = [], [], [], []
    for result in iterate_predictions(model, processor, rows, cache=cache):
        keys.append((result.image_id, result.object_index))
        categories.append(result.category)
        iou.append([mask_iou(mask, result.truth) for mask in result.masks])
        scores.append(result.scores)
    return Scores(keys, categories, np.array(iou).reshape(-1, 4), np.array(scores).reshape(-1, 4))


def score_baseline(name: str, rows: datasets.Dataset, known: dict[tuple, float]) -> Scores:
    """A baseline of `visionsam_hf.inference.baselines` on the same prompts: four times its one mask.

    Args:
        known: IoU by baseline, image and object; read and filled, since folds share images and GrabCut takes its time.
    """
    names = rows.features["category"].names
    keys, categories, iou = [], [], []
    for row in rows.cast_column("image", datasets.Image(decode=False)):
        image, content = np.asarray(decode_image(row["image"])), image_hash(row["image"])
        for index, entry in enumerate(row["objects"]):
            prompt = (name, content, index)
            if prompt not in known:
                mask = BASELINES[name](image, tuple(entry["box"]))
                known[prompt] = mask_iou(mask, decode_rle(entry["rle"]))
            keys.append((row["image_id"], index))
            categories.append(names[row["category"]])
            iou.append(np.repeat(known[prompt], 4))
    iou = np.array(iou).reshape(-1, 4)
    return Scores(keys, categories, iou, np.full_like(iou, np.nan))
