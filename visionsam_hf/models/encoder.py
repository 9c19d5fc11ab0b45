"""SAM's vision encoder for filling a cache: the same weights, the matrix products in 16 bits where the processor has them.

The residual stream, the layer norms, the patch embedding and the neck stay float32; linear layers and attention run in
bfloat16. The relative-position bias of an attention over 64 x 64 cells is 400 MB a layer: it is never built whole, but
for a few hundred queries at a time, into one buffer that stays in the processor's cache.

That is SAM's ViT. A MobileSAM's encoder is small enough to run in bfloat16 whole.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import SamModel
from transformers.models.sam.modeling_sam import SamVisionAttention, SamVisionLayer

from visionsam_hf.models.mobile_sam import MobileSamVisionEncoder, in_bfloat16

# Bytes of relative-position bias at a time. Measured: 4 to 16 MB a core are alike, the whole is half as slow again.
_BIAS_BYTES = 32 * 2**20


class ImageEncoder:
    """Pixels to embeddings.

    Args:
        model: its vision encoder is used, on the model's device; weights are taken as they are now.
        fast: 16-bit arithmetic if the device has it; otherwise, and with False, the library's own forward.
    """

    def __init__(self, model: SamModel, *, fast: bool = True) -> None:
        self._encoder = model.vision_encoder
        self._layers = None
        self.is_fast = fast and has_bfloat16(model.device)  # whether it computes in 16 bits
        if self.is_fast:
            if isinstance(self._encoder, MobileSamVisionEncoder):
                self._encoder = in_bfloat16(self._encoder)
                return
            with torch.inference_mode():
                self._layers = [_Layer(layer, self._grid_side) for layer in self._encoder.layers]

    @property
    def _grid_side(self) -> int:
        return self._encoder.config.image_size // self._encoder.config.patch_size

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        """(B, 3, side, side) pixels as the processor gives them to (B, C, h, w) float32 embeddings."""
        encoder = self._encoder
        if self._layers is None:
            return encoder(pixels.to(encoder.dtype)).last_hidden_state.float()
        hidden = encoder.patch_embed(pixels)
        if encoder.pos_embed is not None:
            hidden = hidden + encoder.pos_embed
        hidden = hidden.contiguous()
        for layer in self._layers:
            layer(hidden)
        return encoder.neck(hidden)


def has_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 are faster than in float32 there."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    return False


class _Layer:
    """One `SamVisionLayer` with its matrices in bfloat16."""

    def __init__(self, layer: SamVisionLayer, grid_side: int) -> None:
        self.layer, self.window = layer, layer.window_size
        attention: SamVisionAttention = layer.attn
        linear = (attention.qkv, attention.proj, layer.mlp.lin1, layer.mlp.lin2)
        self.qkv, self.proj, self.lin1, self.lin2 = (
            (module.weight.bfloat16(), None if module.bias is None else module.bias.bfloat16()) for module in linear
        )
        self.heads = attention.num_attention_heads
        side = self.window or grid_side
        self.tables = None
        if attention.use_rel_pos:
            self.tables = tuple(
                attention.get_rel_pos(side, side, table).bfloat16().transpose(1, 2).contiguous()
                for table in (attention.rel_pos_h, attention.rel_pos_w)
            )
            self.places = cell_places(side, side).to(self.qkv[0])

    def __call__(self, hidden: Tensor) -> None:
        """Adds the layer's output to `hidden`, (B, h, w, C) float32, in place."""
        layer = self.layer
        normed = layer.layer_norm1(hidden).bfloat16()
        if self.window:
            windows, padded = layer.window_partition(normed, self.window)
            attended = layer.window_unpartition(self._attend(windows), self.window, padded, hidden.shape[1:3])
        else:
            attended = self._attend(normed)
        hidden += attended
        wide = layer.mlp.act(F.linear(layer.layer_norm2(hidden).bfloat16(), *self.lin1))
        hidden += F.linear(wide, *self.lin2)

    def _attend(self, hidden: Tensor) -> Tensor:
        """Attention within each of (W, h, w, C) windows, with its projections."""
        count, height, width, channels = hidden.shape
        qkv = F.linear(hidden, *self.qkv).view(count, height * width, 3, self.heads, channels // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if self.tables is None:
            read = F.scaled_dot_product_attention(query, key, value)
        else:
            read = biased_attention(query, key, value, relative_positions(query, *self.tables), self.places)
        return F.linear(read.transpose(1, 2).reshape(count, height, width, channels), *self.proj)


def relative_positions(query: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """What a query adds for keys in each row and in each column of the grid.

    Args:
        query: (W, heads, h * w, d), unscaled.
        rows: (h, d, h) and columns: (w, d, w), a table of key offsets for each query row and column.

    Returns:
        (W, heads, h * w, h + w).
    """
    grid = query.unflatten(2, (rows.shape[0], columns.shape[0]))
    by_row = grid @ rows
    by_column = (grid.transpose(2, 3) @ columns).transpose(2, 3)
    return torch.cat([by_row, by_column], dim=-1).flatten(2, 3)


def cell_places(height: int, width: int) -> Tensor:
    """(h + w, h * w): ones where a cell of the grid lies in a row, and below where it lies in a column."""
    cell = torch.arange(height * width)
    return torch.cat([F.one_hot(cell // width, height), F.one_hot(cell % width, width)], dim=1).T.float()


def biased_attention(query: Tensor, key: Tensor, value: Tensor, relative: Tensor, places: Tensor) -> Tensor:
    """softmax(query key^T / sqrt(d) + relative places) value.

    The bias is a matrix product with ones and zeros: exact, and faster than adding up broadcast rows and columns.

    Args:
        query, key, value: (W, heads, N, d).
        relative: (W, heads, N, h + w) from `relative_positions`.
        places: (h + w, N) from `cell_places`, in the same dtype.

    Returns:
        (W, heads, N, d), laid out so that `transpose(1, 2)` is contiguous.
    """
    windows, heads, cells, width = query.shape
    whole = heads * cells * cells * query.element_size()
    some = min(windows, max(1, _BIAS_BYTES // whole))
    queries = cells if some > 1 else min(cells, max(1, _BIAS_BYTES * cells // whole))
    buffer = query.new_empty(some * heads * queries, cells)
    read = query.new_empty(windows, cells, heads, width).transpose(1, 2)
    for window in range(0, windows, some):
        near = slice(window, window + some)
        for first in range(0, cells, queries):
            asked = slice(first, first + queries)
            wanted = relative[near, :, asked]
            bias = torch.mm(wanted.flatten(0, 2), places, out=buffer[: wanted.shape[:3].numel()])
            read[near, :, asked] = F.scaled_dot_product_attention(
                query[near, :, asked], key[near], value[near], attn_mask=bias.unflatten(0, wanted.shape[:3])
            )
    return read
