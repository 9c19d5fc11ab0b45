"""Arguments of `SamDPOTrainer`."""

from dataclasses import dataclass

from transformers import TrainingArguments

from visionsam_hf.errors import UserError
from visionsam_hf.modeling import TRAINABLE
from visionsam_hf.trainer.settings import (
    LOSS_TYPES,
    ON_DEVICE,
    POLICY_TOKENS,
    SCORE_LOSSES,
    TARGET_RESIZES,
    DPOSettings,
)
from visionsam_hf.trainer.sft_config import check_adapter, check_choice


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
