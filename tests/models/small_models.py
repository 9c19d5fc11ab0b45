"""Small random models, and their weights under the names that Meta's and TinyViT's own code give them."""

import re

import torch
from transformers import SamConfig, SamModel

from visionsam_hf.models.mobile_sam import MobileSamModel
from visionsam_hf.models.mobile_sam_config import MobileSamConfig

_PROMPTS = {"hidden_size": 32, "mask_input_channels": 8}
_DECODER = {"hidden_size": 32, "mlp_dim": 48, "iou_head_hidden_dim": 24, "layer_norm_eps": 1e-5}
_MLP = r"(mask_decoder\.(?:iou_prediction_head|output_hypernetworks_mlps\.\d))\."
# New name to Meta's, spelt out here and not taken from the package.
_TO_META = [
    (r"shared_image_embedding\.positional_embedding", "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
    (r"prompt_encoder\.point_embed\.", "prompt_encoder.point_embeddings."),
    (r"prompt_encoder\.mask_embed\.conv1", "prompt_encoder.mask_downscaling.0"),
    (r"prompt_encoder\.mask_embed\.layer_norm1", "prompt_encoder.mask_downscaling.1"),
    (r"prompt_encoder\.mask_embed\.conv2", "prompt_encoder.mask_downscaling.3"),
    (r"prompt_encoder\.mask_embed\.layer_norm2", "prompt_encoder.mask_downscaling.4"),
    (r"prompt_encoder\.mask_embed\.conv3", "prompt_encoder.mask_downscaling.6"),
    (r"mask_decoder\.upscale_conv1", "mask_decoder.output_upscaling.0"),
    (r"mask_decoder\.upscale_layer_norm", "mask_decoder.output_upscaling.1"),
    (r"mask_decoder\.upscale_conv2", "mask_decoder.output_upscaling.3"),
    (r"(mask_decoder\.transformer\.layers\.\d\.)layer_norm(\d)", r"\1norm\2"),
    (r"mask_decoder\.transformer\.layer_norm_final_attn", "mask_decoder.transformer.norm_final_attn"),
    (_MLP + r"layers\.0", r"\1.layers.1"),
    (_MLP + "proj_in", r"\1.layers.0"),
    (_MLP + "proj_out", r"\1.layers.2"),
    (r"vision_encoder\.neck\.conv1", "image_encoder.neck.0"),
    (r"vision_encoder\.neck\.layer_norm1", "image_encoder.neck.1"),
    (r"vision_encoder\.neck\.conv2", "image_encoder.neck.2"),
    (r"vision_encoder\.neck\.layer_norm2", "image_encoder.neck.3"),
]
_VIT_TO_META = [
    (r"vision_encoder\.pos_embed", "image_encoder.pos_embed"),
    (r"vision_encoder\.patch_embed\.projection", "image_encoder.patch_embed.proj"),
    (r"vision_encoder\.layers\.(\d+)\.layer_norm(\d)", r"image_encoder.blocks.\1.norm\2"),
    (r"vision_encoder\.layers\.(\d+)", r"image_encoder.blocks.\1"),
]
_TINY_VIT_TO_META = [
    (r"vision_encoder\.patch_embed\.conv1", "image_encoder.patch_embed.seq.0.c"),
    (r"vision_encoder\.patch_embed\.conv2", "image_encoder.patch_embed.seq.2.c"),
    (r"vision_encoder\.layers\.1\.merging\.(conv\d)", r"image_encoder.layers.0.downsample.\1.c"),
    (r"vision_encoder\.layers\.2\.merging\.(conv\d)", r"image_encoder.layers.1.downsample.\1.c"),
    (r"vision_encoder\.layers\.3\.merging\.(conv\d)", r"image_encoder.layers.2.downsample.\1.c"),
    (r"vision_encoder\.layers\.0\.blocks\.(\d)\.bottleneck\.(conv\d)", r"image_encoder.layers.0.blocks.\1.\2.c"),
    (r"vision_encoder\.(layers\.\d\.blocks\.\d)\.local_conv", r"image_encoder.\1.local_conv.c"),
    (r"vision_encoder\.(layers\.\d\.blocks\.\d)\.attn\.relative_bias", r"image_encoder.\1.attn.attention_biases"),
    (r"vision_encoder\.(layers\.\d\.blocks\.\d)\.(attn|mlp)\.layer_norm", r"image_encoder.\1.\2.norm"),
    (r"vision_encoder\.(layers\.\d\.blocks\.\d)\.mlp\.lin(\d)", r"image_encoder.\1.mlp.fc\2"),
    (r"vision_encoder\.", "image_encoder."),
]


def mobile_config(image_size: int = 64, *, stem: int = 3) -> MobileSamConfig:
    """Every part of a MobileSAM, narrow and with two blocks at most; `stem` 1 for LiteMedSAM's stem."""
    return MobileSamConfig(
        vision_config=dict(
            image_size=image_size, stem_kernel_size=stem, stem_stride=2 if stem == 3 else 1, embed_dims=[8, 16, 24, 32],
            depths=[1, 2, 1, 1], num_heads=[2, 3, 4], window_sizes=[3, 4, 3], output_channels=32, num_pos_feats=16,
        ),
        prompt_encoder_config=_PROMPTS,
        mask_decoder_config=_DECODER,
    )


def vit_config(depth: int = 3) -> SamConfig:
    """A SAM with a ViT, shrunk: windows of 2 in a 4 x 4 grid, global attention in the last layer."""
    return SamConfig(
        vision_config=dict(
            hidden_size=24, num_hidden_layers=depth, num_attention_heads=2, image_size=64, patch_size=16, window_size=2,
            global_attn_indexes=[depth - 1], output_channels=32, num_pos_feats=16, mlp_ratio=2.0,
        ),
        prompt_encoder_config={**_PROMPTS, "image_size": 64, "patch_size": 16},
        mask_decoder_config=_DECODER,
    )


def random_model(config: SamConfig, seed: int = 0) -> SamModel:
    """A model whose every parameter is drawn, none of them zero or one."""
    model = MobileSamModel(config) if isinstance(config, MobileSamConfig) else SamModel(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 4
            parameter.normal_(std=fan_in**-0.5, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)
        model.prompt_encoder.shared_embedding.positional_embedding = model.shared_image_embedding.positional_embedding
    return model.eval()


def meta_weights(model: SamModel) -> dict[str, torch.Tensor]:
    """The model's weights under Meta's names; a TinyViT's convolutions with batch norms that amount to their biases."""
    mobile = isinstance(model, MobileSamModel)
    weights = {}
    for name, tensor in model.state_dict().items():
        if name == "prompt_encoder.shared_embedding.positional_embedding":
            continue
        for pattern, replacement in _TO_META + (_TINY_VIT_TO_META if mobile else _VIT_TO_META):
            name = re.sub(f"^{pattern}", replacement, name)
        weights[name] = tensor.flatten(1) if name.endswith("attention_biases") else tensor
    return _unfolded(weights) if mobile else weights


def _unfolded(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    result = {name: tensor for name, tensor in weights.items() if not re.search(r"\.c\.(weight|bias)$", name)}
    for stem in [name[: -len(".c.weight")] for name in weights if name.endswith(".c.weight")]:
        kernel, bias = weights[f"{stem}.c.weight"], weights[f"{stem}.c.bias"]
        gamma, variance = (0.5 + torch.rand(len(bias), generator=generator) for _ in range(2))
        mean, scale = torch.randn(len(bias), generator=generator), gamma / (variance + 1e-5).sqrt()
        result[f"{stem}.c.weight"] = kernel / scale.view(-1, 1, 1, 1)
        result |= {f"{stem}.bn.weight": gamma, f"{stem}.bn.bias": bias + mean * scale}
        result |= {f"{stem}.bn.running_mean": mean, f"{stem}.bn.running_var": variance}
        result[f"{stem}.bn.num_batches_tracked"] = torch.tensor(100)
    return result
