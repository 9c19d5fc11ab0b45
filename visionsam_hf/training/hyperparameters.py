"""Every setting of training with its choices and ranges, without torch, so that `--help` is quick.

`SamSFTConfig`, `SamDPOConfig` and `SamDistilConfig`, beside their trainers, add the fields of `transformers.TrainingArguments`.
"""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

from visionsam_hf.data.errors import UserError
from visionsam_hf.data.settings import setting
from visionsam_hf.embeddings.cache_settings import CacheSettings

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
BelowHalf = Annotated[float, Field(ge=0, lt=0.5)]
Count = Annotated[int, Field(ge=1)]
PromptKind = Literal["box", "point", "point_pm"]
LossType = Literal["paper", "dpo", "region", "ipo", "hinge", "robust", "plackett_luce", "sft"]

LOSS_TYPES: tuple[str, ...] = get_args(LossType)
# No reference model: the paper's loss, and the chosen masks as demonstrations (rejection sampling).
REFERENCE_FREE = ("paper", "sft")
# What has attention for an adapter: the keys of `models.lora.ADAPTED`.
_ADAPTED = ("mask_decoder", "all")


@functools.cache
def _checkers(cls: type) -> dict[str, TypeAdapter]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: TypeAdapter(hints[field.name]) for field in dataclasses.fields(cls)}


def _check_fields(settings: "TrainerSettings", cls: type) -> None:
    """Raise `UserError` for a value that its field's type in `cls` does not allow, whoever gave it."""
    for name, checker in _checkers(cls).items():
        value = getattr(settings, name)
        try:
            checker.validate_python(value)
        except ValidationError as error:
            raise UserError(f"{name}: has the value {value!r}: {error.errors()[0]['msg']}") from None


@dataclass
class TrainerSettings(CacheSettings):
    """What all trainers share. Fields with a `TrainingArguments` name change its default."""

    embeddings_on_device: Literal["auto", "always", "never"] = setting(
        "auto", "keep all embeddings on the training device: auto (on a GPU with room for them twice), always or never"
    )
    learning_rate: float = setting(1e-4, "peak learning rate")
    per_device_train_batch_size: Count = setting(8, "samples a step and process")
    per_device_eval_batch_size: Count = setting(8, "samples an evaluation step and process")
    weight_decay: float = setting(0.0, "AdamW weight decay")
    logging_steps: float = setting(10, "steps between two log lines")
    save_strategy: str = setting("no", "when checkpoints to resume from are written: no, steps or epoch")
    remove_unused_columns: bool = setting(False, "must stay false: the collator needs every column")
    report_to: str | list[str] | None = setting("none", "where to log, as in TrainingArguments")
    dataloader_pin_memory: bool = setting(False, "page-locked batches; with a GPU they always are")
    seed: int = setting(0, "seeds initialisation, data order and prompts")


@dataclass
class PromptTuningSettings(TrainerSettings):
    """What supervised and preference training share."""

    trainable: Literal["mask_decoder", "mask_decoder+prompt_encoder", "all", "iou_prediction_head"] = setting(
        "mask_decoder", "what trains: mask_decoder, mask_decoder+prompt_encoder, all, iou_prediction_head (scores)"
    )
    use_peft: bool = setting(
        False, "train a LoRA adapter in the attention of what `trainable` names (mask_decoder or all), not its weights"
    )
    lora_r: Count = setting(8, "rank of the adapter")
    lora_alpha: Positive = setting(16.0, "scale of the adapter, times its rank")
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = setting(0.0, "dropout on the adapter's input")
    target_resize: Literal["area", "nearest"] = setting(
        "area", "how masks reach the logits' grid: area keeps hairlines as fractions, nearest is the paper's"
    )
    compile_decoder: bool = setting(False, "compile the decoder's training step: a minute or two once, for long runs")

    def _check_adapter(self) -> None:
        if self.use_peft and self.trainable not in _ADAPTED:
            raise UserError(
                f"trainable: {self.trainable} has no attention for an adapter; use {' or '.join(_ADAPTED)}"
            )


@dataclass
class SFTSettings(PromptTuningSettings):
    """Supervised fine-tuning. The paper: w_bce 1, the others 0, decoder only, box prompts without jitter, token 0."""

    w_bce: NonNegative = setting(1.0, "weight of the binary cross-entropy, mean over the valid pixels")
    w_dice: NonNegative = setting(0.0, "weight of the soft Dice loss; keeps tiny defects from vanishing (the paper: 0)")
    w_iou: NonNegative = setting(
        0.0, "weight of |predicted IoU - IoU|, which trains the confidence head (the paper: 0)"
    )
    mask_output: Literal["single", "multi", "both"] = setting(
        "single", "mask tokens in the loss: single (token 0), multi (best of tokens 1 to 3), both"
    )
    prompt_mix: dict[PromptKind, NonNegative] = setting(
        {"box": 1.0}, "shares of the prompt kinds box, point and point_pm"
    )
    box_jitter: BelowHalf = setting(0.0, "how far a box's edges move, in or out, as a share of its side")
    prompts_per_image: Count = setting(1, "prompts of one image that share its embedding in a sample")
    augment: bool = setting(False, "flip and turn images at random; needs the encoder at every step, so no cache")
    variants: Count = setting(
        1, "looks of every image to train on, each encoded once: 1 as it is, more with flips, turns and changed light"
    )

    def __post_init__(self) -> None:
        """Raises `UserError` for a value, or values together, that cannot be."""
        _check_fields(self, SFTSettings)
        self._check_adapter()
        if not (self.w_bce or self.w_dice):
            raise UserError("w_bce, w_dice: one of them must be above 0")
        if self.trainable == "iou_prediction_head" and not self.w_iou:
            raise UserError("trainable: iou_prediction_head has nothing to learn; give w_iou a weight above 0")
        if not sum(self.prompt_mix.values()):
            raise UserError("prompt_mix: give at least one prompt kind a share above 0, e.g. {box: 1.0}")
        if self.augment and self.variants > 1:
            raise UserError("variants: must be 1 with augment, which draws a new look at every step")
        if self.embeddings and (self.augment or self.trainable == "all"):
            raise UserError("embeddings: a cache cannot be used with augment or trainable all; leave it empty")


@dataclass
class DPOSettings(PromptTuningSettings):
    """Preference optimisation. The defaults are what docs/evidence.md recommends: SFT on the chosen masks.
    The paper: loss_type paper, beta 1, no reference, no added terms, target_resize nearest."""

    loss_type: LossType | list[LossType] = setting(
        "sft",
        f"objective, or several that are added: {', '.join(LOSS_TYPES)}; sft is BCE + Dice to the chosen mask "
        "(docs/objectives.md)",
    )
    loss_weights: list[NonNegative] | None = setting(None, "weights of several objectives, in their order; empty: 1 each")
    beta: Positive = setting(1.0, "inverse temperature of the preference margin")
    label_smoothing: BelowHalf = setting(0.0, "assumed share of flipped rankings, for dpo, region and robust")
    region_exponent: Share = setting(1.0, "region: divide the margin by |D| to this power, between 0 (dpo) and 1")
    sft_weight: NonNegative = setting(0.0, "weight of BCE + Dice to the chosen mask, or as sft_target says")
    region_weight: NonNegative = setting(
        0.0, "weight of circled mistakes; above 0 they also mend the chosen mask that sft and sft_weight pull towards"
    )
    kl_weight: NonNegative = setting(0.0, "weight of the KL divergence to the reference where the two masks agree")
    iou_weight: NonNegative = setting(
        0.0, "weight of the score loss, which teaches the confidence head people's rankings"
    )
    score_loss: Literal["plackett_luce", "l1"] = setting(
        "plackett_luce", "score loss: plackett_luce on the ranking, or l1 to the chosen mask's IoU"
    )
    score_temperature: Positive = setting(
        0.02, "plackett_luce: the difference in predicted IoU that makes a mask e times as likely to be ranked first"
    )
    policy_token: Literal["single", "candidate"] = setting(
        "single", "the mask token that is tuned: single (0), or candidate (the chosen mask's own; 0 where it has none)"
    )
    sft_target: Literal["chosen", "truth"] = setting(
        "chosen", "what sft_weight pulls towards: chosen (preferences only) or truth"
    )

    def __post_init__(self) -> None:
        """Raises `UserError` for a value, or values together, that cannot be."""
        _check_fields(self, DPOSettings)
        self._check_adapter()
        self._check_objectives()
        if self.label_smoothing and not {"dpo", "region", "robust"}.intersection(self.objectives):
            raise UserError(
                f"label_smoothing: has no meaning for loss_type {self.loss_type}; use dpo, region or robust"
            )
        if self.trainable == "iou_prediction_head" and not self.iou_weight:
            raise UserError("trainable: iou_prediction_head has nothing to learn; give iou_weight a weight above 0")
        if self.embeddings and self.trainable == "all":
            raise UserError("embeddings: a cache cannot be used with trainable all; leave it empty")

    def _check_objectives(self) -> None:
        names = self._loss_types
        if not names or len(set(names)) < len(names):
            raise UserError(f"loss_type: is {names}; give one objective, or a list of different ones")
        if self.loss_weights is not None and (len(self.loss_weights) != len(names) or not sum(self.loss_weights)):
            raise UserError(f"loss_weights: is {self.loss_weights}; give one weight for each of {names}, not all 0")

    @property
    def _loss_types(self) -> list[LossType]:
        return self.loss_type if isinstance(self.loss_type, list) else [self.loss_type]

    @property
    def objectives(self) -> dict[LossType, float]:
        """Objective -> its weight in the sum; the first one's margin is what is logged."""
        return dict(zip(self._loss_types, self.loss_weights or [1.0] * len(self._loss_types)))

    @property
    def needs_reference(self) -> bool:
        """Whether the objective compares with the model it starts from."""
        return not set(REFERENCE_FREE).issuperset(self.objectives) or self.kl_weight > 0


@dataclass
class DistilSettings(TrainerSettings):
    """Distillation of an encoder: the student's embeddings become the teacher's."""

    student: str = setting(
        "", "small SAM whose encoder the student starts from; empty: random weights of vision_config's sizes", input="model"
    )
    vision_config: dict[str, Any] = setting(
        {},
        "sizes of a new student's encoder, fields of SamVisionConfig such as {hidden_size: 192, num_hidden_layers: 6}; "
        "those left out: 256 pixels, patches of 16, 6 layers of 192 with 3 heads, all of them global; with `student` "
        "image_size alone",
    )
    crops: Annotated[int, Field(ge=0)] = setting(
        0, "windows of every image to learn from besides the whole, drawn once; each is encoded once"
    )
    learning_rate: float = setting(1e-3, "peak learning rate")
    per_device_train_batch_size: Count = setting(16, "images and crops a step and process")
    per_device_eval_batch_size: Count = setting(16, "images and crops an evaluation step and process")

    def __post_init__(self) -> None:
        """Raises `UserError` for a value, or values together, that cannot be."""
        _check_fields(self, DistilSettings)
        if not self.embeddings:
            raise UserError("embeddings: name the directory that keeps the teacher's embeddings, so that it encodes once")
        if self.student and set(self.vision_config) - {"image_size"}:
            raise UserError(
                f"vision_config: the student starts as {self.student}, which has its sizes; give image_size alone, or no student"
            )
