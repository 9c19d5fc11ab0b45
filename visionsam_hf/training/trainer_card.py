"""The card that a trainer leaves beside a model; the stages of `visionsam` write a fuller one, with figures and licences."""

import importlib.metadata
import re
from dataclasses import MISSING, fields
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from peft import PeftModel

from visionsam_hf.data.data_card import markdown_table
from visionsam_hf.data.records import PACKAGED_MODEL, as_plain, looks_local, pretrained_name
from visionsam_hf.training.hyperparameters import DistilSettings, DPOSettings, SFTSettings

_ARGUMENTS = (
    *("num_train_epochs", "max_steps", "gradient_accumulation_steps", "lr_scheduler_type", "warmup_steps"),
    *("bf16", "fp16", "seed"),
)
_VERSIONS = ("visionsam_hf", "transformers", "torch", "datasets", "peft")
_BODY = """\
# SAM tuned to segment defects

Tuned from `{base}` with `{trainer}` on {samples} samples, {steps} optimiser steps. Shown for a prompt: {window}.

```python
from visionsam_hf import load_model

model = load_model("path/to/this/directory")
```

`visionsam predict --model path/to/this/directory --image PHOTO --box X1 Y1 X2 Y2 --output OUT` gives masks.

## Last figures

{figures}

## Settings other than the defaults

{settings}

## Versions

{versions}
"""


def _defaults(config: type) -> dict[str, Any]:
    """Not from an instance: making `TrainingArguments` resets accelerate's state under the trainer that is at work."""
    made = {of.name: of.default if of.default_factory is MISSING else of.default_factory() for of in fields(config)}
    return {name: getattr(value, "value", value) for name, value in made.items()}


def trainer_card(trainer: Any) -> ModelCard:
    """The card of what a `SamTrainer` has trained: the same training gives the same card.

    It names no licence, which the trainer does not know: `visionsam push` settles it.
    """
    base, is_adapter = trainer.base_name, isinstance(trainer.model, PeftModel)
    on_hub = base and not (looks_local(base) or pretrained_name(base) or base == PACKAGED_MODEL)
    links = {"base_model": base, "base_model_relation": "adapter" if is_adapter else "finetune"} if on_hub else {}
    data = ModelCardData(
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="mask-generation",
        tags=["sam", "segment-anything", "defect-segmentation", "visionsam", "generated_from_trainer"],
        **links,
    )
    own = [field.name for kind in (SFTSettings, DPOSettings, DistilSettings) for field in fields(kind)]
    given, usual = as_plain(trainer.args), _defaults(type(trainer.args))
    names = dict.fromkeys(name for name in (*own, *_ARGUMENTS) if name in given and given[name] != usual[name])
    logged = [entry for entry in trainer.state.log_history if "loss" in entry or "eval_loss" in entry]
    shown = re.compile("loss|iou|cosine")
    last = {name: value for entry in logged for name, value in entry.items() if shown.search(name)}
    body = _BODY.format(
        base=base or "a model in memory",
        trainer=type(trainer).__name__,
        samples=len(trainer.train_dataset),
        steps=trainer.state.global_step,
        window=trainer.rule,
        figures=markdown_table(["metric", "value"], [(f"`{name}`", f"{value:.4f}") for name, value in last.items()]),
        settings=markdown_table(["setting", "value"], [(f"`{name}`", f"`{given[name]}`") for name in names]),
        versions=", ".join(f"{name} {importlib.metadata.version(name)}" for name in _VERSIONS),
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}")
