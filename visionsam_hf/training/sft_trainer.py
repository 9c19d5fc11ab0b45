"""Supervised fine-tuning: masks of defects as demonstrations."""

import logging
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from torch import Tensor
from transformers import TrainingArguments

from visionsam_hf.data.errors import UserError
from visionsam_hf.training.hyperparameters import SFTSettings
from visionsam_hf.training.losses import balanced_bce, dice_loss, mask_bce, mask_iou
from visionsam_hf.training.muon import MuonWithAdamW
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
        self.pool = self.args.embedding_pool
        self._warned: set[str] = set()
        if self.args.unprompted:
            self.model.vision_encoder.register_forward_hook(self._keep_embeddings)
            self._views = embedding_views(self.model.config.vision_config.output_channels).to(self.args.device)

    def _loss_sees(self, args: Any, train_dataset: datasets.Dataset) -> dict[str, Any]:
        return dict(
            mask_output=args.mask_output,
            scores=args.w_iou > 0,
            prompt_kinds=[kind for kind, share in args.prompt_mix.items() if share > 0],
            vision_config=args.vision_config,
            fresh_decoder=args.fresh_decoder,
        )

    def _samples(self, rows: datasets.Dataset, args: Any, *, training: bool, **common: Any) -> PromptSamples:
        side, rest = divmod(common["mask_side"], args.embedding_pool)
        if rest or side % 4:
            cells = common["mask_side"] // 4
            raise UserError(f"embedding_pool: {args.embedding_pool} does not divide the model's grid of {cells} cells")
        drawn = dict(box_jitter=args.box_jitter, augment=args.augment, variants=args.variants) if training else {}
        return PromptSamples(
            rows,
            prompt_mix=args.prompt_mix,
            prompts_per_image=args.prompts_per_image,
            unprompted=args.unprompted,
            seed=args.seed,
            training=training,
            **{**common, "mask_side": side},
            **drawn,
        )

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW, or whatever `optim` names; with `muon` Muon for the matrices."""
        if not self.args.muon:
            return super().create_optimizer(model)
        if getattr(self, "optimizer", None) is None:
            self.optimizer = MuonWithAdamW(
                self.model, lr=self.args.learning_rate, weight_decay=self.args.weight_decay
            )
        return self.optimizer

    def _keep_embeddings(self, encoder: torch.nn.Module, inputs: Any, output: Any) -> None:
        self._embeddings = output.last_hidden_state

    def prompt_losses(self, model: torch.nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        logits, scores, valid = self.forward(model, inputs)
        targets = inputs["targets"][inputs["prompt_valid"]]
        args: SamSFTConfig = self.args
        parts = []
        if args.mask_output in ("single", "both"):
            parts.append(_token_losses(logits[:, :1], scores[:, :1], targets, valid, args))
        if args.mask_output in ("multi", "both"):
            parts.append(_token_losses(logits[:, 1:], scores[:, 1:], targets, valid, args))
        losses, logged = torch.stack([loss for loss, _ in parts]).mean(0), parts[0][1]
        if "unprompted" in inputs:
            seen = self._unprompted_losses(inputs)
            # One loss an image, for each of its prompts: the batch's mean is over prompts.
            losses = losses + seen.unsqueeze(1).expand(-1, inputs["prompt_valid"].shape[1])[inputs["prompt_valid"]]
            logged = {**logged, "loss_terms/unprompted": seen}
        return losses, logged

    def _unprompted_losses(self, inputs: dict[str, Any]) -> Tensor:
        """(B,) balanced BCE between what the embedding shows and where the objects are that no prompt asks for.

        With BCE and Dice the encoder was still at all-background after 400 steps.
        """
        logits = read_embeddings(self._embeddings, self._views)
        return balanced_bce(logits, inputs["unprompted"], inputs["valid"])

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


def embedding_views(channels: int) -> Tensor:
    """(16, channels) float32 orthonormal rows: what `read_embeddings` reads in each of a cell's 4 x 4 pixels.

    They are drawn once and never trained. The encoder can turn its embedding to any fixed direction, so a head that
    learns would only be one more thing to save, to share among processes and to throw away.
    """
    drawn = torch.randn(max(channels, 16), channels, generator=torch.Generator().manual_seed(0))
    return torch.linalg.qr(drawn)[0][:16] if channels >= 16 else drawn[:16] / channels**0.5


def read_embeddings(embeddings: Tensor, views: Tensor) -> Tensor:
    """A mask off image embeddings alone, without a prompt: (B, C, h, w) and (16, C) to (B, 4h, 4w) logits."""
    read = torch.einsum("vc,bchw->bvhw", views, embeddings.float())
    # The neck's norm fixes an embedding's length: sixteen sure answers must not take up all of it.
    return torch.nn.functional.pixel_shuffle(4 * read, 4).squeeze(1)


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
