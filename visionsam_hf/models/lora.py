"""LoRA adapters: small weights beside a frozen base model, made, loaded and saved with peft.

An adapter's directory holds `adapter_config.json`, which names the base model, `adapter_model.safetensors`, and the
processor. `load_model` reads it as the two merged; plain peft reads it too:

    base = AutoModel.from_pretrained(PeftConfig.from_pretrained(directory).base_model_name_or_path)
    model = PeftModel.from_pretrained(base, directory)

Without this package a MobileSAM as the base wants `trust_remote_code=True`, as in `auto_classes`.
"""

import os
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from transformers import SamModel
from transformers.utils.peft_utils import find_adapter_config_file

from visionsam_hf.data.errors import UserError
from visionsam_hf.data.records import PACKAGED_MODEL, looks_local, pretrained_name, resolve_model

# What `trainable` means for an adapter: the attention it sits in.
ADAPTED = {
    "mask_decoder": r"mask_decoder\.transformer.*\.(q_proj|v_proj)",
    "all": r"mask_decoder\.transformer.*\.(q_proj|v_proj)|vision_encoder\.layers.*\.attn\.qkv",
}
_WEIGHTS = "adapter_model.safetensors"


def find_adapter(name_or_path: str, *, revision: str | None = None) -> PeftConfig | None:
    """The adapter's settings when a directory or a Hub id holds one; None when it holds a whole model, or nothing.

    Raises:
        UserError: an adapter without a base model's name, of another method than LoRA, or with pickled weights only.
    """
    path = resolve_model(name_or_path)
    if not Path(path).is_dir() and looks_local(name_or_path):
        return None
    file = find_adapter_config_file(path, revision=revision)
    if file is None:
        return None
    try:
        method = PeftConfig.from_json_file(file)["peft_type"]
        if method != "LORA":
            raise UserError(f"{name_or_path}: is a {method} adapter; give a LoRA adapter, or the model merged with it")
        config = PeftConfig.from_pretrained(str(Path(file).parent))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{name_or_path}: its adapter_config.json cannot be read ({error}); copy the adapter again"
        ) from None
    base = config.base_model_name_or_path
    if not base:
        raise UserError(f"{name_or_path}: names no base model; add base_model_name_or_path to its adapter_config.json")
    if Path(path).is_dir() and not (Path(path) / _WEIGHTS).is_file():
        raise UserError(f"{name_or_path}: has no {_WEIGHTS}; save the adapter as safetensors")
    if looks_local(base) and not Path(resolve_model(base)).is_dir():
        raise UserError(
            f"{name_or_path}: is an adapter of {base}, which is not here; put the base model there, or mend"
            " base_model_name_or_path in its adapter_config.json"
        )
    if find_adapter_config_file(resolve_model(base)) is not None:
        raise UserError(
            f"{name_or_path}: is an adapter of {base}, itself an adapter; merge that one first (visionsam merge)"
        )
    return config


def add_adapter(
    model: SamModel, trainable: str, *, r: int, alpha: float, dropout: float, seed: int
) -> PeftModel:
    """The model, frozen, with a new adapter that trains and as yet changes nothing.

    Args:
        model: changed in place: its linear layers are wrapped.
        trainable: a key of `ADAPTED`.
        r: rank. alpha: the adapter is scaled by alpha / r. dropout: on the adapter's input.
        seed: draws the adapter's first factor; the second is zero.
    """
    config = LoraConfig(target_modules=ADAPTED[trainable], r=r, lora_alpha=alpha, lora_dropout=dropout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(model, config).eval()


def load_adapter(
    base: SamModel, name_or_path: str, *, revision: str | None = None, trainable: bool = False
) -> PeftModel:
    """The base model, frozen, with a saved adapter in place."""
    try:
        return PeftModel.from_pretrained(
            base, resolve_model(name_or_path), revision=revision, is_trainable=trainable
        ).eval()
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        told = first_line(error)
    raise UserError(
        f"{name_or_path}: does not fit its base model, or is damaged ({told});"
        " copy the adapter again, or mend base_model_name_or_path"
    )


def first_line(error: Exception) -> str:
    """What an error says first; libraries go on for a page."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def merge_adapter(model: PeftModel) -> SamModel:
    """The base model with the adapter added to its weights: a plain `SamModel` again, that knows of no adapter."""
    merged = model.merge_and_unload()
    for trace in ("peft_config", "_hf_peft_config_loaded"):
        merged.__dict__.pop(trace, None)
    return merged.requires_grad_(True).eval()


def save_adapter(model: PeftModel, directory: str | os.PathLike) -> None:
    """Write the adapter alone. A base with a short name is saved by it, not by where it lies here."""
    config = model.peft_config[model.active_adapter]
    base = config.base_model_name_or_path
    name = Path(base or "").name
    if (name == PACKAGED_MODEL or pretrained_name(name)) and base == resolve_model(name):
        config.base_model_name_or_path = name
    # No embedding is adapted; peft would look on the Hub for the base model's to be sure.
    model.save_pretrained(directory, safe_serialization=True, save_embedding_layers=False)
    config.base_model_name_or_path = base


def check_same_adapter(name: str, config: PeftConfig, trainable: str, *, r: int, alpha: float) -> None:
    """Raise `UserError` when a saved adapter cannot be trained on with these settings."""
    found = {"trainable": _trainable_of(config), "lora_r": config.r, "lora_alpha": config.lora_alpha}
    for key, wanted in (("trainable", trainable), ("lora_r", r), ("lora_alpha", alpha)):
        if found[key] != wanted:
            raise UserError(
                f"{key}: {wanted}, but the adapter in {name} has {found[key]}; give the same, or merge it first"
            )


def _trainable_of(config: PeftConfig) -> str:
    return next((name for name, target in ADAPTED.items() if target == config.target_modules), "other layers")
