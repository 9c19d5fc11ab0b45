"""Clicks and boxes to masks while somebody waits: the embedding is at hand, so an answer is one step of the decoder."""

import functools
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import SamModel, SamProcessor

from visionsam_hf.data.geometry import masks_to_original, to_square
from visionsam_hf.data.windows import Window, WindowRule, window_key
from visionsam_hf.embeddings.cache import EmbeddingCache
from visionsam_hf.embeddings.decoding import decode_image, image_hash
from visionsam_hf.inference.prediction import look_at
from visionsam_hf.models.loading import image_side

_KEPT = 64


class ClickAnswerer:
    """Answers clicks on the photographs of candidate sets. May be called from several threads.

    Args:
        model, processor: a SAM; the model is used as it is.
        rule: which window of a photograph answers a box and the clicks that mend its mask.
        datasets: kind of task -> split -> rows, images undecoded.
        cache: is read; a window that it lacks is encoded at its first click. The last 64 windows stay in memory.
    """

    def __init__(
        self,
        model: SamModel,
        processor: SamProcessor,
        rule: WindowRule,
        datasets: Mapping[str, Mapping[str, Any]],
        cache: EmbeddingCache | None = None,
    ) -> None:
        self._model, self._processor, self._rule, self._cache = model.eval(), processor, rule, cache
        self._datasets = datasets
        # One at a time: two forwards on the same cores take as long as one after the other.
        self._lock = threading.Lock()
        self._embedding = functools.lru_cache(_KEPT)(self._look)

    def __call__(
        self,
        kind: str,
        split: str,
        row: int,
        box: Sequence[float],
        points: Sequence[tuple[float, float]],
        positive: Sequence[bool],
    ) -> np.ndarray:
        """The (H, W) bool mask of the single mask token.

        Args:
            kind, split, row: which photograph.
            box: [x1, y1, x2, y2) in pixels of the photograph.
            points: N clicks (x, y). positive: whether each is on the defect.
        """
        height, width = self._datasets[kind][split][row]["candidates"][0]["rle"]["size"]
        window = self._rule.of_box(box, (height, width))
        side = image_side(self._model)
        square = functools.partial(to_square, original_size=(height, width), side=side, window=window)
        prompt: dict[str, Any] = {"input_boxes": torch.from_numpy(square(np.array(box, np.float32)))[None, None]}
        if len(points):
            prompt["input_points"] = torch.from_numpy(square(np.array(points, np.float32)))[None, None]
            prompt["input_labels"] = torch.tensor([[[int(one) for one in positive]]])
        with self._lock, torch.inference_mode():
            device, dtype = self._model.device, self._model.dtype
            embedding = self._embedding(kind, split, row, window).to(device, dtype)[None]
            prompt = {name: value.to(device) for name, value in prompt.items()}
            answer = self._model(image_embeddings=embedding, multimask_output=False, **prompt)
        return masks_to_original(answer.pred_masks[0, 0], (height, width), side, window)[0]

    def _look(self, kind: str, split: str, row: int, window: Window | None) -> torch.Tensor:
        stored = self._datasets[kind][split][row]["image"]
        key = window_key(image_hash(stored), window)
        if self._cache is not None and key in self._cache:
            return self._cache[key]
        return look_at(self._model, self._processor, decode_image(stored))(window)
