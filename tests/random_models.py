"""Small random models of SAM's family, saved as their checkpoints are."""

import json

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    EdgeTamConfig,
    EdgeTamModel,
    PreTrainedConfig,
    PreTrainedModel,
    Sam2Config,
    Sam2Model,
    Sam2VideoConfig,
    Sam2VideoModel,
    SamHQConfig,
    SamHQModel,
    SamHQProcessor,
    SamImageProcessorPil,
)
from transformers.modeling_outputs import BaseModelOutput

SIDE = 64
_PROMPTS = dict(hidden_size=16, image_size=SIDE, patch_size=16, mask_input_channels=4)
_DECODER = dict(hidden_size=16, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=16)
_PYRAMID = dict(
    backbone_channel_list=[64, 32, 16, 8], backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]], fpn_hidden_size=16
)
_HIERA = dict(
    model_type="sam2_hiera_det_model", hidden_size=8, num_attention_heads=1, image_size=[SIDE, SIDE],
    blocks_per_stage=[1, 1, 2, 1], embed_dim_per_stage=[8, 16, 32, 64], num_attention_heads_per_stage=[1, 1, 2, 2],
    window_size_per_stage=[8, 4, 4, 2], global_attention_blocks=[3], window_positional_embedding_background_size=[2, 2],
)  # fmt: skip


class TinyPyramidConfig(PreTrainedConfig):
    model_type = "tiny_pyramid"


class TinyPyramid(PreTrainedModel):
    """Stands in for EdgeTAM's backbone, which is timm's: four maps, each half as large as the one before."""

    config_class = TinyPyramidConfig

    def __init__(self, config):
        super().__init__(config)
        channels = [3, 8, 16, 32, 64]
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, 4 if place == 0 else 2, stride=4 if place == 0 else 2)
            for place, (before, after) in enumerate(zip(channels, channels[1:]))
        )
        self.post_init()

    def forward(self, pixel_values, **kwargs):
        maps = []
        for layer in self.layers:
            pixel_values = layer(pixel_values)
            maps.append(pixel_values)
        return BaseModelOutput(last_hidden_state=maps)


AutoConfig.register("tiny_pyramid", TinyPyramidConfig, exist_ok=True)
AutoModel.register(TinyPyramidConfig, TinyPyramid, exist_ok=True)


def _sam_hq():
    vision = dict(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, output_channels=16, num_pos_feats=8,
        image_size=SIDE, patch_size=16, window_size=2, global_attn_indexes=[1], initializer_range=0.2,
    )  # fmt: skip
    decoder = _DECODER | {"vit_dim": 16}
    return SamHQModel(SamHQConfig(vision_config=vision, prompt_encoder_config=_PROMPTS, mask_decoder_config=decoder))


def _sam2():
    vision = dict(model_type="sam2_vision_model", backbone_config=_HIERA, **_PYRAMID)
    return Sam2Model(Sam2Config(vision_config=vision, prompt_encoder_config=_PROMPTS, mask_decoder_config=_DECODER))


def _sam2_video():
    vision = dict(model_type="sam2_vision_model", backbone_config=_HIERA, **_PYRAMID)
    memory = dict(
        memory_encoder_hidden_size=16, memory_attention_hidden_size=16, memory_attention_feed_forward_hidden_size=16,
        memory_encoder_output_channels=16, mask_downsampler_embed_dim=16, memory_fuser_embed_dim=16,
        memory_fuser_intermediate_dim=16, memory_attention_rope_feat_sizes=[4, 4],
    )  # fmt: skip
    parts = dict(vision_config=vision, prompt_encoder_config=_PROMPTS, mask_decoder_config=_DECODER)
    return Sam2VideoModel(Sam2VideoConfig(**parts, image_size=SIDE, **memory))


def _edgetam():
    vision = dict(model_type="edgetam_vision_model", backbone_config={"model_type": "tiny_pyramid"}, **_PYRAMID)
    parts = dict(vision_config=vision, prompt_encoder_config=_PROMPTS, mask_decoder_config=_DECODER)
    return EdgeTamModel(EdgeTamConfig(**parts))


MODELS = {"sam_hq": _sam_hq, "sam2": _sam2, "sam2_video": _sam2_video, "edgetam": _edgetam}


def write_promptable(directory, family):
    """A random model of a family and its preprocessing, in a directory."""
    torch.manual_seed(0)
    model = MODELS[family]()
    with torch.no_grad():  # random features as far apart as pixels are, so that masks depend on the prompt
        for name, parameter in model.named_parameters():
            if "positional_embedding" in name or "point_embed" in name or "mask_tokens" in name or "iou_token" in name:
                parameter.normal_()
            elif parameter.ndim > 1:
                parameter.normal_(std=0.3)
    model.save_pretrained(directory)
    if family == "sam_hq":
        pad = {"height": SIDE, "width": SIDE}
        SamHQProcessor(SamImageProcessorPil(size={"longest_edge": SIDE}, pad_size=pad)).save_pretrained(directory)
    else:
        settings = {
            "image_processor_type": "Sam2ImageProcessor", "size": {"height": SIDE, "width": SIDE}, "resample": 2,
            "rescale_factor": 1 / 255, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
        }  # fmt: skip
        (directory / "preprocessor_config.json").write_text(json.dumps(settings))
    return str(directory)
