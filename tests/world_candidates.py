"""Candidate sets from the synthetic world: rendered defects, with masks as a model might propose them."""

from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from datasets_builders.world.scene import PRODUCTS, render_product
from visionsam_hf.data.data_card import data_card
from visionsam_hf.data.dataset_directory import write_splits
from visionsam_hf.data.masks import encode_mask, encode_rle, mask_box
from visionsam_hf.data.schema import candidate_features

DEFECTS = ("stain", "dent", "hole", "contamination", "discolouration")


def proposals(truth: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Three (H, W) masks: close to the truth, a coarse one that takes in too much, a thin one with specks and holes."""
    side = max(2, round(np.sqrt(truth.sum()) / 8))
    smooth = ndimage.gaussian_filter(truth.astype(float), side / 2) > 0.45
    coarse = ndimage.gaussian_filter(truth.astype(float), side * 2.5) > 0.18
    thin = ndimage.binary_erosion(truth, iterations=max(1, side // 2))
    specks = ndimage.gaussian_filter(rng.standard_normal(truth.shape), 1.2)
    near = ndimage.binary_dilation(truth, iterations=side * 5)
    thin = (thin & (specks < 0.32)) | (near & (specks > 0.52))
    return [mask if mask.any() else truth for mask in (smooth, coarse, thin)]


def world_row(number: int, size: int, seed: int) -> dict:
    """Row `number` of a candidate set: the largest defect of a rendered product."""
    category = PRODUCTS[(number * 5 + seed) % len(PRODUCTS)]
    scene = render_product(category, size=size, seed=seed, index=number, defects=DEFECTS)
    truth = max(scene.defects, key=lambda defect: defect.mask.sum()).mask
    rng = np.random.default_rng([seed, number])
    masks = proposals(truth, rng)
    return {
        "image": Image.fromarray(scene.image),
        "image_id": f"{category}-{number}",
        "category": PRODUCTS.index(category),
        "box": mask_box(truth),
        "object_index": 0,
        "truth": encode_mask(truth),
        "candidates": [
            {
                "rle": encode_rle(masks[place]),
                "token": int(place) + 1,
                "source": "tokens",
                "score": float(rng.uniform(0.5, 0.9)),
            }
            for place in rng.permutation(3)
        ],
    }


def write_world_candidates(directory: Path, count: int, *, size: int = 512, seed: int = 3) -> Path:
    """A candidate set directory of `count` rendered tasks."""
    rows = [world_row(number, size, seed) for number in range(count)]
    card = data_card("candidates", title="Rendered", summary="Rendered defects.")
    write_splits(directory, {"train": rows}, candidate_features(list(PRODUCTS)), card=card)
    return directory
