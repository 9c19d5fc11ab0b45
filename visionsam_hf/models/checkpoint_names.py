"""From the names of Meta's code to those of transformers' `SamModel`, and a config from nothing but names and shapes.

Everybody who trained a SAM in Meta's code (SAM, MedSAM, MobileSAM, LiteMedSAM) has the same names for the prompt encoder
and the mask decoder; the image encoder is SAM's ViT or MobileSAM's TinyViT.
"""

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import SamConfig

from visionsam_hf.models.mobile_sam_config import MobileSamConfig

Weights = Mapping[str, Tensor]

# What a checkpoint may hold beside the model's weights: TinyViT's classifier, and constants that older code saved.
_NOT_USED = re.compile(
    r"image_encoder\.(norm_head|head)\.(weight|bias)|.*\.attention_bias_idxs|pixel_mean|pixel_std"
)
_BATCH_NORM = re.compile(r".*\.bn\.(weight|bias|running_mean|running_var|num_batches_tracked)")
_PROMPTS_AND_MASKS = [
    (r"prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix", "shared_image_embedding.positional_embedding"),
    (r"prompt_encoder\.point_embeddings\.", "prompt_encoder.point_embed."),
    (r"prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
    (r"prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
    (r"prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
    (r"prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
    (r"prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
    (r"mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
    (r"mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
    (r"mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
    (r"(mask_decoder\.transformer\..*)norm(\d|_final_attn)\.", r"\1layer_norm\2."),
]
_NECK = [
    (r"image_encoder\.neck\.0\.", "vision_encoder.neck.conv1."),
    (r"image_encoder\.neck\.1\.", "vision_encoder.neck.layer_norm1."),
    (r"image_encoder\.neck\.2\.", "vision_encoder.neck.conv2."),
    (r"image_encoder\.neck\.3\.", "vision_encoder.neck.layer_norm2."),
]
_VIT = [
    (r"image_encoder\.pos_embed", "vision_encoder.pos_embed"),
    (r"image_encoder\.patch_embed\.proj\.", "vision_encoder.patch_embed.projection."),
    (r"image_encoder\.blocks\.(\d+)\.norm(\d)\.", r"vision_encoder.layers.\1.layer_norm\2."),
    (r"image_encoder\.blocks\.(\d+)\.", r"vision_encoder.layers.\1."),
]
_TINY_VIT = [
    (r"image_encoder\.patch_embed\.seq\.0\.c\.", "vision_encoder.patch_embed.conv1."),
    (r"image_encoder\.patch_embed\.seq\.2\.c\.", "vision_encoder.patch_embed.conv2."),
    (r"image_encoder\.layers\.(\d+)\.blocks\.(\d+)\.(conv\d)\.c\.", r"vision_encoder.layers.\1.blocks.\2.bottleneck.\3."),
    (r"(image_encoder\.layers\..*\.local_conv)\.c\.", r"\1."),
    (r"(image_encoder\.layers\..*\.attn)\.attention_biases", r"\1.relative_bias"),
    (r"(image_encoder\.layers\..*\.(?:attn|mlp))\.norm\.", r"\1.layer_norm."),
    (r"(image_encoder\.layers\..*\.mlp)\.fc(\d)\.", r"\1.lin\2."),
    (r"image_encoder\.layers\.", "vision_encoder.layers."),
]


def is_tiny_vit(weights: Weights) -> bool:
    """Whether the image encoder is a TinyViT, by its attention's biases."""
    return any(name.endswith(".attn.attention_biases") for name in weights)


def is_vit(weights: Weights) -> bool:
    """Whether the image encoder is SAM's ViT, by its patch embedding."""
    return "image_encoder.patch_embed.proj.weight" in weights


def split_unused(weights: Weights) -> tuple[dict[str, Tensor], list[str]]:
    """The weights of the model, and the names of what is known to be none of it."""
    used = {name: tensor for name, tensor in weights.items() if not _NOT_USED.fullmatch(name)}
    return used, sorted(set(weights) - set(used))


def fold_batch_norms(weights: Weights, *, eps: float = 1e-5) -> dict[str, Tensor]:
    """Every convolution `x.c` with a batch norm `x.bn` as one convolution with a bias.

    In inference a batch norm is gamma (y - mean) / sqrt(variance + eps) + beta, hence a scale of the kernel and a bias.

    Args:
        weights: stays as it is. A convolution that has a bias and no batch norm is kept.
        eps: of the batch norms; PyTorch's default, which TinyViT uses.

    Raises:
        KeyError: a batch norm lacks a part; the argument is its name.
    """
    folded = {name: tensor for name, tensor in weights.items() if not _BATCH_NORM.fullmatch(name)}
    for stem in sorted({name.rsplit(".bn.", 1)[0] for name in weights if _BATCH_NORM.fullmatch(name)}):
        gamma, beta, mean, variance = (
            weights[f"{stem}.bn.{part}"].double() for part in ("weight", "bias", "running_mean", "running_var")
        )
        kernel = weights[f"{stem}.c.weight"]
        scale = gamma / (variance + eps).sqrt()
        folded[f"{stem}.c.weight"] = (kernel.double() * scale.view(-1, 1, 1, 1)).to(kernel.dtype)
        folded[f"{stem}.c.bias"] = (beta - mean * scale).to(kernel.dtype)
    return folded


def new_name(name: str, *, tiny_vit: bool, last_layers: Mapping[str, int]) -> str:
    """A weight's name in a `SamModel` or `MobileSamModel`; a name that is unknown comes back as it is.

    Args:
        name: in Meta's code, batch norms folded.
        tiny_vit: which of the two image encoders it is from.
        last_layers: number of the last layer of each small MLP, from `last_layers_of`.
    """
    mlp = re.fullmatch(r"(mask_decoder\..*)\.layers\.(\d+)\.(weight|bias)", name)
    if mlp and mlp[1] in last_layers:
        number, last = int(mlp[2]), last_layers[mlp[1]]
        layer = "proj_in" if number == 0 else "proj_out" if number == last else f"layers.{number - 1}"
        return f"{mlp[1]}.{layer}.{mlp[3]}"
    merging = re.fullmatch(r"image_encoder\.layers\.(\d+)\.downsample\.(conv\d)\.c\.(weight|bias)", name)
    if merging and tiny_vit:
        # Merging ends a stage in TinyViT's code and begins the next one here, so that a stage gives what its blocks made.
        return f"vision_encoder.layers.{int(merging[1]) + 1}.merging.{merging[2]}.{merging[3]}"
    for pattern, replacement in (_TINY_VIT if tiny_vit else _VIT) + _NECK + _PROMPTS_AND_MASKS:
        name = re.sub(f"^{pattern}", replacement, name)
    return name


def last_layers_of(weights: Weights) -> dict[str, int]:
    """The number of the last layer of each of the decoder's small MLPs, by the MLP's name."""
    last: dict[str, int] = {}
    for name in weights:
        found = re.fullmatch(
            r"(mask_decoder\.(?:iou_prediction_head|output_hypernetworks_mlps\.\d+))\.layers\.(\d+)\.weight", name
        )
        if found:
            last[found[1]] = max(last.get(found[1], 0), int(found[2]))
    return last


def rename(weights: Weights) -> dict[str, tuple[str, Tensor]]:
    """New name to (old name, tensor), for weights without batch norms. Biases of attention become squares."""
    tiny_vit, last = is_tiny_vit(weights), last_layers_of(weights)
    renamed = {new_name(name, tiny_vit=tiny_vit, last_layers=last): (name, value) for name, value in weights.items()}
    for name, (old, tensor) in renamed.items():
        if name.endswith(".relative_bias"):
            renamed[name] = old, _squares(tensor)
    return renamed


def _squares(table: Tensor) -> Tensor:
    # TinyViT's code numbers the distances (rows apart, columns apart) as it meets them from the first cell: row by row.
    side = math.isqrt(table.shape[-1])
    return table.reshape(-1, side, side) if side * side == table.shape[-1] else table


def _count(weights: Weights, pattern: str) -> int:
    """One more than the largest number that the pattern's group finds in a name; 0 when it finds none."""
    return 1 + max((int(found[1]) for name in weights if (found := re.match(pattern, name))), default=-1)


def _shared_configs(weights: Weights) -> dict[str, dict]:
    """Settings of the prompt encoder and the mask decoder, which are alike in all."""
    decoder = "mask_decoder.transformer.layers.0."
    hidden = weights["mask_decoder.iou_token.weight"].shape[1]
    head = "mask_decoder.iou_prediction_head"
    inner = weights[f"{decoder}cross_attn_token_to_image.q_proj.weight"].shape[0]
    return {
        "prompt_encoder_config": {
            "hidden_size": hidden,
            "mask_input_channels": weights["prompt_encoder.mask_downscaling.3.weight"].shape[0],
            "num_point_embeddings": _count(weights, r"prompt_encoder\.point_embeddings\.(\d+)\."),
        },
        "mask_decoder_config": {
            "hidden_size": hidden,
            "mlp_dim": weights[f"{decoder}mlp.lin1.weight"].shape[0],
            "num_hidden_layers": _count(weights, r"mask_decoder\.transformer\.layers\.(\d+)\."),
            "attention_downsample_rate": hidden // inner,
            "num_multimask_outputs": weights["mask_decoder.mask_tokens.weight"].shape[0] - 1,
            "iou_head_depth": last_layers_of(weights)[head] + 1,
            "iou_head_hidden_dim": weights[f"{head}.layers.0.weight"].shape[0],
            # What Meta's decoder has, and PyTorch by default; transformers' default of 1e-6 moves logits by up to 0.07.
            "layer_norm_eps": 1e-5,
        },
    }


def vit_config(weights: Weights) -> SamConfig:
    """The config of a SAM or a MedSAM. Raises `KeyError` with the name of a weight that is not there."""
    shared = _shared_configs(weights)
    width, _, patch, _ = weights["image_encoder.patch_embed.proj.weight"].shape
    grid, depth = weights["image_encoder.pos_embed"].shape[1], _count(weights, r"image_encoder\.blocks\.(\d+)\.")
    tables = [weights[f"image_encoder.blocks.{index}.attn.rel_pos_h"] for index in range(depth)]
    sides = [(table.shape[0] + 1) // 2 for table in tables]
    everywhere = [index for index, side in enumerate(sides) if side == grid]
    vision = {
        "hidden_size": width,
        "output_channels": weights["image_encoder.neck.0.weight"].shape[0],
        "num_hidden_layers": depth,
        "num_attention_heads": width // tables[0].shape[1],
        "image_size": grid * patch,
        "patch_size": patch,
        "qkv_bias": "image_encoder.blocks.0.attn.qkv.bias" in weights,
        "mlp_dim": weights["image_encoder.blocks.0.mlp.lin1.weight"].shape[0],
        "mlp_ratio": weights["image_encoder.blocks.0.mlp.lin1.weight"].shape[0] / width,
        "window_size": next((side for side in sides if side != grid), 0),
        "global_attn_indexes": everywhere,
        "num_pos_feats": weights["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"].shape[1],
    }
    shared["prompt_encoder_config"].update(image_size=grid * patch, patch_size=patch)
    return SamConfig(vision_config=vision, **shared)


def tiny_vit_config(weights: Weights, image_size: int | None = None) -> MobileSamConfig:
    """The config of a MobileSAM or a LiteMedSAM; raises as `vit_config`, and ValueError for an impossible image size.

    Args:
        weights: batch norms folded.
        image_size: None for what it was trained with: 1024 with 3 x 3 stem convolutions, 256 with 1 x 1.
    """
    prefix, stages = "image_encoder.layers", _count(weights, r"image_encoder\.layers\.(\d+)\.")
    stem = weights["image_encoder.patch_embed.seq.0.c.weight"]
    first = weights[f"{prefix}.0.blocks.0.conv1.c.weight"]
    tables = [weights[f"{prefix}.{index}.blocks.0.attn.attention_biases"] for index in range(1, stages)]
    mlps = weights[f"{prefix}.1.blocks.0.mlp.fc1.weight"]
    whole = stem.shape[-1] == 1
    vision = {
        "image_size": image_size or (256 if whole else 1024),
        "num_channels": stem.shape[1],
        "stem_kernel_size": stem.shape[-1],
        "stem_stride": 1 if whole else 2,
        "embed_dims": [first.shape[1]]
        + [weights[f"{prefix}.{index}.blocks.0.attn.norm.weight"].shape[0] for index in range(1, stages)],
        "depths": [_count(weights, rf"image_encoder\.layers\.{index}\.blocks\.(\d+)\.") for index in range(stages)],
        "num_heads": [table.shape[0] for table in tables],
        "window_sizes": [math.isqrt(table.shape[1]) for table in tables],
        # No weight tells: TinyViT halves the grid at every merging, MobileSAM's keeps it at the last.
        "merge_strides": [2] * (stages - 2) + [1],
        "expand_ratio": first.shape[0] / first.shape[1],
        "mlp_ratio": mlps.shape[0] / mlps.shape[1],
        "output_channels": weights["image_encoder.neck.0.weight"].shape[0],
        "num_pos_feats": weights["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"].shape[1],
    }
    return MobileSamConfig(vision_config=vision, **_shared_configs(weights))


def with_tied(renamed: Mapping[str, tuple[str, Tensor]]) -> dict[str, tuple[str, Tensor]]:
    """The positional encoding under both of its names: Meta has one buffer, transformers two tied parameters."""
    shared = "shared_image_embedding.positional_embedding"
    tied = {"prompt_encoder.shared_embedding.positional_embedding": renamed[shared]} if shared in renamed else {}
    return {**renamed, **tied}


def to_float32(weights: Weights) -> dict[str, Tensor]:
    """Copies in float32 that share no memory with each other or the file."""
    return {name: tensor.detach().to(torch.float32, copy=True).contiguous() for name, tensor in weights.items()}
