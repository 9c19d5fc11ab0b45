"""Small real parts for the tests: a random `SamModel` for 64-pixel images, its processor, and rows to train on."""

import math
import os

# Before torch and transformers are imported: no network, no GPU, one thread a worker.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import SamConfig, SamModel, SamProcessor
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from visionsam_hf.data.masks import encode_mask, encode_rle
from visionsam_hf.data.schema import object_row, preference_features, segmentation_features
from visionsam_hf.models.loading import model_class

SIDE = 64
CATEGORIES = ["bolt", "plate"]


@pytest.fixture(autouse=True)
def _own_caches(tmp_path_factory, monkeypatch):
    """Arrow copies of the tests' data sets do not pile up in the user's cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "datasets")
    torch.set_num_threads(1)


def tiny_config(image_size: int = SIDE) -> SamConfig:
    """A SAM with a 4 x 4 embedding grid for 64-pixel images: 16 x 16 mask logits."""
    return SamConfig(
        vision_config=dict(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            output_channels=16,
            num_pos_feats=8,
            image_size=image_size,
            patch_size=16,
            window_size=2,
            global_attn_indexes=[1],
            initializer_range=0.02,
        ),
        prompt_encoder_config=dict(hidden_size=16, image_size=image_size, patch_size=16, mask_input_channels=4),
        mask_decoder_config=dict(hidden_size=16, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=16),
    )


def initialise(config: SamConfig, *, seed: int) -> SamModel:
    """A model with random weights that can learn within a test.

    The library's own cannot: positions too fine to share any geometry, token embeddings too small to see, an encoder of
    1e-10, and a fixed 0.02 that shrinks the signal of narrow layers.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)(config)
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
                module.reset_parameters()
        with torch.no_grad():
            positions = model.shared_image_embedding.positional_embedding
            half = positions.shape[1] // 2
            positions.zero_()
            positions[0, :half] = torch.logspace(math.log10(0.12), math.log10(1.5), half)
            positions[1, half:] = torch.logspace(math.log10(0.12), math.log10(1.5), positions.shape[1] - half)
            # Tied on loading and saving; say so here too.
            model.prompt_encoder.shared_embedding.positional_embedding = positions
            prompts, decoder = model.prompt_encoder, model.mask_decoder
            for embedding in (*prompts.point_embed, prompts.not_a_point_embed, decoder.iou_token, decoder.mask_tokens):
                embedding.weight.normal_()
            if model.vision_encoder.pos_embed is not None:
                model.vision_encoder.pos_embed.normal_(std=0.02)
    return model.eval()


def tiny_processor(image_size: int = SIDE) -> SamProcessor:
    """The processor of `tiny_config`."""
    side, mask = {"longest_edge": image_size}, image_size // 4
    return SamProcessor(
        SamImageProcessorPil(
            size=side,
            pad_size={"height": image_size, "width": image_size},
            mask_size={"longest_edge": mask},
            mask_pad_size={"height": mask, "width": mask},
        )
    )


@pytest.fixture
def model() -> SamModel:
    return initialise(tiny_config(), seed=0)


@pytest.fixture
def processor() -> SamProcessor:
    return tiny_processor()


@pytest.fixture
def model_dir(tmp_path, model, processor):
    """A saved random model."""
    directory = tmp_path / "model"
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory


def disc(height: int, width: int, x: float, y: float, radius: float) -> np.ndarray:
    """(H, W) bool disc."""
    rows, columns = np.mgrid[:height, :width]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def photograph(mask: np.ndarray, seed: int) -> Image.Image:
    """A noisy grey part on which `mask` is darker."""
    rng = np.random.default_rng(seed)
    pixels = 150 + 20 * rng.standard_normal((*mask.shape, 3)) - 70 * mask[..., None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def segmentation_rows(count: int = 6, seed: int = 0) -> list[dict]:
    """Rows of the segmentation schema: one or two discs on images of different shapes."""
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        height, width = [(48, 64), (80, 60), (64, 64)][index % 3]
        masks = [
            disc(height, width, rng.uniform(12, width - 12), rng.uniform(12, height - 12), rng.uniform(4, 10))
            for _ in range(1 + index % 2)
        ]
        union = np.logical_or.reduce(masks)
        rows.append(
            {
                "image": photograph(union, seed * 1000 + index),
                "mask": encode_mask(union),
                "image_id": f"{index:03d}",
                "source": "test",
                "category": CATEGORIES[index % 2],
                "defective": True,
                "objects": [object_row(mask, "stain") for mask in masks],
            }
        )
    return rows


def large_rows(places=((60, 50, 8), (61, 50, 8), (200, 120, 6), (20, 160, 7)), size=(180, 240)) -> datasets.Dataset:
    """One photograph with small discs (x, y, radius); the first two are answered from one zoom window."""
    masks = [disc(*size, x, y, radius) for x, y, radius in places]
    union = np.logical_or.reduce(masks)
    row = {
        "image": photograph(union, 0), "mask": encode_mask(union), "image_id": "large", "source": "test", "category": 0,
        "defective": True, "objects": [object_row(mask, "stain") for mask in masks],
    }  # fmt: skip
    return datasets.Dataset.from_list([row], features=segmentation_features(CATEGORIES))


@pytest.fixture
def segmentation() -> datasets.Dataset:
    return datasets.Dataset.from_list(segmentation_rows(), features=segmentation_features(CATEGORIES))


@pytest.fixture
def preferences() -> datasets.Dataset:
    """Pairs in which the chosen mask is the disc and the rejected one is shifted."""
    rows = []
    for index in range(6):
        height, width = [(48, 64), (64, 64)][index % 2]
        truth = disc(height, width, 30, 24, 10)
        masks = [truth, np.roll(truth, 4, axis=1), np.roll(truth, 12, axis=1)]
        candidate = dict(coverage=None, boundary=None, over_under=None, noise=None)
        rows.append(
            {
                "image": photograph(truth, index),
                "image_id": f"{index:03d}",
                "category": CATEGORIES[index % 2],
                "box": [20.0, 14.0, 41.0, 35.0],
                "object_index": 0,
                "chosen": encode_mask(masks[0]),
                "chosen_kind": "ranked",
                "rejected": encode_mask(masks[2]),
                "margin": 2.0,
                "votes": 3,
                "truth": encode_mask(truth),
                "candidates": [
                    {"rle": encode_rle(mask), "token": token, "score": 0.5, "mean_rank": rank, **candidate}
                    for mask, token, rank in zip(masks, (2, 1, 3), (1.0, 2.0, 3.0))
                ],
                "annotations": [],
                "regions": [],
            }
        )
    return datasets.Dataset.from_list(rows, features=preference_features(CATEGORIES))
