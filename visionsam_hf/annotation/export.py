"""Candidate rows and their annotations to rows of the preference data set."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from visionsam_hf.annotation.aggregate import Verdict, aggregate
from visionsam_hf.annotation.ranking import Annotation
from visionsam_hf.annotation.rubric import CRITERIA
from visionsam_hf.schema import decode_rle, encode_mask


def preference_row(
    row: Mapping[str, Any],
    annotations: Sequence[Annotation],
    *,
    criteria: np.ndarray | None = None,
) -> tuple[dict[str, Any] | None, Verdict]:
    """One row of `schema.preference_features`, and the verdict it stands on.

    Args:
        row: a row of `schema.candidate_features`; `image` and `truth` may be undecoded ({"bytes", "path"}).
        annotations: at least one, each ranking the row's candidates in the row's order.
        criteria: (K, 4) criteria of the candidates, or None where no truth is known.

    Returns:
        The row, with the candidates (and everyone's ranks of them) best first, or None when the annotations tie from
        top to bottom.
    """
    verdict = aggregate([annotation.ranking for annotation in annotations])
    if verdict.is_tie:
        return None, verdict
    candidates = []
    for index in verdict.order:
        candidate = row["candidates"][index]
        values = [None] * len(CRITERIA) if criteria is None else [float(value) for value in criteria[index]]
        candidates.append(
            {
                "rle": candidate["rle"],
                "token": candidate["token"],
                "score": candidate["score"],
                "mean_rank": verdict.mean_ranks[index],
                **dict(zip(CRITERIA, values, strict=True)),
            }
        )
    copied = {key: row[key] for key in ("image", "image_id", "category", "box", "object_index", "truth")}
    preference = copied | {
        "chosen": encode_mask(decode_rle(candidates[0]["rle"])),
        "rejected": encode_mask(decode_rle(candidates[-1]["rle"])),
        "margin": verdict.margin,
        "votes": verdict.votes,
        "candidates": candidates,
        "annotations": [
            dataclasses.asdict(annotation) | {"ranking": [annotation.ranking[index] for index in verdict.order]}
            for annotation in annotations
        ],
    }
    return preference, verdict


def candidate_masks(row: Mapping[str, Any]) -> list[np.ndarray]:
    """The (H, W) bool masks of a candidate row, in its order."""
    return [decode_rle(candidate["rle"]) for candidate in row["candidates"]]
