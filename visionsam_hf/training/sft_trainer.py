"""Supervised fine-tuning: masks of defects as demonstrations."""

import logging
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from torch import Tensor
from transformers import TrainingArguments

from visionsam_hf.training.hyperparameters import SFTSettings
from visionsam_hf.training.losses import dice_loss, mask_bce, mask_iou
from visionsam_hf.training.sam_trainer import SamTrainer
from visionsam_hf.training.samples import PromptCollator, PromptSamples

logger = logging.getLogger(__name__)


@dataclass
class SamSFTConfig(SFTSettings, TrainingArguments):
    """`TrainingArguments` with the settings of supervised fine-tuning (see `SFTSettings`)."""

    def __post_init__(self) -> None:
        SFTSettings.__post_init__(self)
        TrainingArguments.__post_init__(self)


class SamSFTTrainer(SamTrainer):
    """Fine-tunes SAM on masks, with a `SamSFTConfig`; its other arguments are those of `SamTrainer`.

    The data sets hold rows of the segmentation schema (`visionsam_hf.data.schema.segmentation_features`).

    Logs, per prompt: `iou` of the mask in the loss, `area_ratio` (predicted over target area), `score_error`
    (|predicted IoU - IoU|).
    """

    config = SamSFTConfig
    collator = PromptCollator()

    def _get_ready(self) -> None:
        self._warned: set[str] = set()

    def _loss_sees(self, args: Any, train_dataset: datasets.Dataset) -> dict[str, Any]:
        return dict(
            mask_output=args.mask_output,
            scores=args.w_iou > 0,
            prompt_kinds=[kind for kind, share in args.prompt_mix.items() if share > 0],
        )

    def _samples(self, rows: datasets.Dataset, args: Any, *, training: bool, **common: Any) -> PromptSamples:
        drawn = dict(box_jitter=args.box_jitter, augment=args.augment, variants=args.variants) if training else {}
        return PromptSamples(
            rows,
            prompt_mix=args.prompt_mix,
            prompts_per_image=args.prompts_per_image,
            seed=args.seed,
            training=training,
            **common,
            **drawn,
        )

    def prompt_losses(self, model: torch.nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        logits, scores, valid = self.forward(model, inputs)
        targets = inputs["targets"][inputs["prompt_valid"]]
        args: SamSFTConfig = self.args
        parts = []
        if args.mask_output in ("single", "both"):
            parts.append(_token_losses(logits[:, :1], scores[:, :1], targets, valid, args))
        if args.mask_output in ("multi", "both"):
            parts.append(_token_losses(logits[:, 1:], scores[:, 1:], targets, valid, args))
        return torch.stack([loss for loss, _ in parts]).mean(0), parts[0][1]

    def check_metrics(self, means: dict[str, float], prefix: str) -> None:
        ratio = means.get(f"{prefix}area_ratio", 1.0)
        # Early in training any ratio is seen; a drift that stays is what the loss hides on tiny targets.
        if self.state.global_step > 0.2 * self.state.max_steps and not 0.5 <= ratio <= 2 and prefix not in self._warned:
            self._warned.add(prefix)
            logger.warning(
                "predicted masks are %.2f times the area of their targets (%sarea_ratio); w_dice above 0 and a lower "
                "learning_rate counter a drift to nothing or to everything",
                ratio,
                prefix,
            )


def _token_losses(
    logits: Tensor, scores: Tensor, targets: Tensor, valid: Tensor, args: SamSFTConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of the best of K tokens, as SAM was trained, and what to log of it.

    logits (P, K, S, S), scores (P, K), targets and valid (P, S, S); losses (P,).
    """
    tokens = logits.shape[1]
    flat = logits.flatten(0, 1)
    target, inside = targets.repeat_interleave(tokens, 0), valid.repeat_interleave(tokens, 0)
    mask_loss = torch.zeros(len(flat), device=flat.device)
    if args.w_bce:
        mask_loss = mask_loss + args.w_bce * mask_bce(flat, target, inside)
    if args.w_dice:
        mask_loss = mask_loss + args.w_dice * dice_loss(flat, target, inside)
    iou = mask_iou(flat, target, inside).unflatten(0, (-1, tokens))
    best_loss, best = mask_loss.unflatten(0, (-1, tokens)).min(1)
    score_error = (scores.float() - iou).abs()
    loss = best_loss + args.w_iou * score_error.mean(1) if args.w_iou else best_loss
    chosen = best.unsqueeze(1)
    area = ((flat > 0) & inside).sum((-2, -1)).unflatten(0, (-1, tokens)).gather(1, chosen).squeeze(1)
    return loss, {
        "iou": iou.gather(1, chosen).squeeze(1),
        "area_ratio": area / (targets * valid).sum((-2, -1)).clamp(min=1e-3),
        "score_error": score_error.gather(1, chosen).squeeze(1),
    }
