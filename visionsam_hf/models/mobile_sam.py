"""MobileSAM and LiteMedSAM: transformers' `SamModel` with a TinyViT as its vision encoder.

Prompt encoder, mask decoder and everything that is done with them are SAM's own, so a `MobileSamModel` is a `SamModel`
to all that trains, predicts or exports one. This file and those that it imports by a leading dot are saved beside every
model, for who loads one without this package (`auto_classes`).
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import SamModel
from transformers.models.sam.modeling_sam import (
    SamMaskDecoder,
    SamPositionalEmbedding,
    SamPreTrainedModel,
    SamPromptEncoder,
    SamVisionEncoderOutput,
    SamVisionNeck,
)

from .mobile_sam_config import MobileSamConfig, MobileSamVisionConfig
from .tiny_vit import Stage, Stem, WindowAttention


class MobileSamPreTrainedModel(SamPreTrainedModel):
    """How the parts of a MobileSAM are initialised, loaded and split."""

    config: MobileSamConfig
    _no_split_modules = ["InvertedResidual", "AttentionBlock"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, WindowAttention):
            nn.init.zeros_(module.relative_bias)


class MobileSamVisionEncoder(MobileSamPreTrainedModel):
    """TinyViT and SAM's neck."""

    config: MobileSamVisionConfig

    def __init__(self, config: MobileSamVisionConfig) -> None:
        super().__init__(config)
        self.patch_embed = Stem(config)
        # As in a `SamVisionEncoder` without absolute positions.
        self.pos_embed = None
        self.layers = nn.ModuleList([Stage(config, index) for index in range(len(config.depths))])
        self.neck = SamVisionNeck(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.patch_embed

    def forward(
        self, pixel_values: Tensor, output_hidden_states: bool | None = None, **kwargs: Any
    ) -> SamVisionEncoderOutput:
        """Embed images.

        Args:
            pixel_values: (B, 3, image_size, image_size) as the processor gives them.
            output_hidden_states: also return the maps inside: the stem's, and each stage's after its last block.

        Returns:
            `last_hidden_state`: (B, output_channels, grid, grid), grid = image_size // patch_size; `hidden_states`: None
            or a tuple of 1 + len(depths) maps (B, C, h, w): for MobileSAM 64 channels at a quarter of the image's side
            (twice), 128 at an eighth, 160 and 320 at a sixteenth.

        Raises:
            ValueError: the images are of another size than the config's.
        """
        side = self.config.image_size
        if tuple(pixel_values.shape[-2:]) != (side, side):
            raise ValueError(f"pixel_values are {tuple(pixel_values.shape)}, but this model sees {side} x {side} pixels")
        pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        states = [self.patch_embed(pixel_values)]
        for layer in self.layers:
            states.append(layer(states[-1]))
        # The neck may be in a higher precision than the rest (`in_bfloat16`).
        embedding = self.neck(states[-1].permute(0, 2, 3, 1).to(self.neck.conv1.weight.dtype))
        return SamVisionEncoderOutput(
            last_hidden_state=embedding.contiguous(), hidden_states=tuple(states) if output_hidden_states else None
        )


class MobileSamModel(MobileSamPreTrainedModel, SamModel):
    """`SamModel` with a `MobileSamVisionEncoder`; everything else is inherited."""

    config: MobileSamConfig

    def __init__(self, config: MobileSamConfig) -> None:
        # Past SamModel's own, which would allocate a ViT.
        super(SamModel, self).__init__(config)
        self.shared_image_embedding = SamPositionalEmbedding(config.vision_config)
        self.vision_encoder = MobileSamVisionEncoder(config.vision_config)
        self.prompt_encoder = SamPromptEncoder(config)
        # SamMaskDecoder is no PreTrainedModel, so nobody else tells it.
        config.mask_decoder_config._attn_implementation = config._attn_implementation
        self.mask_decoder = SamMaskDecoder(config.mask_decoder_config)
        self.post_init()


def in_bfloat16(encoder: MobileSamVisionEncoder) -> MobileSamVisionEncoder:
    """A frozen copy of the encoder for filling a cache: bfloat16 but for the neck, laid out as (height, width, channels).

    On two cores with bfloat16 instructions it takes 0.55 of float32's time. Its embeddings differ by 0.8% of their norm (3%
    for LiteMedSAM); a neck in bfloat16 would double that and save nothing that could be measured. It takes bfloat16 pixels
    and gives float32 embeddings.
    """
    fast = copy.deepcopy(encoder).requires_grad_(False).eval().to(memory_format=torch.channels_last)
    fast.patch_embed.bfloat16()
    fast.layers.bfloat16()
    fast.neck.float()
    return fast


MobileSamModel.register_for_auto_class()
