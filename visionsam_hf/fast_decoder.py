"""SAM's mask decoder with the same weights and results in about half the arithmetic and a third of the memory traffic.

The image side of the decoder's attention has thousands of cells and the token side seven tokens, so

- a projection of the image is moved to the tokens: `q . (W x) = (W^T q) . x` for keys and queries,
  `sum a (W x) = W (sum a x)` for values. Tokens times heads are 56 columns, the projections 128.
- what only depends on the image is computed once an image, however many prompts it has;
- both transposed convolutions have stride = kernel, so they are matrix products over channels, and the cells are put
  in the order of pixels once, at the end, when one value is left of each.

ViT-B, one prompt: 2.0 GFLOP instead of 3.55. Everything is a function of the module's own parameters.
"""

import torch
import torch.nn.functional as F
from peft.tuners import lora
from torch import Tensor, nn
from transformers.models.sam.modeling_sam import SamAttention, SamMaskDecoder, SamTwoWayAttentionBlock


def decode_tokens(
    decoder: SamMaskDecoder, image: Tensor, position: Tensor, sparse: Tensor
) -> tuple[Tensor, Tensor]:
    """Mask logits and predicted IoU of all mask tokens.

    Args:
        decoder: a `SamMaskDecoder` for which `can_rearrange` holds.
        image: (B, C, h, w) image embeddings with the dense prompt embedding added.
        position: (1, C, h, w) float32 positional encoding of the grid.
        sparse: (B, P, n, C) prompt embeddings.

    Returns:
        (B, P, 4, 4h, 4w) logits and (B, P, 4) scores.
    """
    batch, prompts = sparse.shape[:2]
    height, width = image.shape[2:]
    working = _working_dtype(image)
    outputs = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    start = torch.cat([outputs.expand(batch, prompts, -1, -1), sparse.to(outputs.dtype)], dim=2)
    position = position.flatten(2).transpose(1, 2).unsqueeze(1).to(working)
    # (B, 1, N, C): shared by the image's prompts until the first block has written into it.
    cells = image.flatten(2).transpose(1, 2).unsqueeze(1).to(working)
    tokens = start
    for block in decoder.transformer.layers:
        tokens, cells = _two_way_block(block, tokens, cells, start, position)
    final = decoder.transformer.final_attn_token_to_image
    tokens = tokens + _tokens_read_image(final, tokens + start, cells + position, cells)
    tokens = decoder.transformer.layer_norm_final_attn(tokens)
    kernels = torch.stack(
        [mlp(tokens[:, :, 1 + index]) for index, mlp in enumerate(decoder.output_hypernetworks_mlps)], dim=2
    )
    logits = _upscale(decoder, cells.reshape(batch, prompts, height * width, -1), kernels)
    return _as_pixels(logits, height, width), decoder.iou_prediction_head(tokens[:, :, 0])


def can_rearrange(decoder: SamMaskDecoder) -> bool:
    """Whether the attention's projections are matrices: linear layers, also with LoRA adapters that drop nothing out."""
    attentions = [module for module in decoder.modules() if isinstance(module, SamAttention)]
    return all(
        type(layer) is nn.Linear
        or isinstance(layer, lora.Linear)
        and not layer.lora_variant
        and all(isinstance(dropout, nn.Identity) for dropout in layer.lora_dropout.values())
        for attention in attentions
        for layer in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj)
    )


def _weight(layer: nn.Module) -> Tensor:
    """The matrix of a linear layer, with what its active adapters add."""
    weight = layer.weight
    if isinstance(layer, lora.Linear) and not layer.disable_adapters and not layer.merged:
        for name in layer.active_adapters:
            if name in layer.lora_A:
                weight = weight + layer.get_delta_weight(name)
    return weight


def _working_dtype(tensor: Tensor) -> torch.dtype:
    # Under autocast every use of a float32 tensor would convert it again.
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype


def _two_way_block(
    block: SamTwoWayAttentionBlock, tokens: Tensor, cells: Tensor, start: Tensor, position: Tensor
) -> tuple[Tensor, Tensor]:
    if block.skip_first_layer_pe:
        tokens, _ = block.self_attn(query=tokens, key=tokens, value=tokens)
    else:
        placed = tokens + start
        tokens = tokens + block.self_attn(query=placed, key=placed, value=tokens)[0]
    tokens = block.layer_norm1(tokens)
    placed_cells = cells + position
    tokens = tokens + _tokens_read_image(block.cross_attn_token_to_image, tokens + start, placed_cells, cells)
    tokens = block.layer_norm2(tokens)
    tokens = block.layer_norm3(tokens + block.mlp(tokens))
    written = _image_reads_tokens(block.cross_attn_image_to_token, placed_cells, tokens + start, tokens)
    return tokens, block.layer_norm4(cells + written).to(cells.dtype)


def _heads(layer: nn.Linear, tensor: Tensor, heads: int) -> Tensor:
    """A projection of tokens, (B, P, T, C) to (B, P, T, heads, d)."""
    return layer(tensor).unflatten(-1, (heads, -1))


def _tokens_read_image(attention: SamAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Token-to-image attention; query (B, P, T, C), key and value (B, 1 | P, N, C); returns (B, P, T, C)."""
    heads = attention.num_attention_heads
    query = _heads(attention.q_proj, query, heads) * attention.scaling
    key_weight = _weight(attention.k_proj).unflatten(0, (heads, -1))
    value_weight = _weight(attention.v_proj).unflatten(0, (heads, -1))
    moved = torch.einsum("bpthd,hdc->bpthc", query, key_weight).flatten(2, 3)
    # A constant a query, which the softmax ignores; it keeps the bias in the graph, as in the library's forward.
    constant = torch.einsum("bpthd,hd->bpth", query, attention.k_proj.bias.unflatten(0, (heads, -1)))
    scores = _product(moved, key.transpose(2, 3)) + constant.flatten(2).unsqueeze(-1)
    read = _product(scores.softmax(-1), value).unflatten(2, (-1, heads))
    read = torch.einsum("bpthc,hdc->bpthd", read, value_weight).flatten(3) + attention.v_proj.bias
    return attention.out_proj(read)


def _image_reads_tokens(attention: SamAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Image-to-token attention; query (B, 1 | P, N, C), key and value (B, P, T, C); returns (B, P, N, C)."""
    heads = attention.num_attention_heads
    key = _heads(attention.k_proj, key, heads) * attention.scaling
    value = _heads(attention.v_proj, value, heads)
    query_weight = _weight(attention.q_proj).unflatten(0, (heads, -1))
    out_weight = _weight(attention.out_proj).unflatten(1, (heads, -1))
    moved = torch.einsum("bpthd,hdc->bpthc", key, query_weight).flatten(2, 3)
    constant = torch.einsum("bpthd,hd->bpth", key, attention.q_proj.bias.unflatten(0, (heads, -1)))
    # (B, P, T, heads, N): the softmax runs over the tokens, with the cells as the fast axis.
    scores = _product(moved, query.transpose(2, 3)) + constant.flatten(2).unsqueeze(-1)
    weights = scores.unflatten(2, (-1, heads)).softmax(2).flatten(2, 3)
    said = torch.einsum("bpthd,chd->bpthc", value, out_weight).flatten(2, 3)
    return weights.transpose(2, 3) @ said + attention.out_proj.bias


def _product(left: Tensor, right: Tensor) -> Tensor:
    """(B, P, m, k) @ (B, 1 | P, k, n); what prompts share is multiplied once, with their rows side by side."""
    if right.shape[1] == left.shape[1]:
        return left @ right
    return (left.flatten(1, 2) @ right.squeeze(1)).unflatten(1, left.shape[1:3])


def _upscale(decoder: SamMaskDecoder, cells: Tensor, kernels: Tensor) -> Tensor:
    """Cells (B, P, N, C) and kernels (B, P, 4, C/8) to logits (B, P, N, 2, 2, 2, 2, 4), in (row, column) pairs."""
    first, second = (
        # (in, out, row, column) of a transposed convolution to the (row, column, out) rows of a linear layer.
        convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)
        for convolution in (decoder.upscale_conv1, decoder.upscale_conv2)
    )
    norm = decoder.upscale_layer_norm
    wide = F.linear(cells, first).unflatten(-1, (2, 2, -1)) + decoder.upscale_conv1.bias
    wide = F.gelu(F.layer_norm(wide, norm.normalized_shape, norm.weight, norm.bias, norm.eps))
    wide = F.linear(wide, second).unflatten(-1, (2, 2, -1)) + decoder.upscale_conv2.bias
    wide = F.gelu(wide)
    flat = wide.flatten(2, 6) @ kernels.to(wide.dtype).transpose(2, 3)
    return flat.unflatten(2, (-1, 2, 2, 2, 2))


def _as_pixels(logits: Tensor, height: int, width: int) -> Tensor:
    """(B, P, h*w, 2, 2, 2, 2, 4) to (B, P, 4, 4h, 4w)."""
    logits = logits.unflatten(2, (height, width))
    return logits.permute(0, 1, 8, 2, 4, 6, 3, 5, 7).flatten(6, 8).flatten(3, 5)
