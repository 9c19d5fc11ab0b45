"""Random weights that can learn: for a `SamModel` from nothing, or for the decoder alone."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SamConfig, SamModel
from transformers.models.sam.modeling_sam import SamAttention, SamMaskDecoder

from visionsam_hf.models.mobile_sam import MobileSamModel
from visionsam_hf.models.mobile_sam_config import MobileSamConfig


def initialise(config: SamConfig, *, seed: int) -> SamModel:
    """A `SamModel` with random weights that can learn.

    The library's own initialisation cannot: the positional encoding is drawn with a standard deviation of half the
    hidden size, so box corners and grid cells share no smooth geometry; the token embeddings are drawn so small that
    prompts are invisible; the vision encoder's default `initializer_range` is 1e-10; and a fixed 0.02 in narrow layers
    shrinks the signal sixfold a layer. As in Meta's code, layers keep PyTorch's own initialisation, but for the positional
    encoding (`position_frequencies`) and the attention that reads it (`_compare_positions`).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = (MobileSamModel if isinstance(config, MobileSamConfig) else SamModel)(config)
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
                module.reset_parameters()
        with torch.no_grad():
            positions = model.shared_image_embedding.positional_embedding
            positions.copy_(position_frequencies(positions.shape[1]))
            # Tied on loading and saving; say so here too.
            model.prompt_encoder.shared_embedding.positional_embedding = positions
            prompts, decoder = model.prompt_encoder, model.mask_decoder
            for embedding in (*prompts.point_embed, prompts.not_a_point_embed, decoder.iou_token, decoder.mask_tokens):
                embedding.weight.normal_()
            _compare_positions(decoder, positions.shape[1])
            if model.vision_encoder.pos_embed is not None:
                model.vision_encoder.pos_embed.normal_(std=0.02)
    return model.eval()


def position_frequencies(count: int) -> Tensor:
    """(2, count) float32 frequencies of the positional encoding along x and y, in periods per half side of the image.

    Meta draws them from a normal distribution of standard deviation 1, and has a billion masks to learn from. These go
    from an eighth to one and a half in equal ratios, one half of them along x and the other along y, as the sides of a
    box do: the low ones say at once which side of a corner a cell is on, wherever it is, and the high ones say it to a
    fraction of a cell.
    """
    along_x, along_y = (torch.logspace(math.log10(0.12), math.log10(1.5), n) for n in (count // 2, count - count // 2))
    return torch.stack([F.pad(along_x, (0, len(along_y))), F.pad(along_y, (len(along_x), 0))])


def _compare_positions(decoder: SamMaskDecoder, count: int, gain: float = 1.5) -> None:
    """Let the attention between image and tokens compare positions from the start.

    Random projections of two positional encodings have a random product; what every box needs to know is a difference of
    coordinates. Queries and keys of a head get pairs (sin wx, cos wx) of the encoding, on top of what was drawn: equal on
    both sides, their product is cos w(x - x'), how near two places are; turned by a quarter on one side, it is
    sin w(x - x'), which of them comes first. From image to tokens one head compares x, one y, and two look nearby; from
    tokens to image two look nearby. A mimetic initialisation (Trockman and Kolter, 2023); all of it is trained.

    Args:
        decoder: changed in place, if its attention has the four heads.
        count: the positional encoding's frequencies, `position_frequencies(count)`.
        gain: weight of a pair on either side.
    """
    heads = decoder.transformer.final_attn_token_to_image.num_attention_heads
    if heads < 4:
        return
    along_x, along_y = torch.arange(count // 2), torch.arange(count // 2, count)

    def spread(frequencies: Tensor, number: int) -> list[int]:
        return frequencies[torch.linspace(1, len(frequencies) - 1, number).round().long()].tolist()

    def set_head(attention: SamAttention, head: int, frequencies: Sequence[int], *, order: bool) -> None:
        query, key = attention.q_proj, attention.k_proj
        width = query.out_features // attention.num_attention_heads
        for row, frequency in zip(range(head * width, (head + 1) * width - 1, 2), frequencies):
            sine, cosine = frequency, count + frequency
            for layer in (query, key):
                layer.weight[row : row + 2] *= 0.3
                layer.bias[row : row + 2] = 0
            query.weight[row, sine] += gain
            query.weight[row + 1, cosine] += gain
            key.weight[row, cosine if order else sine] += gain
            key.weight[row + 1, sine if order else cosine] += -gain if order else gain

    from_image = [layer.cross_attn_image_to_token for layer in decoder.transformer.layers]
    from_tokens = [layer.cross_attn_token_to_image for layer in decoder.transformer.layers]
    from_tokens.append(decoder.transformer.final_attn_token_to_image)
    pairs = from_image[0].q_proj.out_features // heads // 2
    xs, ys = spread(along_x, pairs), spread(along_y, pairs)
    both = [frequency for pair in zip(xs, ys) for frequency in pair]
    for attention in from_image:
        set_head(attention, 0, xs, order=True)
        set_head(attention, 1, ys, order=True)
    for attention, first in [(attention, 2) for attention in from_image] + [(attention, 0) for attention in from_tokens]:
        set_head(attention, first, both[:pairs], order=False)
        set_head(attention, first + 1, both[pairs:], order=False)


def with_fresh_decoder(model: SamModel, *, seed: int) -> SamModel:
    """The model's vision encoder with everything else, positional encoding included, as `initialise` draws it."""
    fresh = initialise(model.config, seed=seed)
    fresh.vision_encoder.load_state_dict(model.vision_encoder.state_dict())
    return fresh
