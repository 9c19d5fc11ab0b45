"""Small data sets of discs on noise, and predictions for them that are off by a known amount."""

import numpy as np
from datasets import Dataset
from PIL import Image

from visionsam_hf.data.dataset_directory import write_splits
from visionsam_hf.data.masks import decode_rle, encode_mask
from visionsam_hf.data.schema import object_row, segmentation_features
from visionsam_hf.inference.prediction import PromptResult

CATEGORIES = ["cable", "lens", "screw"]
CARD = "---\nlicense: apache-2.0\n---\n# Discs\n"


def disc(shape, centre, radius):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return np.hypot(rows - centre[0], columns - centre[1]) <= radius


def rows(n, *, seed=0, shape=(48, 64), empty_every=5):
    """Photographs with one or two bright discs each; every fifth is good."""
    rng = np.random.default_rng(seed)
    for index in range(n):
        truths = []
        if index % empty_every != empty_every - 1:
            truths = [disc(shape, rng.uniform(10, 38, 2), rng.uniform(3, 9)) for _ in range(1 + index % 2)]
        union = np.any(truths, axis=0) if truths else np.zeros(shape, bool)
        image = rng.integers(60, 100, (*shape, 3)) + 80 * union[..., None]
        yield {
            "image": Image.fromarray(image.astype(np.uint8)),
            "mask": encode_mask(union),
            "image_id": f"disc-{seed}-{index:03d}",
            "source": "test",
            "category": CATEGORIES[index % 3],
            "defective": bool(truths),
            "objects": [object_row(truth, "hole") for truth in truths],
        }


def discs(n, **options):
    return Dataset.from_list(list(rows(n, **options)), features=segmentation_features(CATEGORIES))


def write_discs(directory, **splits):
    write_splits(directory, {name: rows(n, seed=place) for place, (name, n) in enumerate(splits.items())},
                 segmentation_features(CATEGORIES), card=CARD)
    return directory


def predict(dataset, max_prompts=None, *, shift=2, calls=None):
    """Each truth moved by `shift` (token 0) and by 1, 4 and 7 (tokens 1 to 3), scored 0.9, 0.8, 0.5, 0.2."""
    given = 0
    for row, example in enumerate(dataset):
        for index, entry in enumerate(example["objects"]):
            if given == max_prompts:
                return
            given += 1
            truth = decode_rle(entry["rle"])
            yield PromptResult(
                row=row,
                image_id=example["image_id"],
                category=CATEGORIES[example["category"]],
                object_index=index,
                defect=entry["defect"],
                box=tuple(entry["box"]),
                prompt="box",
                truth=truth,
                masks=np.stack([np.roll(truth, move, 1) for move in (shift, 1, 4, 7)]),
                scores=np.array([0.9, 0.8, 0.5, 0.2], np.float32),
            )
