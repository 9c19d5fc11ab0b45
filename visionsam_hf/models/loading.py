"""Load a SAM model and its processor, reshape and save it."""

import hashlib
import os
from pathlib import Path

import torch
from accelerate import PartialState
from peft import PeftModel
from safetensors import SafetensorError
from transformers import PreTrainedModel, SamConfig, SamModel, SamProcessor

from visionsam_hf.data.errors import UserError
from visionsam_hf.data.records import looks_local, resolve_model
from visionsam_hf.models import auto_classes  # noqa: F401  load_processor finds this package's
from visionsam_hf.models.lora import find_adapter, first_line, load_adapter, merge_adapter, save_adapter
from visionsam_hf.models.mobile_sam import MobileSamModel
from visionsam_hf.models.mobile_sam_config import MobileSamConfig
from visionsam_hf.models.pretrained import find_pretrained

# Checkpoints known to fit by their Hub ids; any other of the 'sam' type does too.
BACKBONES = ("facebook/sam-vit-base", "facebook/sam-vit-large", "facebook/sam-vit-huge", "wanglab/medsam-vit-base")
# Other families by the start of their model type; none has a decoder that the trainers know.
_RELATIVES = {"sam_hq": "SAM-HQ", "sam2": "SAM 2", "edgetam": "EdgeTAM"}
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def load_model(name_or_path: str, *, revision: str | None = None) -> SamModel:
    """A `SamModel` in float32 from a directory, a Hub id, `visionsam-tiny`, the packaged model, `lite-medsam` or `mobile-sam`.

    A LoRA adapter comes merged with its base model, so whatever takes a model takes an adapter.

    Raises:
        UserError: no such model, not a SAM, or only pickled weights (which could run code, so they are not read).
    """
    find_pretrained(name_or_path)
    path = Path(resolve_model(name_or_path))
    if (adapter := find_adapter(name_or_path, revision=revision)) is not None:
        base = load_model(adapter.base_model_name_or_path)
        return merge_adapter(load_adapter(base, name_or_path, revision=revision))
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"{name_or_path}: has no config.json; give the directory of a SAM model")
        if not any((path / name).is_file() for name in _WEIGHTS):
            if any(path.glob("*.bin")) or any(path.glob("*.pt*")):
                raise UserError(f"{name_or_path}: holds pickled weights only; save them as safetensors")
            _sam_config(name_or_path, path)
            raise UserError(f"{name_or_path}: has no model.safetensors; give the directory of a saved model")
    elif looks_local(name_or_path):
        raise UserError(f"{name_or_path}: no such model; give a directory, a Hub id, visionsam-tiny, lite-medsam or mobile-sam")
    config = _sam_config(name_or_path, path, revision)
    return load_weights(model_class(config), name_or_path, str(path), revision=revision)


def model_class(config: SamConfig) -> type[SamModel]:
    """The class of models with this config: `SamModel`, or `MobileSamModel`, which is one too."""
    return MobileSamModel if isinstance(config, MobileSamConfig) else SamModel


def load_weights(cls: type[PreTrainedModel], name: str, path: str, *, revision: str | None = None) -> PreTrainedModel:
    """A model of a class of transformers in float32, from a directory or a Hub id; `name` is what the user calls it.

    Raises:
        UserError: no such model, pickled weights only (they could run code), damaged ones, or a package is missing.
    """
    try:
        return cls.from_pretrained(path, revision=revision, use_safetensors=True, dtype=torch.float32)
    except ImportError as error:
        raise UserError(f"{name}: needs a package that is missing ({first_line(error)}); install it") from None
    except SafetensorError as error:
        raise UserError(f"{name}: its weights are damaged ({first_line(error)}); copy the model again") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{name}: cannot be loaded ({first_line(error)}); check the name, and that it is saved as safetensors"
        ) from None


def _sam_config(name: str, path: Path, revision: str | None = None) -> SamConfig:
    try:
        values, _ = SamConfig.get_config_dict(path, revision=revision)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{name}: its config cannot be read ({first_line(error)}); check the name and the network"
        ) from None
    if values.get("model_type") == MobileSamConfig.model_type:
        return MobileSamConfig.from_dict(values)
    if values.get("model_type") != "sam":
        raise UserError(_not_supported(name, str(values.get("model_type"))))
    return SamConfig.from_dict(values)


def _not_supported(name: str, model_type: str) -> str:
    relative = next((shown for start, shown in _RELATIVES.items() if model_type.startswith(start)), None)
    what = (
        f"a {relative} model, which visionsam evaluate can measure but nothing here tunes"
        if relative
        else f"a '{model_type}' model"
    )
    return f"{name}: is {what}; give a SAM ('sam') checkpoint: {', '.join(BACKBONES)}, or one tuned from them"


def load_processor(name_or_path: str, *, revision: str | None = None) -> SamProcessor:
    """The `SamProcessor` saved beside a model. Raises `UserError` when there is none."""
    find_pretrained(name_or_path)
    path = Path(resolve_model(name_or_path))
    try:
        return SamProcessor.from_pretrained(path, revision=revision)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{name_or_path}: has no processor ({first_line(error)}); save SamProcessor.save_pretrained beside the model"
        ) from None


def mask_side(model: SamModel) -> int:
    """Sides of the square of mask logits, in logits' pixels: four times the embedding grid (256 for sam-vit-base)."""
    return 4 * model.config.prompt_encoder_config.image_embedding_size


def image_side(model: SamModel) -> int:
    """Sides of the padded square that the encoder sees, in pixels (1024 for sam-vit-base)."""
    return model.config.vision_config.image_size


def encoder_fingerprint(model: SamModel) -> str:
    """A hash of everything in the model that an image embedding depends on: the vision encoder's weights and settings."""
    digest = hashlib.sha256(model.config.vision_config.to_json_string(use_diff=False).encode())
    for name, tensor in sorted(model.vision_encoder.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def save_model(model: SamModel | PeftModel, processor: SamProcessor, directory: str | os.PathLike) -> None:
    """Write a directory that `AutoModel.from_pretrained` and `AutoProcessor.from_pretrained` load.

    A MobileSAM's and LiteMedSAM's get this package's code beside them, which a process without the package may use by
    `trust_remote_code=True`. Nothing here reads it.

    Of a model with an adapter only the adapter is written; `PeftModel.from_pretrained` puts it on its base.
    """
    if isinstance(model, PeftModel):
        save_adapter(model, directory)
    else:
        model.save_pretrained(directory, safe_serialization=True)
    processor.save_pretrained(directory)


def to_best_device(model: SamModel) -> SamModel:
    """The model on this process's GPU when there is one, in evaluation mode."""
    return model.to(PartialState().device).eval()
