"""TinyViT (Wu et al., 2022, "TinyViT: Fast Pretraining Distillation for Small Vision Transformers") as an encoder for SAM.

Side S is 1024 in MobileSAM; a grid's side is the image's over the stage's stride.
```
pixels         (B,   3, S,    S)
patch_embed    (B,  64, S/4,  S/4)     two convolutions
layers.0       (B,  64, S/4,  S/4)     inverted residuals (MBConv)
layers.1       (B, 128, S/8,  S/8)     merging, then attention in windows of 7 x 7
layers.2       (B, 160, S/16, S/16)    merging, then attention in windows of 14 x 14
layers.3       (B, 320, S/16, S/16)    merging with stride 1, then attention in windows of 7 x 7
neck           (B, 256, S/16, S/16)    SAM's
```
Convolutions have a bias and no batch norm: the published ones are folded on conversion. That is exact for inference,
is all that copies in the ONNX format still have, and keeps fine-tuning on a few images from drifting running averages.

Maps are (B, C, h, w) in memory as (B, h, w, C), which is what both the convolutions and the attention are fastest with.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from .mobile_sam_config import MobileSamVisionConfig


class Stem(nn.Module):
    """(B, 3, S, S) pixels to the first (B, C, S / stride^2, S / stride^2) map."""

    def __init__(self, config: MobileSamVisionConfig) -> None:
        super().__init__()
        kernel, width = config.stem_kernel_size, config.embed_dims[0]
        how = {"kernel_size": kernel, "stride": config.stem_stride, "padding": kernel // 2}
        self.conv1 = nn.Conv2d(config.num_channels, width // 2, **how)
        self.conv2 = nn.Conv2d(width // 2, width, **how)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, pixels: Tensor) -> Tensor:
        return self.conv2(self.activation(self.conv1(pixels)))


class _Bottleneck(nn.Module):
    """Cell by cell to `inner` channels, 3 x 3 within each channel, cell by cell to `width` channels."""

    def __init__(self, before: int, inner: int, width: int, stride: int, activation: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, inner, kernel_size=1)
        self.conv2 = nn.Conv2d(inner, inner, kernel_size=3, stride=stride, padding=1, groups=inner)
        self.conv3 = nn.Conv2d(inner, width, kernel_size=1)
        self.activation = ACT2FN[activation]

    def forward(self, hidden: Tensor) -> Tensor:
        return self.conv3(self.activation(self.conv2(self.activation(self.conv1(hidden)))))


class InvertedResidual(GradientCheckpointingLayer):
    """MBConv: a wide bottleneck beside the identity; (B, C, h, w) to the same shape."""

    def __init__(self, config: MobileSamVisionConfig, width: int) -> None:
        super().__init__()
        self.bottleneck = _Bottleneck(width, int(width * config.expand_ratio), width, 1, config.hidden_act)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden: Tensor) -> Tensor:
        return self.activation(hidden + self.bottleneck(hidden))


class WindowAttention(nn.Module):
    """Attention within square windows, with a learnt bias for every distance of two cells.

    `qkv` gives each head its query, key and value side by side: (heads, 3, head width).
    `relative_bias` is (heads, window, window): by rows apart and columns apart, whichever way.
    """

    def __init__(self, width: int, heads: int, window: int, eps: float) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.layer_norm = nn.LayerNorm(width, eps=eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.relative_bias = nn.Parameter(torch.zeros(heads, window, window))

    def forward(self, windows: Tensor) -> Tensor:
        """(W, window^2, C) to the same shape."""
        count, cells, width = windows.shape
        qkv = self.qkv(self.layer_norm(windows)).view(count, cells, self.heads, 3, width // self.heads)
        query, key, value = qkv.permute(3, 0, 2, 1, 4).unbind(0)
        # With a bias of four dimensions PyTorch takes its fast kernel on processors too, with three it does not.
        bias = spread_bias(self.relative_bias).unsqueeze(0)
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.proj(read.transpose(1, 2).reshape(count, cells, width))


def spread_bias(table: Tensor) -> Tensor:
    """(heads, n, n) biases by rows and columns apart to (heads, n^2, n^2) biases of a cell for a cell, row by row."""
    side = table.shape[-1]
    place = torch.arange(side, device=table.device)
    apart = (place[:, None] - place[None, :]).abs()
    # (heads, row, row, column, column) of the asking and the asked cell.
    return table[:, apart][..., apart].transpose(2, 3).reshape(-1, side**2, side**2)


def to_windows(grid: Tensor, side: int) -> Tensor:
    """(B, h, w, C) to (B * windows, side^2, C); zeros fill up the last row and column of windows, as in the paper's code."""
    height, width, channels = grid.shape[1:]
    if height % side or width % side:
        grid = F.pad(grid, (0, 0, 0, -width % side, 0, -height % side))
    rows, columns = -(-height // side), -(-width // side)
    tiles = grid.view(-1, rows, side, columns, side, channels).transpose(2, 3)
    return tiles.reshape(-1, side * side, channels)


def from_windows(windows: Tensor, side: int, height: int, width: int) -> Tensor:
    """What `to_windows` took apart: (B * windows, side^2, C) to (B, height, width, C)."""
    rows, columns = -(-height // side), -(-width // side)
    tiles = windows.view(-1, rows, columns, side, side, windows.shape[-1]).transpose(2, 3)
    return tiles.reshape(-1, rows * side, columns * side, windows.shape[-1])[:, :height, :width]


class Perceptron(nn.Module):
    """Layer norm, wide, activation, narrow: (..., C) to the same shape."""

    def __init__(self, config: MobileSamVisionConfig, width: int) -> None:
        super().__init__()
        inner = int(width * config.mlp_ratio)
        self.layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.lin1, self.lin2 = nn.Linear(width, inner), nn.Linear(inner, width)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden: Tensor) -> Tensor:
        return self.lin2(self.activation(self.lin1(self.layer_norm(hidden))))


class AttentionBlock(GradientCheckpointingLayer):
    """Window attention, a 3 x 3 convolution within each channel, which joins the windows, and a perceptron."""

    def __init__(self, config: MobileSamVisionConfig, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.attn = WindowAttention(width, heads, window, config.layer_norm_eps)
        self.local_conv = nn.Conv2d(width, width, kernel_size=3, padding=1, groups=width)
        self.mlp = Perceptron(config, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape."""
        grid, side = hidden.permute(0, 2, 3, 1), self.attn.window
        grid = grid + from_windows(self.attn(to_windows(grid, side)), side, *grid.shape[1:3])
        grid = self.local_conv(grid.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return (grid + self.mlp(grid)).permute(0, 3, 1, 2)


class Stage(nn.Module):
    """A coarser grid with more channels, except in the first stage, and blocks on it."""

    def __init__(self, config: MobileSamVisionConfig, index: int) -> None:
        super().__init__()
        width, depth = config.embed_dims[index], config.depths[index]
        self.merging = None
        if index == 0:
            blocks = [InvertedResidual(config, width) for _ in range(depth)]
        else:
            heads, window = config.num_heads[index - 1], config.window_sizes[index - 1]
            stride, before = config.merge_strides[index - 1], config.embed_dims[index - 1]
            self.merging = _Bottleneck(before, width, width, stride, config.hidden_act)
            blocks = [AttentionBlock(config, width, heads, window) for _ in range(depth)]
        self.blocks = nn.ModuleList(blocks)

    def forward(self, hidden: Tensor) -> Tensor:
        if self.merging is not None:
            hidden = self.merging(hidden)
        for block in self.blocks:
            hidden = block(hidden)
        return hidden
