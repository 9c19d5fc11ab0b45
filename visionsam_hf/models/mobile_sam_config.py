"""Settings of MobileSAM and LiteMedSAM: SAM with a TinyViT encoder.

One class for both, because they differ in two numbers: MobileSAM's two stem convolutions are 3 x 3 with stride 2, so an
image of 1024 pixels becomes a grid of 64 x 64; LiteMedSAM's are 1 x 1 with stride 1, and its images 256 pixels.
"""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig, SamConfig, SamMaskDecoderConfig, SamPromptEncoderConfig


@strict
class MobileSamVisionConfig(PreTrainedConfig):
    """TinyViT-5M as MobileSAM has it (Wu et al., 2022; Zhang et al., 2023).

    Attributes:
        image_size: side of the padded square in pixels, a multiple of `patch_size`. There are no absolute positions, so
            the same weights take any.
        stem_kernel_size, stem_stride: of the two convolutions that make the first grid: 3 and 2, or 1 and 1 (LiteMedSAM).
        embed_dims: channels of the four stages; the stem's inner width is half the first.
        depths: blocks of the four stages. The first stage has convolutions, the others attention.
        num_heads, window_sizes: of the attention stages, hence one fewer.
        merge_strides: of the patch merging before each attention stage.
        expand_ratio: of the first stage's inverted residuals.
        mlp_ratio: of the attention blocks' perceptrons.
        output_channels: of the embeddings.
        num_pos_feats: frequencies of the prompts' positional encoding, half of the embeddings' channels.
    """

    base_config_key = "vision_config"
    model_type = "mobile_sam_vision_model"

    image_size: int = 1024
    num_channels: int = 3
    stem_kernel_size: int = 3
    stem_stride: int = 2
    embed_dims: list[int] | tuple[int, ...] = (64, 128, 160, 320)
    depths: list[int] | tuple[int, ...] = (2, 2, 6, 2)
    num_heads: list[int] | tuple[int, ...] = (4, 5, 10)
    window_sizes: list[int] | tuple[int, ...] = (7, 14, 7)
    merge_strides: list[int] | tuple[int, ...] = (2, 2, 1)
    expand_ratio: float = 4.0
    mlp_ratio: float = 4.0
    output_channels: int = 256
    num_pos_feats: int = 128
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        stages = len(self.embed_dims)
        if not (len(self.depths) == stages == 1 + len(self.num_heads)):
            raise ValueError("embed_dims and depths want a number a stage, num_heads one for all stages but the first")
        if not (len(self.window_sizes) == len(self.merge_strides) == stages - 1):
            raise ValueError("window_sizes and merge_strides want a number for all stages but the first")
        if self.image_size < self.patch_size or self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of {self.patch_size}, a cell of the grid")

    @property
    def patch_size(self) -> int:
        """Pixels a cell of the embeddings' grid, along one side: 16, or 4 for LiteMedSAM."""
        size = self.stem_stride**2
        for stride in self.merge_strides:
            size *= stride
        return size

    @property
    def hidden_size(self) -> int:
        """Channels that the neck reads."""
        return self.embed_dims[-1]

    @property
    def num_hidden_layers(self) -> int:
        """Stages; `hidden_states` has one map more."""
        return len(self.depths)

    @property
    def scale(self) -> float:
        """Standard deviation of the positional encoding's frequencies when they are drawn, as in Meta's code."""
        return 1.0


@strict
class MobileSamConfig(SamConfig):
    """A MobileSAM: `SamConfig` with a `MobileSamVisionConfig`.

    The prompt encoder's `image_size`, `patch_size` and `image_embedding_size` follow from the vision encoder's; what is
    given for them is overwritten, so that they cannot disagree.
    """

    model_type = "mobile_sam"
    sub_configs_defaults = {
        "prompt_encoder_config": SamPromptEncoderConfig,
        "mask_decoder_config": SamMaskDecoderConfig,
        "vision_config": MobileSamVisionConfig,
    }

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        vision, prompts = self.vision_config, self.prompt_encoder_config
        prompts.image_size, prompts.patch_size = vision.image_size, vision.patch_size
        prompts.image_embedding_size = vision.image_size // vision.patch_size
        # Where the Auto classes find the code, in the files beside the weights. Overwritten too: a model tuned from one on
        # the Hub would else name the other's repository.
        model = "mobile_sam.MobileSamModel"
        self.auto_map = {
            "AutoConfig": "mobile_sam_config.MobileSamConfig", "AutoModel": model, "AutoModelForMaskGeneration": model,
        }
