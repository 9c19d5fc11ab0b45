"""SAM's prompt encoder and mask decoder for many prompts an image, all four mask tokens at once.

`SamModel.forward` returns either token 0 (`multimask_output=False`) or tokens 1 to 3, though the decoder computes all
four; asking for both doubles the cost. `predict_tokens` uses the model's own weights and returns all four, equal to
what `SamModel.forward` gives. Prompts of different kinds can share a batch.
"""

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import SamModel
from transformers.models.sam.modeling_sam import SamMaskDecoder

from visionsam_hf.fast_decoder import can_rearrange, decode_tokens

PROMPT_KINDS = ("box", "point", "point_pm")  # point_pm: a positive and a negative point


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
        fast: the rearranged decoder (`visionsam_hf.fast_decoder`); False runs the library's modules one by one, and
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
        decode = _decode_by_modules
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
    return torch.cat([logits for _, logits, _ in results])[order], torch.cat([scores for _, _, scores in results])[
        order
    ]


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


def _decode_by_modules(
    decoder: SamMaskDecoder, image: Tensor, position: Tensor, sparse: Tensor
) -> tuple[Tensor, Tensor]:
    """What `decode_tokens` computes, through the library's modules."""
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
