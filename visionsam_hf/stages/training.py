"""What the two training stages share: run a trainer in the stage's directory, resume it, and write the model."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from visionsam_hf.modeling import save_model
from visionsam_hf.stage import stage_run
from visionsam_hf.trainer.sam_trainer import SamTrainer


def choose_images(rows: datasets.Dataset, settings: Any) -> datasets.Dataset:
    """At most `max_train_images` rows, drawn with the seed; the same rows whatever else changes."""
    if settings.max_train_images is None or settings.max_train_images >= len(rows):
        return rows
    order = np.random.default_rng([settings.seed, 1]).permutation(len(rows))
    return rows.select(sorted(order[: settings.max_train_images].tolist()))


def train_stage(stage: str, settings: Any, make_trainer: Callable[[Any], SamTrainer]) -> None:
    """Train with the stage's own settings as arguments; a killed run continues from its last checkpoint."""
    with stage_run(stage, settings, resumable=True) as run:
        trainer = make_trainer(_arguments(settings, run.directory))
        trained = [name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad]
        result = trainer.train(resume_from_checkpoint=True)
        evaluation = trainer.evaluate() if trainer.eval_dataset is not None else {}
        if trainer.is_world_process_zero():
            trainer.state.save_to_json(str(run.directory / "trainer_state.json"))
            save_model(trainer.accelerator.unwrap_model(trainer.model), trainer.processor, run.directory)
            _clean(run.directory)
            run.results.update(
                train_loss=result.metrics["train_loss"],
                steps=result.global_step,
                samples=len(trainer.train_dataset),
                samples_per_second=result.metrics.get("train_samples_per_second"),
                trained_parameters=sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad),
                trained=trained,
                device=str(trainer.args.device),
                evaluation={key: value for key, value in evaluation.items() if isinstance(value, (int, float))},
            )
            if hasattr(trainer, "dropped_pairs"):
                run.results["dropped_pairs"] = trainer.dropped_pairs


def _arguments(settings: Any, directory: Path) -> Any:
    """The trainer's own arguments among the stage's settings; checkpoints pickle them, so their class must be importable."""
    cls = next(base for base in type(settings).__mro__ if base.__module__.startswith("visionsam_hf.trainer."))
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(cls) if field.init}
    return cls(**{**values, "output_dir": str(directory)})


def _clean(directory: Path) -> None:
    for checkpoint in directory.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    for scratch in [*directory.glob("reference_logits.*.npy"), directory / "training_args.bin"]:
        scratch.unlink(missing_ok=True)
