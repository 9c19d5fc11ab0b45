"""Models and data for the benchmarks: random weights of real shapes or a small one, noise with rectangles."""

import datasets
import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import SamConfig, SamModel, SamProcessor
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from visionsam_hf.data.masks import encode_mask, encode_rle
from visionsam_hf.data.schema import object_row, preference_features, segmentation_features
from visionsam_hf.models.image_processing import make_processor
from visionsam_hf.models.mobile_sam import MobileSamModel
from visionsam_hf.models.mobile_sam_config import MobileSamConfig


def sam(shape: str) -> tuple[SamModel, SamProcessor]:
    """A random model: "vit-base" (1024 pixels, 64 x 64 grid), "small" (128 pixels, 16 x 16 grid, 0.4 M parameters), or a
    MobileSAM or LiteMedSAM with its square's side."""
    if shape not in ("vit-base", "small"):
        name, side = shape.rsplit("-", 1)
        stem = dict(stem_kernel_size=1, stem_stride=1) if name == "lite-medsam" else {}
        config = MobileSamConfig(vision_config=dict(image_size=int(side), **stem))
        return _random(MobileSamModel(config)), make_processor(int(side), 4 * config.prompt_encoder_config.image_embedding_size)
    if shape == "vit-base":
        config = SamConfig()
    else:
        config = SamConfig(
            vision_config=dict(
                hidden_size=64, num_hidden_layers=4, num_attention_heads=4, output_channels=64, num_pos_feats=32,
                image_size=128, patch_size=8, window_size=7, global_attn_indexes=[1, 3],
            ),
            prompt_encoder_config=dict(hidden_size=64, image_size=128, patch_size=8),
            mask_decoder_config=dict(hidden_size=64, mlp_dim=128, num_attention_heads=4, iou_head_hidden_dim=64),
        )
    model = _random(SamModel(config))
    generator = torch.Generator().manual_seed(0)
    for layer in model.vision_encoder.layers:
        for table in (layer.attn.rel_pos_h, layer.attn.rel_pos_w):
            table.data.normal_(std=0.1, generator=generator)
    side = config.vision_config.image_size
    processor = SamProcessor(
        SamImageProcessorPil(
            size={"longest_edge": side},
            pad_size={"height": side, "width": side},
            mask_size={"longest_edge": side // 4},
            mask_pad_size={"height": side // 4, "width": side // 4},
        )
    )
    return model, processor


def _random(model: SamModel) -> SamModel:
    """PyTorch's own weights: the library's 1e-10 in the encoder would be timed with denormal numbers."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            module.reset_parameters()
    return model.eval()


def photographs(count: int, side: int, boxes: int, seed: int = 0) -> datasets.Dataset:
    """Square images with `boxes` rectangles each, rows of the segmentation schema."""

    def rows():
        for index in range(count):
            masks, pixels = _scene(side, boxes, np.random.default_rng([seed, index]))
            yield {
                "image": Image.fromarray(pixels),
                "mask": encode_mask(np.logical_or.reduce(masks)),
                "image_id": f"{index:06d}",
                "source": "benchmark",
                "category": "plate",
                "defective": True,
                "objects": [object_row(mask, "patch") for mask in masks],
            }

    return _dataset(rows, segmentation_features(["plate"]))


def preferences(count: int, side: int, seed: int = 0) -> datasets.Dataset:
    """The same as pairs: the rectangle chosen, two shifted ones behind it."""

    def rows():
        for index in range(count):
            (mask,), pixels = _scene(side, 1, np.random.default_rng([seed, index]))
            ranked = [mask, np.roll(mask, side // 20, axis=1), np.roll(mask, side // 8, axis=1)]
            details = dict(coverage=None, boundary=None, over_under=None, noise=None)
            yield {
                "image": Image.fromarray(pixels),
                "image_id": f"{index:06d}",
                "category": "plate",
                "box": object_row(mask, "patch")["box"],
                "object_index": 0,
                "chosen": encode_mask(ranked[0]),
                "rejected": encode_mask(ranked[2]),
                "margin": 2.0,
                "votes": 1,
                "truth": encode_mask(mask),
                "candidates": [
                    {"rle": encode_rle(item), "token": token, "score": 0.5, "mean_rank": float(place + 1), **details}
                    for place, (item, token) in enumerate(zip(ranked, (1, 2, 3)))
                ],
                "annotations": [],
            }

    return _dataset(rows, preference_features(["plate"]))


def _scene(side: int, boxes: int, rng: np.random.Generator) -> tuple[list[np.ndarray], np.ndarray]:
    # Blocks, not noise of every pixel: it compresses like a photograph.
    coarse = rng.integers(80, 180, (side // 8, side // 8, 3), dtype=np.uint8)
    pixels = coarse.repeat(8, 0).repeat(8, 1)
    masks = []
    for _ in range(boxes):
        x, y = rng.integers(0, side // 2, 2)
        mask = np.zeros((side, side), bool)
        mask[y : y + side // 4, x : x + side // 4] = True
        pixels[mask] //= 2
        masks.append(mask)
    return masks, pixels


def _dataset(rows, features: datasets.Features) -> datasets.Dataset:
    import tempfile

    # Written row by row and mapped, as a data set on disk is: nothing of it stays in memory.
    return datasets.Dataset.from_generator(
        rows, features=features, cache_dir=tempfile.mkdtemp(prefix="visionsam-bench-")
    )
