"""The rows of a fold: who gets masks, who is ranked, and on what everything is measured."""

import dataclasses
from collections.abc import Mapping, Sequence

import datasets
import numpy as np

from visionsam_hf.data.dataset_directory import load_split
from visionsam_hf.data.errors import UserError

RANKED = "ranked"  # as a split: the images that were ranked, though never masked
_LABELS, _EVALUATED = 0x1AB, 0xE7A


@dataclasses.dataclass(frozen=True)
class Fold:
    """A segmentation data set: its training rows with objects, and the rows to measure on, by split."""

    name: str
    train: datasets.Dataset
    measured: Mapping[str, datasets.Dataset]


def load_fold(name: str, directory: str, splits: Sequence[str], max_prompts: int | None) -> Fold:
    """Read a fold.

    Args:
        directory: the data set, with `train` and every split to measure on.
        splits: what to measure on; "ranked" is no split of the data set and is left out here.
        max_prompts: about so many prompts a split, drawn by image, the same for every seed and system.
    """
    train = _with_objects(load_split(directory, "train", kind="segmentation"), directory)
    measured = {}
    for split in splits:
        if split != RANKED:
            rows = _with_objects(load_split(directory, split, kind="segmentation"), directory)
            order = np.random.default_rng([_EVALUATED]).permutation(len(rows)).tolist()
            measured[split] = rows.select(sorted(take(object_counts(rows), order, max_prompts)))
    return Fold(name, train, measured)


def share_labels(
    rows: datasets.Dataset, *, seed: int, masks: int, max_ranked: int | None
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """The images that get masks, and those that are ranked instead.

    A larger number of masks contains a smaller one, and the ranked images stay the same as long as they can: masks are
    taken from the front of one order, rankings from its end.

    Raises:
        UserError: no image is left to rank.
    """
    order = np.random.default_rng([_LABELS, seed]).permutation(len(rows)).tolist()
    if masks >= len(rows):
        raise UserError(f"masks: {masks} of {len(rows)} training images leave none to rank; lower it, or label_budgets")
    ranked = take(object_counts(rows), order[masks:][::-1], max_ranked)
    return rows.select(sorted(order[:masks])), rows.select(sorted(ranked))


def take(counts: Sequence[int], order: Sequence[int], limit: int | None) -> list[int]:
    """Rows in `order` until they have `limit` objects; all of them for None."""
    taken, objects = [], 0
    for row in order:
        if limit is not None and objects >= limit:
            break
        taken.append(row)
        objects += counts[row]
    return taken


def object_counts(rows: datasets.Dataset) -> list[int]:
    """How many objects each row has."""
    return [len(objects) for objects in rows.select_columns(["objects"])["objects"]]


def _with_objects(rows: datasets.Dataset, directory: str) -> datasets.Dataset:
    kept = [row for row, count in enumerate(object_counts(rows)) if count]
    if not kept:
        raise UserError(f"{directory}: split '{rows.split}' has no object to prompt; build it with defects")
    return rows.select(kept)
