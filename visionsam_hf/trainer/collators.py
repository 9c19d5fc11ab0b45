"""Batches from samples."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class PromptCollator:
    """Stacks samples; images with fewer prompts are padded with their first one, which `prompt_valid` leaves out.

    >>> one = {"kind": "box", "boxes": torch.tensor([[0.0, 0, 2, 2]]), "points": torch.zeros(1, 2, 2),
    ...        "targets": torch.ones(1, 2, 2), "valid": torch.ones(2, 2, dtype=torch.bool), "item": 7,
    ...        "pixel_values": torch.zeros(3, 4, 4)}
    >>> two = {**one, "boxes": torch.tensor([[0.0, 0, 2, 2], [1, 1, 2, 2]]), "points": torch.zeros(2, 2, 2),
    ...        "targets": torch.ones(2, 2, 2)}
    >>> batch = PromptCollator()([one, two])
    >>> batch["boxes"].shape, batch["targets"].shape
    (torch.Size([2, 2, 4]), torch.Size([2, 2, 2, 2]))
    >>> batch["prompt_valid"]
    tensor([[ True, False],
            [ True,  True]])
    """

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        most = max(len(sample["boxes"]) for sample in samples)

        def padded(value: Tensor) -> Tensor:
            return torch.cat([value, value[:1].expand(most - len(value), *value.shape[1:])])

        batch = {
            key: torch.stack([padded(sample[key]) for sample in samples]) for key in ("boxes", "points", "targets")
        }
        valid = [torch.arange(most) < len(sample["boxes"]) for sample in samples]
        items = torch.tensor([sample["item"] for sample in samples])
        if "unprompted" in samples[0]:
            batch["unprompted"] = torch.stack([sample["unprompted"] for sample in samples])
        return {**batch, **_images(samples), "prompt_valid": torch.stack(valid), "item": items}


@dataclass
class PreferenceCollator:
    """Stacks preference samples, one prompt each.

    >>> sample = {"kind": "box", "boxes": torch.zeros(1, 4), "points": torch.zeros(1, 2, 2), "chosen": torch.ones(2, 2),
    ...           "rejected": torch.zeros(2, 2), "truth": torch.ones(2, 2), "has_truth": True, "ranked": torch.ones(3, 2, 2),
    ...           "ranks": torch.tensor([1.0, 2.0, 3.0]), "ranked_tokens": torch.tensor([2, 1, 3]), "tokens_ranked": True,
    ...           "token": 2, "item": 7, "valid": torch.ones(2, 2, dtype=torch.bool), "image_embeddings": torch.zeros(8, 2, 2)}
    >>> batch = PreferenceCollator()([sample, sample])
    >>> batch["chosen"].shape, batch["token"].tolist(), batch["prompt_valid"].tolist()
    (torch.Size([2, 2, 2]), [2, 2], [[True], [True]])
    """

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        stacked = ["boxes", "points", "chosen", "rejected", "truth", "ranks", "ranked_tokens"]
        stacked += ["ranked"] if "ranked" in samples[0] else []
        listed = ("has_truth", "tokens_ranked", "token", "item")
        return {
            **{key: torch.stack([sample[key] for sample in samples]) for key in stacked},
            **{key: torch.tensor([sample[key] for sample in samples]) for key in listed},
            **_images(samples),
            "prompt_valid": torch.ones(len(samples), 1, dtype=torch.bool),
        }


def _images(samples: list[dict[str, Any]]) -> dict[str, Any]:
    image = next(key for key in ("image_places", "image_embeddings", "pixel_values") if key in samples[0])
    return {
        image: torch.stack([sample[image] for sample in samples]),
        "kinds": [sample["kind"] for sample in samples],
        "valid": torch.stack([sample["valid"] for sample in samples]),
    }
