"""Small candidate sets for the tests of annotation: discs on noise, each with a good, a middling and a bad mask."""

from pathlib import Path

import numpy as np
from PIL import Image

from visionsam_hf.data.data_card import data_card
from visionsam_hf.data.dataset_directory import write_splits
from visionsam_hf.data.masks import encode_mask, encode_rle, mask_box
from visionsam_hf.data.schema import candidate_features

CATEGORIES = ["plate", "ring"]


def candidate_row(number: int, *, size: int = 64, with_truth: bool = True, identical: bool = False) -> dict:
    """Row `number`; its candidates' quality is drawn in another order for each row."""
    rng = np.random.default_rng([7, number])
    rows, columns = np.mgrid[:size, :size]
    center = rng.uniform(0.35, 0.65, 2) * size
    distance = np.hypot(rows - center[0], columns - center[1])
    radius = size * rng.uniform(0.1, 0.2)
    truth = distance < radius
    masks = [truth if identical else distance < radius * share for share in (0.98, 0.75, 1.6)]
    image = rng.normal(150, 10, (size, size)) - 60 * truth
    order = rng.permutation(3)
    return {
        "image": Image.fromarray(np.repeat(np.clip(image, 0, 255).astype(np.uint8)[..., None], 3, 2)),
        "image_id": f"image-{number}",
        "category": number % len(CATEGORIES),
        "box": mask_box(truth),
        "object_index": 0,
        "truth": encode_mask(truth) if with_truth else None,
        "candidates": [
            {"rle": encode_rle(masks[place]), "token": int(place) + 1, "source": "tokens", "score": 0.9 - 0.2 * place}
            for place in order
        ],
    }


def write_candidate_set(directory: Path, splits: dict[str, int], **options) -> Path:
    """A candidate set directory with this many rows a split; `options` go to `candidate_row`."""
    rows, start = {}, 0
    for split, count in splits.items():
        rows[split] = [candidate_row(number, **options) for number in range(start, start + count)]
        start += count
    card = data_card("candidates", title="Discs", summary="Discs on noise.")
    write_splits(directory, rows, candidate_features(CATEGORIES), card=card)
    return directory
