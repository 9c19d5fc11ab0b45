"""SAM's prompt encoder and mask decoder for many prompts an image, all four mask tokens at once.

`SamModel.forward` returns either token 0 (`multimask_output=False`) or tokens 1 to 3, though the decoder computes all
four; asking for both doubles the cost. `predict_tokens` uses the model's own weights and returns all four, equal to
what `SamModel.forward` gives. Prompts of different kinds can share a batch.
"""

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from peft.tuners import lora
from torch import Tensor, nn
from transformers import SamModel
from transformers.models.sam.modeling_sam import SamAttention, SamMaskDecoder, SamTwoWayAttentionBlock

from visionsam_hf.data.prompts import PROMPT_KINDS


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


def predict_tokens(
    model: SamModel,
    *,
    boxes: Tensor,
    points: Tensor,
    kinds: Sequence[str],
    image_embeddings: Tensor | None = None,
    pixel_values: Tensor | None = None,
    fast: bool = True,
    decode: Callable[..., tuple[Tensor, Tensor]] = decode_tokens,
) -> tuple[Tensor, Tensor]:
    """Mask logits and predicted IoU of every mask token.

    Args:
        model: a `SamModel`.
        boxes: (B, N, 4) float32 [x1, y1, x2, y2] in pixels of the padded square; read for images of kind "box".
        points: (B, N, 2, 2) float32 (x, y) of the positive and the negative point, in pixels of the padded square.
        kinds: B prompt kinds, one an image, of `PROMPT_KINDS`.
        image_embeddings: (B, C, h, w) from the vision encoder, on its grid or a coarser one, or
        pixel_values: (B, 3, image_size, image_size).
        fast: the rearranged decoder (`visionsam_hf.models.decoder`); False runs the library's modules one by one, and
            so does a decoder whose attention has more than LoRA in it.
        decode: `decode_tokens`, or the same compiled.

    Returns:
        (B, N, 4, 4h, 4w) logits and (B, N, 4) scores; token 0 is SAM's single mask, 1 to 3 its three candidates.
    """
    if image_embeddings is None:
        image_embeddings = model.vision_encoder(pixel_values).last_hidden_state
    unknown = set(kinds) - set(PROMPT_KINDS)
    if unknown:
        raise ValueError(f"unknown prompt kind {sorted(unknown)}; use one of {PROMPT_KINDS}")
    if not (fast and can_rearrange(model.mask_decoder)):
        decode = decode_by_modules
    with _full_precision(boxes):
        position = _position(model, *image_embeddings.shape[-2:])
    results: list[tuple[list[int], Tensor, Tensor]] = []
    for kind in PROMPT_KINDS:
        rows = [row for row, value in enumerate(kinds) if value == kind]
        if rows:
            everything = len(rows) == len(kinds)
            embedding = image_embeddings if everything else image_embeddings[rows]
            with _full_precision(boxes):
                sparse, dense = _embed_prompts(model, kind, boxes[rows], points[rows])
            # Without mask prompts it is the same vector everywhere, whatever the grid.
            image = embedding + dense[:, :, :1, :1]
            results.append((rows, *decode(model.mask_decoder, image, position, sparse)))
    if len(results) == 1:
        return results[0][1:]
    order = torch.tensor([row for rows, _, _ in results for row in rows], device=boxes.device).argsort()
    _, logits, scores = zip(*results)
    return torch.cat(logits)[order], torch.cat(scores)[order]


def bind_predict_tokens(model: SamModel, *, fast: bool = True, compiled: bool = False) -> SamModel:
    """Make `model(...)` mean `predict_tokens(model, ...)`, so that wrappers (DDP, autocast, PEFT) see one forward.

    Only this instance changes: its class, weights and saved files stay a plain `SamModel`.

    Args:
        fast: as in `predict_tokens`.
        compiled: compile the fast decoder, forward and backward; takes a minute once.
    """
    decode = torch.compile(decode_tokens) if compiled else decode_tokens
    model.forward = functools.partial(predict_tokens, model, fast=fast, decode=decode)
    return model


def _position(model: SamModel, height: int, width: int) -> Tensor:
    """(1, C, height, width) float32 positional encoding of a grid over the padded square, computed once: it is frozen.

    Anything that moves or changes the parameter gives it another version or address, and a new encoding.
    """
    parameter = model.shared_image_embedding.positional_embedding
    key = (height, width, parameter.data_ptr(), parameter._version, parameter.dtype)
    known = model.__dict__.get("_grid_position")
    if known is None or known[0] != key:
        # A tensor made in inference mode could never take part in training afterwards.
        with torch.inference_mode(False), torch.no_grad():
            x, y = ((torch.arange(side, device=parameter.device) + 0.5) / side for side in (width, height))
            centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).to(parameter.dtype)
            known = (key, model.shared_image_embedding(centres).permute(2, 0, 1).unsqueeze(0).clone())
        # Not an attribute of the module: it is neither saved nor moved with it.
        model.__dict__["_grid_position"] = known
    return known[1]


def _full_precision(tensor: Tensor) -> torch.autocast:
    # Positional encodings are sines of large products: in bfloat16 they are off by 0.03 on boxes and 0.16 on the grid.
    return torch.autocast(tensor.device.type, enabled=False)


def _embed_prompts(model: SamModel, kind: str, boxes: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    if kind == "box":
        return model.prompt_encoder(input_points=None, input_labels=None, input_boxes=boxes, input_masks=None)
    points = points[:, :, : 1 if kind == "point" else 2]
    labels = torch.tensor([1, 0][: points.shape[2]], device=points.device).expand(points.shape[:3])
    return model.prompt_encoder(input_points=points, input_labels=labels, input_boxes=None, input_masks=None)


def decode_by_modules(
    decoder: SamMaskDecoder, image: Tensor, position: Tensor, sparse: Tensor
) -> tuple[Tensor, Tensor]:
    """What `decode_tokens` computes, through the library's modules, in terms that any exporter knows."""
    batch, prompts = sparse.shape[:2]
    channels, height, width = image.shape[1:]
    outputs = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([outputs.expand(batch, prompts, -1, -1), sparse.to(outputs.dtype)], dim=2)
    tokens, image = decoder.transformer(
        point_embeddings=tokens,
        image_embeddings=image.repeat_interleave(prompts, 0),
        image_positional_embeddings=position.expand(batch * prompts, -1, -1, -1),
        attention_similarity=None,
    )
    image = image.transpose(2, 3).reshape(batch * prompts, channels, height, width)
    image = decoder.activation(decoder.upscale_layer_norm(decoder.upscale_conv1(image)))
    image = decoder.activation(decoder.upscale_conv2(image))
    kernels = torch.stack(
        [mlp(tokens[:, :, 1 + index]) for index, mlp in enumerate(decoder.output_hypernetworks_mlps)], dim=2
    )
    logits = kernels @ image.reshape(batch, prompts, image.shape[1], -1)
    return logits.unflatten(-1, image.shape[-2:]), decoder.iou_prediction_head(tokens[:, :, 0])
