"""Which prompts to rank first: those that teach most for a person's seconds."""

import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from scipy import stats

from visionsam_hf.data.masks import pairwise_iou
from visionsam_hf.preferences.preference_rows import candidate_masks

# Sides of what a prompt's surroundings are shrunk to, to be compared.
_LOOK = 8


def ordered(rows: Iterable[Mapping[str, Any]], order: str, *, ranked: Sequence[int] = ()) -> list[int]:
    """The places of candidate rows in the order in which they should be ranked.

    `id`: as they stand. `uncertain`: by the mean of two percentiles, how much the candidates disagree (1 - mean IoU of
    two of them) and how close the two best scores are; categories in turn, and a category's images in turn, so that the
    first prompts show many looks. `diverse`: categories in turn, in each always the prompt whose look is farthest from all
    that were ranked or stand before it (k-centre greedy; Sener and Savarese, 2018).

    Args:
        rows: of `schema.candidate_features`, images undecoded.
        order: "id", "uncertain" or "diverse".
        ranked: places that were ranked already, which `diverse` keeps away from.
    """
    if order == "id":
        return [place for place, _ in enumerate(rows)]
    told = [_tell(row, looks=order == "diverse") for row in rows]
    categories: dict[Any, list[int]] = defaultdict(list)
    if order == "diverse":
        for place, one in enumerate(told):
            categories[one["category"]].append(place)
        looks = np.array([one["look"] for one in told], np.float32)
        known = set(ranked)
        groups = [_farthest_first(looks, group, known & set(group)) for group in categories.values()]
        return _in_turn(groups)
    disagreement, closeness = (stats.rankdata([one[key] for one in told]) for key in ("disagreement", "closeness"))
    for place in np.argsort(-(disagreement + closeness), kind="stable"):
        categories[told[place]["category"]].append(int(place))
    return _in_turn([_images_in_turn(group, told) for group in categories.values()])


def _tell(row: Mapping[str, Any], *, looks: bool) -> dict[str, Any]:
    told = {"category": row["category"], "image": row["image_id"]}
    if looks:
        return told | {"look": _look(row)}
    masks = np.stack(candidate_masks(row))
    overlaps = pairwise_iou(masks)[np.triu_indices(len(masks), 1)]
    best, second = np.sort([candidate["score"] for candidate in row["candidates"]])[:-3:-1]
    return told | {"disagreement": 1 - overlaps.mean(), "closeness": second - best}


def _look(row: Mapping[str, Any]) -> np.ndarray:
    """What the box with as much again round it looks like, and its size: (195,) float32."""
    image = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
    x1, y1, x2, y2 = row["box"]
    wide, high = x2 - x1, y2 - y1
    around = image.crop((int(x1 - wide / 2), int(y1 - high / 2), int(x2 + wide / 2) + 1, int(y2 + high / 2) + 1))
    small = np.asarray(around.resize((_LOOK, _LOOK), Image.Resampling.BOX), np.float32) / 255
    side = np.log2([max(wide, 1), max(high, 1), max(image.size)]) / 8
    return np.concatenate([small.ravel() / _LOOK, side.astype(np.float32)])


def _farthest_first(looks: np.ndarray, group: list[int], ranked: set[int]) -> list[int]:
    """The group's places, each the farthest from those before it; ranked ones at the end, from which all keep away."""
    left = [place for place in group if place not in ranked]
    of_left = looks[left]
    centres = [looks[place] for place in sorted(ranked)] or [looks[group].mean(0)]
    distance = np.min([np.linalg.norm(of_left - centre, axis=1) for centre in centres], axis=0)
    if not ranked and left:
        # Nothing is known yet: begin with what is most usual.
        distance = -distance
    chosen: list[int] = []
    for step in range(len(left)):
        farthest = int(distance.argmax())
        chosen.append(left[farthest])
        away = np.linalg.norm(of_left - of_left[farthest], axis=1)
        distance = away if step == 0 and not ranked else np.minimum(distance, away)
        distance[farthest] = -1
    return chosen + sorted(ranked)


def _images_in_turn(group: Sequence[int], told: Sequence[Mapping[str, Any]]) -> list[int]:
    """First the first prompt of every image, in the group's order, then the second ones."""
    images: dict[str, list[int]] = defaultdict(list)
    for place in group:
        images[told[place]["image"]].append(place)
    return _in_turn(list(images.values()))


def _in_turn(groups: Sequence[Sequence[int]]) -> list[int]:
    """The first of each group, then the second of each, until all are through."""
    longest = max((len(group) for group in groups), default=0)
    return [group[turn] for turn in range(longest) for group in groups if turn < len(group)]
