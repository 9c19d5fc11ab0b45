"""The models of a study: what everything starts from, and one training without files or words."""

import copy
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import datasets
from transformers import PrinterCallback, SamModel, SamProcessor, Trainer

from studies.design import StudySettings
from visionsam_hf.data.settings import build_settings
from visionsam_hf.data.windows import choose_rule, remember_rule
from visionsam_hf.embeddings.cache import EmbeddingCache, open_cache
from visionsam_hf.models.loading import load_model, load_processor, to_best_device

_QUIET = dict(disable_tqdm=True, logging_strategy="no", save_strategy="no", report_to="none")


@dataclass(frozen=True)
class Base:
    """What every system starts from; the model is not changed. `cache` reads and fills the directory `embeddings`; the
    processor remembers the study's window, so training and predictions keep to it."""

    model: SamModel
    processor: SamProcessor
    cache: EmbeddingCache
    embeddings: str


def load_base(settings: StudySettings, name: str = "") -> Base:
    """A model (by default the study's own) with the study's processor and a cache of its own embeddings."""
    model = to_best_device(load_model(name or settings.model_name_or_path))
    return with_cache(settings, model, load_processor(settings.model_name_or_path))


def with_cache(settings: StudySettings, model: SamModel, processor: SamProcessor) -> Base:
    """The same for a model at hand."""
    processor = remember_rule(processor, choose_rule(settings, processor))
    cache = open_cache(settings, model, processor)
    assert cache is not None  # the settings name one
    return Base(model, processor, cache, settings.embeddings)


def fit(
    trainer_class: type[Trainer],
    config_class: type,
    base: Base,
    rows: datasets.Dataset,
    settings: Mapping[str, Any],
    *,
    seed: int,
    model: SamModel | None = None,
) -> tuple[SamModel, Trainer]:
    """A copy of the model (default: the base's) after training on some rows, and the trainer that has run.

    Args:
        settings: fields of `config_class`; embeddings are cached unless these need the encoder at every step.
    """
    cached = not (settings.get("augment") or settings.get("trainable") == "all")
    with tempfile.TemporaryDirectory() as scratch:
        own: dict[str, Any] = {"output_dir": scratch, "seed": seed}
        own |= {"embeddings": base.embeddings, "embedding_dtype": base.cache.dtype} if cached else {"embeddings": ""}
        arguments = build_settings(config_class, {**settings, **_QUIET, **own}, source="the study's training")
        tuned = copy.deepcopy(base.model if model is None else model)
        trainer = trainer_class(tuned, arguments, rows, processing_class=base.processor)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return trainer.accelerator.unwrap_model(trainer.model).eval(), trainer
