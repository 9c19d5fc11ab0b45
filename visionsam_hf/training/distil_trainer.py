"""Distillation: a small encoder learns to give a large one's embeddings, which are cached and computed once."""

import functools
import io
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from PIL import Image as PILImage
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import SamModel, SamProcessor, TrainingArguments

from visionsam_hf.data.windows import Window, drawn_windows
from visionsam_hf.embeddings.cache import EmbeddingCache, open_cache
from visionsam_hf.embeddings.decoding import image_bytes, image_hash, undecoded
from visionsam_hf.models.loading import load_model
from visionsam_hf.models.student import make_student
from visionsam_hf.training.hyperparameters import DistilSettings
from visionsam_hf.training.losses import embedding_loss
from visionsam_hf.training.sam_trainer import SamTrainer, prepare_model
from visionsam_hf.training.samples import ImageSource


@dataclass
class SamDistilConfig(DistilSettings, TrainingArguments):
    """`TrainingArguments` with the settings of distillation (see `DistilSettings`)."""

    def __post_init__(self) -> None:
        DistilSettings.__post_init__(self)
        TrainingArguments.__post_init__(self)


class DistilSamples(Dataset):
    """Images and drawn windows of them, with the teacher's embeddings.

    A sample is `{"pixel_values": (3, side, side), "image_embeddings" | "image_places": the teacher's, "item": int}`.

    Args:
        rows: with an image and an image_id column; nothing else is read.
        processor: the student's.
        cache: the teacher's; filled here.
        crops: windows of every image besides the whole.
    """

    def __init__(self, rows: datasets.Dataset, processor: SamProcessor, *, cache: EmbeddingCache, crops: int = 0) -> None:
        windows: list[list[Window | None]] = [[None] for _ in range(len(rows))]
        if crops:
            for of_image, row in zip(windows, undecoded(rows, "image")):
                width, height = PILImage.open(io.BytesIO(image_bytes(row["image"]))).size
                of_image += drawn_windows((height, width), image_hash(row["image"]), crops)
        self.index = [(row, window) for row, of_image in enumerate(windows) for window in of_image]
        self.source = ImageSource(rows, processor, cache, windows=windows)
        self._pixels = ImageSource(rows, processor, None, windows=windows)
        self._names = rows.select_columns(["image_id"])

    def __len__(self) -> int:
        return len(self.index)

    def image_id(self, item: int) -> str:
        """The image that a sample shows."""
        return self._names[self.index[item][0]]["image_id"]

    def __getitem__(self, item: int) -> dict[str, Any]:
        return {**self._pixels(*self.index[item]), **self.source(*self.index[item]), "item": torch.tensor(item)}


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Stacked samples; to the trainer each is an image with one prompt."""
    batch = {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
    return {**batch, "prompt_valid": torch.ones(len(samples), 1, dtype=torch.bool)}


class SamDistilTrainer(SamTrainer):
    """Teaches a student's vision encoder the embeddings of `model`, its teacher, with a `SamDistilConfig`.

    `train_dataset` and `eval_dataset` hold images: columns `image` and `image_id`. Its other arguments are those of
    `SamTrainer`. `trainer.model` is the student.

    Logs, per image or window: `cosine` of its embedding with the teacher's, mean over the cells.
    """

    config = SamDistilConfig
    collator = staticmethod(collate)
    judged_by = ("eval_cosine",)

    def _prepare(
        self, model: str | SamModel, processing_class: SamProcessor | None, args: Any, rows: datasets.Dataset
    ) -> tuple[SamModel, SamProcessor]:
        teacher, processor = prepare_model(model, processing_class, args)
        start = load_model(args.student) if args.student else None
        student, own = make_student(teacher, processor, args.vision_config, start=start, seed=args.seed)
        self._teacher = teacher, processor
        student.requires_grad_(False)
        student.vision_encoder.requires_grad_(True)
        return student, own

    def _shown(self, model: SamModel, args: Any) -> dict[str, Any]:
        teacher, processor = self._teacher
        return dict(processor=self.processor, cache=open_cache(args, teacher.to(args.device), processor))

    def _with_forward(self, model: SamModel, args: Any) -> SamModel:
        model.forward = functools.partial(_embed, model)
        return model

    def _samples(self, rows: datasets.Dataset, args: Any, *, training: bool, **common: Any) -> DistilSamples:
        return DistilSamples(rows, crops=args.crops, **common)

    def _get_ready(self) -> None:
        # What it had to say is in the cache.
        del self._teacher

    def prompt_losses(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of every image, (B,), and its cosine."""
        keep = inputs["prompt_valid"][:, 0]
        resident = self._resident
        teacher = inputs["image_embeddings"] if resident is None else resident[inputs["image_places"]]
        losses, cosines = embedding_loss(model(inputs["pixel_values"])[keep], teacher[keep])
        return losses, {"cosine": cosines}


def _embed(model: SamModel, pixel_values: Tensor) -> Tensor:
    return model.vision_encoder(pixel_values).last_hidden_state
