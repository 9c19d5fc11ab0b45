"""The objectives' own settings, apart from `transformers.TrainingArguments` so that `--help` need not import torch."""

from dataclasses import dataclass
from typing import Any

from visionsam_hf.data.settings import setting
from visionsam_hf.embeddings.cache_settings import CacheSettings

SFT_LOSSES = ("w_bce", "w_dice", "w_iou")
LOSS_TYPES = ("paper", "dpo", "region", "ipo", "hinge", "robust", "plackett_luce", "sft")
SCORE_LOSSES = ("plackett_luce", "l1")
POLICY_TOKENS = ("single", "candidate")
TARGET_RESIZES = ("area", "nearest")
ON_DEVICE = ("auto", "always", "never")


@dataclass
class PromptTuningSettings(CacheSettings):
    """What both stages share. Fields with a `TrainingArguments` name change its default."""

    trainable: str = setting(
        "mask_decoder", "what trains: mask_decoder, mask_decoder+prompt_encoder, all, iou_prediction_head (scores)"
    )
    use_peft: bool = setting(
        False, "train a LoRA adapter in the attention of what `trainable` names (mask_decoder or all), not its weights"
    )
    lora_r: int = setting(8, "rank of the adapter")
    lora_alpha: float = setting(16.0, "scale of the adapter, times its rank")
    lora_dropout: float = setting(0.0, "dropout on the adapter's input")
    target_resize: str = setting(
        "area", "how masks reach the logits' grid: area keeps hairlines as fractions, nearest is the paper's"
    )
    embeddings_on_device: str = setting(
        "auto", "keep all embeddings on the training device: auto (on a GPU with room for them twice), always or never"
    )
    compile_decoder: bool = setting(False, "compile the decoder's training step: a minute or two once, for long runs")
    learning_rate: float = setting(1e-4, "peak learning rate")
    per_device_train_batch_size: int = setting(8, "samples a step and process")
    per_device_eval_batch_size: int = setting(8, "samples an evaluation step and process")
    weight_decay: float = setting(0.0, "AdamW weight decay")
    logging_steps: float = setting(10, "steps between two log lines")
    save_strategy: str = setting("no", "when checkpoints to resume from are written: no, steps or epoch")
    remove_unused_columns: bool = setting(False, "must stay false: the collator needs every column")
    report_to: str | list[str] | None = setting("none", "where to log, as in TrainingArguments")
    dataloader_pin_memory: bool = setting(False, "page-locked batches; with a GPU they always are")
    seed: int = setting(0, "seeds initialisation, data order and prompts")


@dataclass
class SFTSettings(PromptTuningSettings):
    """Supervised fine-tuning. The paper: w_bce 1, the others 0, decoder only, box prompts without jitter, token 0."""

    w_bce: float = setting(1.0, "weight of the binary cross-entropy, mean over the valid pixels")
    w_dice: float = setting(0.0, "weight of the soft Dice loss; keeps tiny defects from vanishing (the paper: 0)")
    w_iou: float = setting(0.0, "weight of |predicted IoU - IoU|, which trains the confidence head (the paper: 0)")
    mask_output: str = setting(
        "single", "mask tokens in the loss: single (token 0), multi (best of tokens 1 to 3), both"
    )
    prompt_mix: dict[str, float] = setting({"box": 1.0}, "shares of the prompt kinds box, point and point_pm")
    box_jitter: float = setting(0.0, "how far a box's edges move, in or out, as a share of its side")
    prompts_per_image: int = setting(1, "prompts of one image that share its embedding in a sample")
    vision_config: dict[str, Any] = setting(
        {},
        "reshape the encoder first, e.g. {image_size: 512}: image_size, patch_size, window_size, global_attn_indexes",
    )
    fresh_decoder: bool = setting(
        False, "start the prompt encoder and the mask decoder from random weights, whatever the model holds"
    )
    embedding_pool: int = setting(
        1, "learn on cached embeddings averaged over squares of so many cells a side: coarse to fine, at a fraction of a step"
    )
    muon: bool = setting(False, "Muon for the matrices of linear layers, AdamW for the rest: for training from random weights")
    unprompted: list[str] = setting(
        [],
        "kinds of objects that no prompt asks for; the image embedding learns to show where they are (trainable: all)",
    )
    augment: bool = setting(False, "flip and turn images at random; needs the encoder at every step, so no cache")
    variants: int = setting(
        1, "looks of every image to train on, each encoded once: 1 as it is, more with flips, turns and changed light"
    )


@dataclass
class DPOSettings(PromptTuningSettings):
    """Preference optimisation. The defaults are what docs/evidence.md recommends: SFT on the chosen masks.
    The paper: loss_type paper, beta 1, no reference, no added terms, target_resize nearest."""

    loss_type: str = setting(
        "sft", f"objective: {', '.join(LOSS_TYPES)}; sft is BCE + Dice to the chosen mask (docs/objectives.md)"
    )
    beta: float = setting(1.0, "inverse temperature of the preference margin")
    label_smoothing: float = setting(0.0, "assumed share of flipped rankings, for dpo, region and robust")
    region_exponent: float = setting(1.0, "region: divide the margin by |D| to this power, between 0 (dpo) and 1")
    sft_weight: float = setting(0.0, "weight of BCE + Dice to the chosen mask, or as sft_target says")
    kl_weight: float = setting(0.0, "weight of the KL divergence to the reference where the two masks agree")
    iou_weight: float = setting(0.0, "weight of the score loss, which teaches the confidence head people's rankings")
    score_loss: str = setting(
        "plackett_luce", "score loss: plackett_luce on the ranking, or l1 to the chosen mask's IoU"
    )
    score_temperature: float = setting(
        0.02, "plackett_luce: the difference in predicted IoU that makes a mask e times as likely to be ranked first"
    )
    policy_token: str = setting(
        "single", "the mask token that is tuned: single (0), or candidate (the chosen mask's own)"
    )
    sft_target: str = setting("chosen", "what sft_weight pulls towards: chosen (preferences only) or truth")
