"""Teach SAM what a defect is: supervised fine-tuning, then preference optimisation, on embeddings encoded once."""

import importlib
from typing import Any

# Loaded on first use, so that `visionsam --help` does not wait for torch.
_EXPORTS = {
    "EmbeddingCache": "visionsam_hf.embeddings.cache",
    "SamDPOConfig": "visionsam_hf.training.dpo_trainer",
    "SamDPOTrainer": "visionsam_hf.training.dpo_trainer",
    "SamDistilConfig": "visionsam_hf.training.distil_trainer",
    "SamDistilTrainer": "visionsam_hf.training.distil_trainer",
    "SamSFTConfig": "visionsam_hf.training.sft_trainer",
    "SamSFTTrainer": "visionsam_hf.training.sft_trainer",
    "SegmentationMetric": "visionsam_hf.evaluation.segmentation_metric",
    "evaluate_model": "visionsam_hf.evaluation.evaluator",
    "generate_candidates": "visionsam_hf.preferences.candidates",
    "load_model": "visionsam_hf.models.loading",
}
__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'visionsam_hf' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
