"""Arguments of `SamDPOTrainer`."""

from dataclasses import dataclass

from transformers import TrainingArguments

from visionsam_hf.data.errors import UserError
from visionsam_hf.models.freezing import MASK_OUTPUTS, TRAINABLE
from visionsam_hf.models.lora import ADAPTED
from visionsam_hf.training.hyperparameters import (
    LOSS_TYPES,
    ON_DEVICE,
    POLICY_TOKENS,
    SCORE_LOSSES,
    SFT_LOSSES,
    TARGET_RESIZES,
    DPOSettings,
    PromptTuningSettings,
    SFTSettings,
)


def check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise `UserError` when a setting is not one of its choices."""
    if value not in choices:
        raise UserError(f"{key}: {value!r} is not one of {', '.join(choices)}")


def check_adapter(settings: PromptTuningSettings) -> None:
    """Raise `UserError` when the settings ask for an adapter that cannot be."""
    if not settings.use_peft:
        return
    if settings.trainable not in ADAPTED:
        raise UserError(f"trainable: {settings.trainable} has no attention for an adapter; use {' or '.join(ADAPTED)}")
    if settings.lora_r < 1:
        raise UserError(f"lora_r: {settings.lora_r} is not a rank; give 1 or more")
    if settings.lora_alpha <= 0:
        raise UserError(f"lora_alpha: {settings.lora_alpha} is not above 0")
    if not 0 <= settings.lora_dropout < 1:
        raise UserError(f"lora_dropout: {settings.lora_dropout} is not in [0, 1)")


@dataclass
class SamSFTConfig(SFTSettings, TrainingArguments):
    """`TrainingArguments` with the settings of supervised fine-tuning (see `SFTSettings`)."""

    def __post_init__(self) -> None:
        check_choice("trainable", self.trainable, TRAINABLE)
        check_choice("mask_output", self.mask_output, MASK_OUTPUTS)
        check_adapter(self)
        check_choice("target_resize", self.target_resize, TARGET_RESIZES)
        check_choice("embeddings_on_device", self.embeddings_on_device, ON_DEVICE)
        if any(getattr(self, key) < 0 for key in SFT_LOSSES) or not (self.w_bce or self.w_dice):
            raise UserError("w_bce, w_dice, w_iou: must not be negative, and one of w_bce and w_dice must be above 0")
        if self.trainable == "iou_prediction_head" and not self.w_iou:
            raise UserError("trainable: iou_prediction_head has nothing to learn; give w_iou a weight above 0")
        if not 0 <= self.box_jitter < 0.5:
            raise UserError(f"box_jitter: {self.box_jitter} is not in [0, 0.5)")
        if self.prompts_per_image < 1:
            raise UserError("prompts_per_image: must be at least 1")
        if self.unprompted and self.trainable != "all":
            raise UserError("unprompted: the image embedding learns only with trainable all; set it, or leave this out")
        if self.variants < 1 or (self.augment and self.variants > 1):
            raise UserError("variants: must be at least 1, and 1 with augment, which draws a new look at every step")
        if (
            not self.prompt_mix
            or any(share < 0 for share in self.prompt_mix.values())
            or not sum(self.prompt_mix.values())
        ):
            raise UserError("prompt_mix: give at least one prompt kind a share above 0, e.g. {box: 1.0}")
        from visionsam_hf.data.prompts import PROMPT_KINDS

        for kind in self.prompt_mix:
            check_choice("prompt_mix", kind, PROMPT_KINDS)
        if self.embedding_pool < 1 or (self.embedding_pool > 1 and not self.embeddings):
            raise UserError("embedding_pool: must be at least 1, and 1 without a cache of embeddings")
        if self.fresh_decoder and (self.use_peft or self.trainable not in ("mask_decoder+prompt_encoder", "all")):
            raise UserError(
                "fresh_decoder: a new prompt encoder has to learn too; set trainable mask_decoder+prompt_encoder or all,"
                " and no adapter"
            )
        if self.embeddings and (self.augment or self.trainable == "all"):
            raise UserError("embeddings: a cache cannot be used with augment or trainable all; leave it empty")
        super().__post_init__()


@dataclass
class SamDPOConfig(DPOSettings, TrainingArguments):
    """`TrainingArguments` with the settings of preference optimisation (see `DPOSettings`)."""

    def __post_init__(self) -> None:
        check_choice("trainable", self.trainable, TRAINABLE)
        check_adapter(self)
        check_choice("target_resize", self.target_resize, TARGET_RESIZES)
        check_choice("embeddings_on_device", self.embeddings_on_device, ON_DEVICE)
        check_choice("loss_type", self.loss_type, LOSS_TYPES)
        check_choice("score_loss", self.score_loss, SCORE_LOSSES)
        check_choice("policy_token", self.policy_token, POLICY_TOKENS)
        check_choice("sft_target", self.sft_target, ("chosen", "truth"))
        if self.beta <= 0:
            raise UserError(f"beta: {self.beta} is not above 0")
        if not 0 <= self.label_smoothing < 0.5:
            raise UserError(f"label_smoothing: {self.label_smoothing} is not in [0, 0.5)")
        if self.label_smoothing and self.loss_type not in ("dpo", "region", "robust"):
            raise UserError(
                f"label_smoothing: has no meaning for loss_type {self.loss_type}; use dpo, region or robust"
            )
        if not 0 <= self.region_exponent <= 1:
            raise UserError(f"region_exponent: {self.region_exponent} is not in [0, 1]")
        if self.score_temperature <= 0:
            raise UserError(f"score_temperature: {self.score_temperature} is not above 0")
        if min(self.sft_weight, self.kl_weight, self.iou_weight) < 0:
            raise UserError("sft_weight, kl_weight, iou_weight: must not be negative")
        if self.trainable == "iou_prediction_head" and not self.iou_weight:
            raise UserError("trainable: iou_prediction_head has nothing to learn; give iou_weight a weight above 0")
        if self.embeddings and self.trainable == "all":
            raise UserError("embeddings: a cache cannot be used with trainable all; leave it empty")
        super().__post_init__()

    @property
    def needs_reference(self) -> bool:
        """Whether the objective compares with the model it starts from."""
        return self.loss_type not in ("paper", "sft") or self.kl_weight > 0
