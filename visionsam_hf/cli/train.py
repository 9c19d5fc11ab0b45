"""`visionsam sft` and `visionsam dpo`: run a trainer in the stage's directory, resume it, and write the model."""

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from visionsam_hf.cli.options import SFTInputs, TrainingInputs
from visionsam_hf.cli.push import publish
from visionsam_hf.cli.stage import is_main_process, stage_run
from visionsam_hf.data.dataset_directory import load_split
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.records import as_plain
from visionsam_hf.hub.model_card import write_model_card
from visionsam_hf.hub.provenance import parts_of_record, settle
from visionsam_hf.hub.upload import check_repo_id, require_token
from visionsam_hf.models.loading import save_model
from visionsam_hf.training.dpo_trainer import SamDPOConfig, SamDPOTrainer
from visionsam_hf.training.sam_trainer import SamTrainer
from visionsam_hf.training.sft_trainer import SamSFTConfig, SamSFTTrainer


@dataclass
class SFTStage(SFTInputs, SamSFTConfig):
    """Settings of `visionsam sft`: its inputs, the objective, and every field of `transformers.TrainingArguments`."""


@dataclass
class DPOStage(TrainingInputs, SamDPOConfig):
    """Settings of `visionsam dpo`: its inputs, the objective, and every field of `transformers.TrainingArguments`."""


def run_sft(settings: SFTStage) -> None:
    """Fine-tune on masks and write a model directory."""
    train, held = _load("segmentation", settings)

    def make_trainer(directory: Path) -> SamTrainer:
        arguments = _arguments(SamSFTConfig, settings, directory)
        return SamSFTTrainer(
            settings.model_name_or_path, arguments, choose_images(train, settings), eval_dataset=held
        )

    train_stage("sft", settings, make_trainer)


def run_dpo(settings: DPOStage) -> None:
    """Tune on ranked masks and write a model directory."""
    train, held = _load("preference", settings)

    def make_trainer(directory: Path) -> SamTrainer:
        arguments = _arguments(SamDPOConfig, settings, directory)
        return SamDPOTrainer(settings.model_name_or_path, arguments, train, eval_dataset=held)

    train_stage("dpo", settings, make_trainer)


def _load(kind: str, settings: Any) -> tuple[datasets.Dataset, datasets.Dataset | None]:
    train = load_split(settings.dataset, settings.train_split, kind=kind)
    return train, load_split(settings.dataset, settings.eval_split, kind=kind) if settings.eval_split else None


def choose_images(rows: datasets.Dataset, settings: Any) -> datasets.Dataset:
    """At most `max_train_images` rows, drawn with the seed; the same rows whatever else changes."""
    if settings.max_train_images is None or settings.max_train_images >= len(rows):
        return rows
    order = np.random.default_rng([settings.seed, 1]).permutation(len(rows))
    return rows.select(sorted(order[: settings.max_train_images].tolist()))


def train_stage(stage: str, settings: Any, make_trainer: Callable[[Path], SamTrainer]) -> None:
    """Train with the stage's own settings as arguments; a killed run continues from its last checkpoint.

    The model gets a card, and with `push_to_hub` goes to the Hub as `visionsam push` would send it.

    Raises:
        UserError: before training, when it could not be pushed afterwards.
    """
    if settings.push_to_hub:
        _check_push(stage, settings)
    with stage_run(stage, settings, resumable=True) as run:
        trainer = make_trainer(run.directory)
        trained = [name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad]
        result = trainer.train(resume_from_checkpoint=True)
        evaluation = trainer.evaluate() if trainer.eval_dataset is not None else {}
        if trainer.is_world_process_zero():
            # Whether a checkpoint was due is nobody's business now, and differs after a stop.
            trainer.state.stateful_callbacks = {}
            trainer.state.save_to_json(str(run.directory / "trainer_state.json"))
            save_model(trainer.accelerator.unwrap_model(trainer.model), trainer.processor, run.directory)
            _clean(run.directory)
            run.results.update(
                train_loss=result.metrics["train_loss"],
                steps=result.global_step,
                samples=len(trainer.train_dataset),
                samples_per_second=result.metrics.get("train_samples_per_second"),
                trained_parameters=sum(
                    parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad
                ),
                trained=trained,
                device=str(trainer.args.device),
                window=str(trainer.rule),
                evaluation={key: value for key, value in evaluation.items() if isinstance(value, (int, float))},
            )
            if hasattr(trainer, "dropped_pairs"):
                run.results["dropped_pairs"] = trainer.dropped_pairs
            write_model_card(run.directory, {"stage": stage, "settings": as_plain(settings), "results": run.results})
    if settings.push_to_hub and is_main_process():
        _push(settings)


def _check_push(stage: str, settings: Any) -> None:
    if not settings.hub_model_id:
        raise UserError("push_to_hub: needs hub_model_id; add 'hub_model_id: OWNER/NAME', or set push_to_hub to false")
    check_repo_id(settings.hub_model_id)
    require_token(settings.hub_token)
    parts = parts_of_record({"stage": stage, "settings": as_plain(settings)})
    settle("", {f"the {part.repo_type} '{part.name}'": part.license for part in parts})


def _push(settings: Any) -> None:
    try:
        publish(
            settings.output_dir,
            settings.hub_model_id,
            private=settings.hub_private_repo,
            revision=settings.hub_revision or "",
            token=settings.hub_token,
        )
    except UserError as error:
        directory = settings.output_dir
        again = f"the model is in {directory}; 'visionsam push {directory} {settings.hub_model_id}' sends it"
        raise UserError(f"{error} ({again})") from None


def _arguments(cls: type, settings: Any, directory: Path) -> Any:
    """The trainer's own arguments among the stage's settings, of a class that checkpoints can pickle by its name."""
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(cls) if field.init}
    # The stage pushes, with a card of its own and after the checks; and checkpoints must not hold a token.
    kept_back = {"push_to_hub": False, "hub_token": None}
    return cls(**{**values, **kept_back, "output_dir": str(directory)})


def _clean(directory: Path) -> None:
    for checkpoint in directory.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    for scratch in [*directory.glob("reference_logits.*.npy"), directory / "training_args.bin"]:
        scratch.unlink(missing_ok=True)
