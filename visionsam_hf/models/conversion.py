"""Original SAM checkpoints as directories that `from_pretrained` loads: safetensors, config, processor and a card.

| checkpoint | becomes |
|---|---|
| MobileSAM's `mobile_sam.pt`, or its encoder and decoder as ONNX files | `MobileSamModel`, 1024 pixels or as asked |
| LiteMedSAM's `lite_medsam.pth` | `MobileSamModel`, 256 pixels, images stretched to [0, 1] |
| Meta's `sam_vit_b/l/h*.pth`, MedSAM's `medsam_vit_b.pth` | `SamModel` |

What a file is shows in its weights' names and shapes; its own name is not looked at.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import SamConfig, SamModel

from visionsam_hf.data.errors import UserError
from visionsam_hf.models.checkpoint_files import read_onnx_pair, read_pickled
from visionsam_hf.models.checkpoint_names import (
    fold_batch_norms,
    is_tiny_vit,
    is_vit,
    rename,
    split_unused,
    tiny_vit_config,
    to_float32,
    vit_config,
    with_tied,
)
from visionsam_hf.models.image_processing import make_processor
from visionsam_hf.models.mobile_sam import MobileSamModel
from visionsam_hf.models.mobile_sam_config import MobileSamConfig

_VIT_NAMES = {768: "SAM ViT-B", 1024: "SAM ViT-L", 1280: "SAM ViT-H"}


@dataclass(frozen=True)
class Conversion:
    """What a checkpoint was found to be, and where it is now.

    Attributes:
        name: of the architecture, as "MobileSAM" or "SAM ViT-B".
        directory: what `from_pretrained` loads.
        model_type: "mobile_sam" or "sam".
        image_size: side of the padded square, in pixels. parameters: how many numbers it has.
        sources: file name to sha256.
        unused: names of weights that are no part of the model, as TinyViT's classifier.
        min_max: whether images are stretched to [0, 1] by their own range.
    """

    name: str
    directory: Path
    model_type: str
    image_size: int
    parameters: int
    sources: dict[str, str]
    unused: tuple[str, ...]
    min_max: bool

    def __str__(self) -> str:
        files, note = " and ".join(self.sources), f"; {len(self.unused)} weights unused" if self.unused else ""
        return (
            f"{files}: {self.name}, {self.parameters / 1e6:.1f} million parameters,"
            f" {self.image_size} pixels{note}; written to {self.directory}"
        )


def convert_checkpoint(
    source: str | Path, output_dir: str | Path, *, image_size: int | None = None, min_max: bool | None = None
) -> Conversion:
    """Write an original checkpoint as a model directory. Nothing in it is executed, and every weight is accounted for.

    Args:
        source: a `.pt` or `.pth` file, or the directory of the two ONNX files.
        output_dir: becomes model.safetensors, config.json, the processor and README.md.
        image_size: of a MobileSAM or a LiteMedSAM, which have no absolute positions; None for what it was trained with.
        min_max: stretch each image to [0, 1] by its own range. None: for LiteMedSAM. True is right for MedSAM, whose
            weights have the same names and shapes as SAM's.

    Raises:
        UserError: the source is missing, damaged, holds more than weights, or is none of the above; a weight is missing,
            unknown or of a wrong shape; the image size does not fit; the output cannot be written.
    """
    source, output_dir = Path(source), Path(output_dir)
    if source.is_dir():
        weights, files = read_onnx_pair(source)
    elif source.is_file():
        weights, files = read_pickled(source), [source]
    else:
        raise UserError(f"{source}: no such file or directory; give a checkpoint, or the directory of MobileSAM's ONNX files")
    weights, unused = split_unused(weights)
    config, weights = _understand(source, weights, image_size)
    model = _build(source, config, weights)
    vision, whole = config.vision_config, getattr(config.vision_config, "stem_stride", 0) == 1
    result = Conversion(
        name=_architecture(config),
        directory=output_dir,
        model_type=config.model_type,
        image_size=vision.image_size,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        sources={file.name: sha256(file) for file in files},
        unused=tuple(unused),
        min_max=whole if min_max is None else min_max,
    )
    _write(model, result)
    return result


def sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _understand(
    source: Path, weights: Mapping[str, Tensor], image_size: int | None
) -> tuple[SamConfig, dict[str, Tensor]]:
    """The config that names and shapes ask for, and the weights without batch norms."""
    try:
        if is_tiny_vit(weights):
            weights = fold_batch_norms(weights)
            return tiny_vit_config(weights, image_size), weights
        if is_vit(weights):
            config = vit_config(weights)
            if image_size not in (None, config.vision_config.image_size):
                raise UserError(
                    f"image_size: {image_size}, but {source} has positions for {config.vision_config.image_size} pixels;"
                    " leave it out, and reshape the model when it is loaded"
                )
            return config, dict(weights)
    except KeyError as error:
        raise UserError(f"{source}: has no weight {error.args[0]}; give a whole checkpoint of a SAM") from None
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise UserError(f"{source}: its weights make no SAM ({_first_line(error)}); mend image_size, or copy it again") from None
    some = ", ".join(sorted(weights)[:2])
    raise UserError(f"{source}: has no image encoder of SAM, MedSAM, MobileSAM or LiteMedSAM (it has {some}); give one of those")


def _build(source: Path, config: SamConfig, weights: Mapping[str, Tensor]) -> SamModel:
    """The model with these weights. Raises `UserError` when one is missing, unknown or of another shape."""
    # Without memory: the checkpoint's tensors become the parameters.
    with torch.device("meta"):
        model = MobileSamModel(config) if isinstance(config, MobileSamConfig) else SamModel(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    given = with_tied(rename(weights))
    if unknown := sorted(given[name][0] for name in set(given) - set(expected)):
        raise UserError(f"{source}: has {_listed(unknown)}, which no {_architecture(config)} has; give an original checkpoint")
    if missing := sorted(set(expected) - set(given)):
        raise UserError(f"{source}: has nothing for {_listed(missing)}; give a whole checkpoint")
    for name, shape in expected.items():
        old, tensor = given[name]
        if tuple(tensor.shape) != shape:
            raise UserError(f"{source}: {old} is {tuple(tensor.shape)}, not {shape} as its other weights ask; copy it again")
        if not torch.isfinite(tensor).all():
            raise UserError(f"{source}: {old} holds values that are no numbers; copy it again")
    model.load_state_dict(to_float32({name: tensor for name, (_, tensor) in given.items()}), strict=True, assign=True)
    model.tie_weights()
    return model.eval()


def _architecture(config: SamConfig) -> str:
    vision = config.vision_config
    if isinstance(config, MobileSamConfig):
        return "LiteMedSAM" if vision.stem_stride == 1 else "MobileSAM"
    return _VIT_NAMES.get(vision.hidden_size, f"SAM with a ViT of width {vision.hidden_size}")


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip() if str(error).strip() else type(error).__name__


def _write(model: SamModel, result: Conversion) -> None:
    grid = model.config.prompt_encoder_config.image_embedding_size
    try:
        result.directory.mkdir(parents=True, exist_ok=True)
        make_processor(result.image_size, 4 * grid, min_max=result.min_max).save_pretrained(result.directory)
        (result.directory / "README.md").write_text(_card(result), encoding="utf-8")
        model.save_pretrained(result.directory, safe_serialization=True)
    except OSError as error:
        raise UserError(f"{result.directory}: cannot be written ({error.strerror or error}); choose another directory") from None


_ABOUT = {
    "MobileSAM": "MobileSAM (Zhang et al., 2023): SAM's prompt encoder and mask decoder with a TinyViT-5M encoder distilled"
    " from SAM ViT-H.",
    "LiteMedSAM": "LiteMedSAM (Ma et al.): MobileSAM's architecture distilled from MedSAM and tuned on medical masks with box"
    " prompts.",
}


def _card(result: Conversion) -> str:
    about = _ABOUT.get(
        result.name,
        f"{result.name} (Kirillov et al., 2023), or a model tuned from it such as MedSAM (Ma et al., 2024): their weights have"
        " the same names and shapes.",
    )
    trust = ", trust_remote_code=True" if result.model_type != "sam" or result.min_max else ""
    loading = (
        "```python\nfrom transformers import AutoModel, AutoProcessor\n\n"
        f'model = AutoModel.from_pretrained("path/to/this/directory"{trust})\n'
        f'processor = AutoProcessor.from_pretrained("path/to/this/directory"{trust})\n```'
    )
    if trust:
        loading += (
            "\n\n`trust_remote_code` runs the Python files beside the weights, which are visionsam_hf's (LiteMedSAM's"
            " need opencv-python-headless); `visionsam_hf.load_model` loads the directory without running them."
        )
    steps = (
        "stretched to [0, 1] by its own smallest and largest value"
        if result.min_max
        else "normalised with ImageNet's mean and standard deviation"
    )
    files = "\n".join(f"| {name} | {digest} |" for name, digest in result.sources.items())
    unused = f"\nNot used, as no part of the model: {', '.join(result.unused)}.\n" if result.unused else ""
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: mask-generation
---
# {result.name}, {result.image_size} pixels

{about}
{result.parameters:,} parameters, converted by visionsam_hf from the file{"s" if len(result.sources) > 1 else ""}

| file | sha256 |
|---|---|
{files}
{unused}
An image is resized so that its longer side has {result.image_size} pixels, {steps}, and padded with zeros.

{loading}

## Licence
The original weights of SAM, MedSAM, MobileSAM and LiteMedSAM are under the Apache License 2.0. A file that came from
elsewhere may have been changed, or say otherwise.
"""
