"""`visionsam sft` and `visionsam dpo`: run a trainer in the stage's directory, resume it, and write the model."""

import dataclasses
import logging
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch

from visionsam_hf.cli.options import SFTInputs, TrainingInputs
from visionsam_hf.cli.push import publish
from visionsam_hf.cli.stage import counted, is_main_process, stage_run
from visionsam_hf.data.dataset_directory import load_split
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.masks import decode_rle, mask_width
from visionsam_hf.data.records import RECORD, as_plain, read_record
from visionsam_hf.data.windows import WindowRule, object_windows
from visionsam_hf.hub.model_card import FIGURE, write_model_card
from visionsam_hf.hub.provenance import parts_of_record, settle
from visionsam_hf.hub.upload import check_repo_id, require_token
from visionsam_hf.models.loading import save_model
from visionsam_hf.preferences.preference_rows import pair_quality
from visionsam_hf.training.dpo_trainer import SamDPOConfig, SamDPOTrainer
from visionsam_hf.training.sam_trainer import SamTrainer
from visionsam_hf.training.sft_trainer import SamSFTConfig, SamSFTTrainer

logger = logging.getLogger(__name__)
_PAIRS_LOOKED_AT = 1000
_IMAGES_MEASURED = 200
_MANY_LOST = 0.2  # of the defects


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
        arguments, chosen = trainer_arguments(SamSFTConfig, settings, directory), choose_images(train, settings)
        trainer = SamSFTTrainer(settings.model_name_or_path, arguments, chosen, eval_dataset=held)
        _look_at_sizes(chosen, trainer.train_dataset.mask_side, trainer.rule)
        return trainer

    train_stage("sft", settings, make_trainer)


def run_dpo(settings: DPOStage) -> None:
    """Tune on ranked masks and write a model directory."""
    train, held = _load("preference", settings)
    _look_at_pairs(train, settings.dataset)

    def make_trainer(directory: Path) -> SamTrainer:
        arguments = trainer_arguments(SamDPOConfig, settings, directory)
        return SamDPOTrainer(settings.model_name_or_path, arguments, train, eval_dataset=held)

    train_stage("dpo", settings, make_trainer)


def _load(kind: str, settings: Any) -> tuple[datasets.Dataset, datasets.Dataset | None]:
    wanted = {"kind": kind, "config": settings.dataset_config}
    train = load_split(settings.dataset, settings.train_split, **wanted)
    return train, load_split(settings.dataset, settings.eval_split, **wanted) if settings.eval_split else None


def _spread(rows: datasets.Dataset, most: int) -> datasets.Dataset:
    """At most so many rows, evenly spread."""
    return rows.select(np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(int).tolist())


def _look_at_pairs(rows: datasets.Dataset, name: str) -> None:
    """Say what the pairs teach, as far as their truth is known."""
    quality = pair_quality(_spread(rows, _PAIRS_LOOKED_AT).select_columns(["chosen", "rejected", "truth"]))
    if quality is None or not is_main_process():
        return
    record = Path(name) / RECORD
    chosen = read_record(name)["results"].get("chosen_sources") if record.is_file() else None
    print(f"dpo: {quality}" + (f"; chosen: {counted(chosen)}" if chosen else ""), flush=True)
    if quality.teach_wrong:
        logger.warning("%s: its pairs teach the wrong way (%s); look at them with visionsam inspect", name, quality)


def _look_at_sizes(rows: datasets.Dataset, side: int, rule: WindowRule) -> None:
    """Warn of defects that are lost on the grid of the logits, `side` cells a side, as they are shown."""
    widths = []
    for row in _spread(rows, _IMAGES_MEASURED).select_columns(["objects"]):
        for item, window in zip(row["objects"], object_windows(row["objects"], rule)):
            shown = item["rle"]["size"] if window is None else window.size
            widths.append(mask_width(decode_rle(item["rle"])) * side / max(shown))
    lost = np.mean(np.array(widths) < 1) if widths else 0.0
    if lost > _MANY_LOST and is_main_process():
        logger.warning(
            "%.0f%% of the defects are thinner than a cell of the model's %dx%d masks; %sa model with a larger square shows them"
            " larger",
            *(100 * lost, side, side, "" if rule.window == "zoom" else "'window: zoom' or "),
        )


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
        before, weights = _measured(trainer), _weights(trainer) if settings.load_best else {}
        result = trainer.train(resume_from_checkpoint=True)
        evaluation = _measured(trainer)
        validation = _validation(trainer, before, evaluation)
        if settings.load_best and validation and validation[_key(validation, "after")] < validation[_key(validation, "before")]:
            trainer.model.load_state_dict(weights, strict=False)
            validation["kept"] = "start"
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
                **({"validation": validation} if validation else {}),
            )
            if hasattr(trainer, "dropped_pairs"):
                run.results["dropped_pairs"] = trainer.dropped_pairs
            write_model_card(run.directory, {"stage": stage, "settings": as_plain(settings), "results": run.results})
            run.achieved, run.page = _achieved(run.results), FIGURE if (run.directory / FIGURE).is_file() else ""
    if settings.push_to_hub and is_main_process():
        _push(settings)


_KEPT_START = "training made the model worse on the validation split, so the model is the one it started from"


def _measured(trainer: SamTrainer) -> dict[str, Any]:
    """The evaluation's metrics as the model is; draws nothing from the generator that training draws from."""
    if trainer.eval_dataset is None:
        return {}
    with torch.random.fork_rng():
        return trainer.evaluate()


def _weights(trainer: SamTrainer) -> dict[str, torch.Tensor]:
    """A copy of what training can change, the same on every process."""
    if trainer.eval_dataset is None:
        return {}
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise UserError("load_best: cannot put back weights that FSDP or DeepSpeed has split up; set load_best to false")
    frozen = {name for name, parameter in trainer.model.named_parameters() if not parameter.requires_grad}
    return {name: value.cpu().clone() for name, value in trainer.model.state_dict().items() if name not in frozen}


def _validation(trainer: SamTrainer, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Which metric judges, its value before and after training; {} where there is none."""
    name = next((name for name in trainer.judged_by if name in before and name in after), None)
    if name is None or not (math.isfinite(before[name]) and math.isfinite(after[name])):
        return {}
    kind = "cosine" if name == "eval_cosine" else "iou"
    values = {f"{kind}_before": before[name], f"{kind}_after": after[name]}
    return {"metric": name, **values, "samples": len(trainer.eval_dataset), "kept": "end"}


def _key(validation: dict[str, Any], when: str) -> str:
    return next(key for key in validation if key.endswith(f"_{when}"))


def _achieved(results: dict[str, Any]) -> str:
    done = f"{results['steps']} steps on {results['samples']} samples"
    if "validation" not in results:
        return f"{done}; no validation split to judge by"
    of = results["validation"]
    named = {"eval_iou/chosen": "validation IoU with the chosen masks", "eval_cosine": "cosine to the teacher on new images"}
    what, before, after = named.get(of["metric"], "validation IoU"), of[_key(of, "before")], of[_key(of, "after")]
    kept = f"; {_KEPT_START}" if of["kept"] == "start" else ""
    return f"{done}; {what} {before:.3f} -> {after:.3f} ({of['samples']} samples){kept}"


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


def trainer_arguments(cls: type, settings: Any, directory: Path) -> Any:
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
