"""A small plain `SamModel` that is to give a large one's embeddings: a ViT of its own, everything else the teacher's."""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SamConfig, SamModel, SamProcessor, SamVisionConfig

from visionsam_hf.data.errors import UserError

# What a student has where nothing else is said: relative positions would make its attention several times as slow.
_SIZES = {
    "image_size": 256, "patch_size": 16, "hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 3,
    "window_size": 0, "global_attn_indexes": [], "use_rel_pos": False, "initializer_range": 0.02, "layer_norm_eps": 1e-6,
}  # fmt: skip
_OF_THE_TEACHER = ("output_channels", "num_pos_feats", "scale")


def make_student(
    teacher: SamModel,
    processor: SamProcessor,
    vision_config: Mapping[str, Any],
    *,
    start: SamModel | None = None,
    seed: int = 0,
) -> tuple[SamModel, SamProcessor]:
    """A student and its processor; teacher and start stay as they are.

    The prompt encoder, the mask decoder and the preprocessing are the teacher's, and so is whatever fits of the neck, the
    convolutions after the ViT that every SAM has.

    Args:
        teacher: any `SamModel`, also a MobileSAM.
        processor: the teacher's.
        vision_config: sizes of the ViT, fields of `SamVisionConfig`; those left out are as `visionsam distil --help` says.
        start: a SAM whose encoder the student starts from, of these sizes but for `image_size`; None draws random weights.
        seed: of what is drawn.

    Raises:
        UserError: sizes that cannot be, or a start that is no plain SAM.
    """
    if start is not None and type(start.config.vision_config) is not SamVisionConfig:
        raise UserError("student: its encoder is no SamVisionEncoder; give a plain SAM, or leave it out")
    sizes = {**(_SIZES if start is None else start.config.vision_config.to_dict()), **vision_config}
    vision = _vision_config({**sizes, **{key: getattr(teacher.config.vision_config, key) for key in _OF_THE_TEACHER}})
    prompts = copy.deepcopy(teacher.config.prompt_encoder_config)
    prompts.image_size, prompts.patch_size = vision.image_size, vision.patch_size
    prompts.image_embedding_size = vision.image_size // vision.patch_size
    decoder = copy.deepcopy(teacher.config.mask_decoder_config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder))
        _draw(student.vision_encoder)
    _take(student, teacher.state_dict(), but="vision_encoder")
    _take(student.vision_encoder.neck, teacher.vision_encoder.neck.state_dict())
    if start is not None:
        own = student.vision_encoder.state_dict()
        learned = start.vision_encoder.state_dict()
        _take(student.vision_encoder, {name: _on_grid(name, value, own[name].shape) for name, value in learned.items()})
    return student.eval(), resized_processor(processor, vision.image_size, prompts.image_embedding_size)


def _vision_config(values: Mapping[str, Any]) -> SamVisionConfig:
    known = SamVisionConfig().to_dict()
    if unknown := next((name for name in values if name not in known), None):
        raise UserError(f"vision_config: {unknown!r} is no field of SamVisionConfig; mend or remove it")
    values = {**values, "mlp_dim": values.get("mlp_dim") or int(values["hidden_size"] * values.get("mlp_ratio", 4))}
    if values["hidden_size"] % values["num_attention_heads"] or values["hidden_size"] % 4:
        raise UserError(
            f"vision_config: hidden_size {values['hidden_size']} is no multiple of 4 and of num_attention_heads"
            f" {values['num_attention_heads']}; change one of them"
        )
    if values["image_size"] % values["patch_size"]:
        raise UserError(
            f"vision_config: image_size {values['image_size']} is not a multiple of patch_size {values['patch_size']}"
        )
    return SamVisionConfig(**values)


def _draw(encoder: nn.Module) -> None:
    """PyTorch's own initialisation, as in Meta's code; the library's fixed 0.02 shrinks the signal of narrow layers."""
    for module in encoder.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.reset_parameters()
    if encoder.pos_embed is not None:
        with torch.no_grad():
            encoder.pos_embed.copy_(sine_positions(*encoder.pos_embed.shape[1:]))


def sine_positions(height: int, width: int, channels: int) -> Tensor:
    """(1, height, width, channels) float32 sines and cosines of a cell's column and row, so that near cells look alike.

    A quarter of the channels each, with wavelengths from 2 pi to 20,000 pi cells in equal ratios (Vaswani et al., 2017).
    """
    waves = torch.exp(torch.arange(channels // 4) * (-math.log(10_000.0) / (channels // 4)))
    columns = (torch.arange(width)[:, None] * waves).expand(height, -1, -1)
    rows = (torch.arange(height)[:, None] * waves).unsqueeze(1).expand(-1, width, -1)
    return torch.cat([columns.sin(), columns.cos(), rows.sin(), rows.cos()], dim=-1).unsqueeze(0)


def _on_grid(name: str, learned: Tensor, shape: torch.Size) -> Tensor:
    """Positions learned on a grid of another side go where they were in the picture (FixRes, Touvron et al., 2019)."""
    if learned.shape != shape and name.endswith("pos_embed"):  # (1, grid, grid, channels)
        spread = F.interpolate(learned.permute(0, 3, 1, 2), shape[1:3], mode="bicubic", align_corners=False)
        return spread.permute(0, 2, 3, 1)
    if learned.shape != shape and name.endswith(("rel_pos_h", "rel_pos_w")):  # (2 grid - 1, channels)
        return F.interpolate(learned.T[None], shape[0], mode="linear", align_corners=False)[0].T
    return learned


def _take(module: nn.Module, weights: Mapping[str, Tensor], *, but: str = "\0") -> None:
    """Copy those weights that the module has in the same shape."""
    own = module.state_dict()
    fitting = {
        name: value.float()
        for name, value in weights.items()
        if not name.startswith(but) and name in own and own[name].shape == value.shape
    }
    module.load_state_dict(fitting, strict=False)


def resized_processor(processor: SamProcessor, side: int, grid: int) -> SamProcessor:
    """A copy of a processor for squares of `side` pixels that an encoder turns into `grid` x `grid` cells."""
    processor = copy.deepcopy(processor)
    images, mask = processor.image_processor, 4 * grid
    images.size, images.mask_size = {"longest_edge": side}, {"longest_edge": mask}
    images.pad_size, images.mask_pad_size = {"height": side, "width": side}, {"height": mask, "width": mask}
    return processor
