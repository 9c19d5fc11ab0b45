"""From a map's regions to the masks of a tuned SAM, and which of them stay."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from transformers import SamModel

from visionsam_hf.data.masks import mask_box, mask_iou, united
from visionsam_hf.data.prompts import PROMPT_KINDS
from visionsam_hf.inference.finders.map_prompts import PromptPlan, Region, find_regions, region_prompt
from visionsam_hf.inference.prediction import answer_prompts

_SAME_IOU, _WITHIN = 0.5, 0.8  # two masks are one defect above this IoU, or where so much of the smaller lies in the other
_LEVELS, _REGIONS, _SHARES = (0.35, 0.5, 0.7), (1, 2, 3), (0.0, 0.25, 0.4)


@dataclass(frozen=True)
class FoundMask:
    """A defect that was found: its (H, W) bool mask, and the prompt and region that gave it.

    Attributes:
        score: predicted IoU. inside: mean of the map on the mask, as a share of the image's highest peak.
        kind: of the prompt. region: whose box or peak it was.
    """

    mask: np.ndarray
    score: float
    inside: float
    kind: str
    region: Region


def segment_regions(
    model: SamModel, embedding: torch.Tensor, found: np.ndarray, regions: Sequence[Region], kind: str
) -> list[FoundMask]:
    """The single mask of each region: the answer to a box round the answer to the region's prompt.

    A region's box is as coarse as the encoder's cells; the first mask's box fits better.

    Args:
        embedding: (C, h, w) of the photograph. found: its (H, W) map.
        kind: "box", "point" or "point_pm".
    """
    if not regions:
        return []
    prompts = [region_prompt(region, kind) for region in regions]
    boxes, points = (np.stack(part) for part in zip(*prompts))
    whole = [None] * len(prompts)
    masks, _ = answer_prompts(model, lambda _: embedding, boxes, points, found.shape, kind, whole, tokens=1)
    boxes = np.array([mask_box(mask) if mask.any() else box for mask, box in zip(masks[:, 0], boxes)], np.float32)
    masks, scores = answer_prompts(model, lambda _: embedding, boxes, points, found.shape, "box", whole, tokens=1)
    peak = regions[0].peak
    return [
        FoundMask(mask, float(score), float(found[mask].mean() / peak) if mask.any() else 0.0, kind, region)
        for mask, score, region in zip(masks[:, 0], scores[:, 0], regions)
    ]


def keep_masks(found: Iterable[FoundMask], plan: PromptPlan) -> list[FoundMask]:
    """The masks that the plan keeps, the best-scored first; of two that are one defect the better-scored stays."""
    kept: list[FoundMask] = []
    for mask in sorted(found, key=lambda mask: -mask.score):
        sure = mask.mask.any() and mask.score >= plan.min_score and mask.inside >= plan.min_inside
        if sure and not any(same_defect(mask.mask, other.mask) for other in kept):
            kept.append(mask)
    return kept


def same_defect(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two (H, W) masks overlap so much that they are taken for one defect."""
    shared, smaller = np.count_nonzero(one & other), min(np.count_nonzero(one), np.count_nonzero(other))
    return mask_iou(one, other) >= _SAME_IOU or shared >= _WITHIN * smaller


def find_masks(model: SamModel, embedding: torch.Tensor, found: np.ndarray, plan: PromptPlan) -> list[FoundMask]:
    """The defects of a photograph that is defective, the best-scored first.

    Args:
        embedding: (C, h, w). found: (H, W) map in units of good parts, the sharp one.
    """
    regions = list(find_regions(found, level=plan.level, most=plan.regions))
    return keep_masks(segment_regions(model, embedding, found, regions, plan.kind), plan)


def choose_plan(
    model: SamModel, images: Iterable[tuple[torch.Tensor, np.ndarray, np.ndarray]]
) -> tuple[PromptPlan, float]:
    """The plan with the largest mean IoU of an image's masks together, over images with a defect.

    Args:
        images: the (C, h, w) embedding, the sharp (H, W) map and the (H, W) bool mask of all defects, of each.

    Returns:
        The plan, and its mean IoU; the default plan and 0 without an image.
    """
    plans = [
        PromptPlan(kind, level, most, 0.0, share)
        for kind, level, most, share in product(PROMPT_KINDS, _LEVELS, _REGIONS, _SHARES)
    ]
    total, count = np.zeros(len(plans)), 0
    for embedding, found, truth in images:
        count += 1
        masks: dict[tuple[str, float], list[FoundMask]] = {}
        for level in _LEVELS:
            regions = list(find_regions(found, level=level, most=max(_REGIONS)))
            for kind in PROMPT_KINDS:
                masks[kind, level] = segment_regions(model, embedding, found, regions, kind)
        for place, plan in enumerate(plans):
            kept = keep_masks(masks[plan.kind, plan.level][: plan.regions], plan)
            total[place] += mask_iou(united([one.mask for one in kept], truth.shape), truth)
    if not count:
        return PromptPlan(), 0.0
    best = int(total.argmax())
    return replace(plans[best]), float(total[best] / count)
