"""Who goes into which split: by seed, never a piece on both sides, never a held-out category in training."""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Sequence

import numpy as np

from visionsam_hf.errors import UserError

SPLITS = ("train", "validation", "test", "heldout")


def assign_splits(
    images: Sequence[tuple[str, str]],
    *,
    heldout: Collection[str] = (),
    validation: float = 0.0,
    test: float = 0.0,
    seed: int = 0,
) -> list[str | None]:
    """The split of each image.

    Groups are drawn whole, category by category, so that each category has its share in each split.

    Args:
        images: (category, group) per image; images of one group show the same piece.
        heldout: categories whose images are all in `heldout`.
        validation, test: shares of the other images, in [0, 1] together.
        seed: of the draw.

    Returns:
        A split's name per image, or None for one that shows a piece which a held-out image shows too: in training
        it would give that piece away.

    Raises:
        UserError: a held-out category that no image has; every category held out; impossible shares.
    """
    categories = {category for category, _ in images}
    for name in heldout:
        if name not in categories:
            known = ", ".join(sorted(categories)) or "none"
            raise UserError(f"heldout_categories: no image of category '{name}'; the categories are: {known}")
    if not (validation >= 0 and test >= 0 and validation + test <= 1):
        raise UserError(f"validation, test: {validation} and {test} are not shares of the images; keep their sum <= 1")
    if images and categories <= set(heldout):
        raise UserError("heldout_categories: every category is held out; leave at least one to train on")

    members: dict[str, list[int]] = defaultdict(list)
    for place, (_, group) in enumerate(images):
        members[group].append(place)
    strata: dict[str, list[str]] = defaultdict(list)
    splits: list[str | None] = [None] * len(images)
    for group, places in members.items():
        held = [place for place in places if images[place][0] in heldout]
        if held:
            for place in held:
                splits[place] = "heldout"
        else:
            strata[min(images[place][0] for place in places)].append(group)

    for category, groups in strata.items():
        # Seeded by name, so that a category's draw does not depend on which others there are.
        key = int.from_bytes(hashlib.sha256(category.encode()).digest()[:4], "little")
        order = np.random.default_rng([seed, key]).permutation(len(groups))
        total = sum(len(members[group]) for group in groups)
        wanted = {"test": round(test * total), "validation": round(validation * total)}
        for group in (sorted(groups)[place] for place in order):
            places = members[group]
            split = next((name for name, room in wanted.items() if room >= len(places)), "train")
            if split != "train":
                wanted[split] -= len(places)
            for place in places:
                splits[place] = split
    return splits
