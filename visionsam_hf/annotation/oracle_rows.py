"""Preference rows from simulated annotators: what the oracle's stage writes and the evidence trains on."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from visionsam_hf.annotation.export import candidate_masks, preference_row
from visionsam_hf.annotation.oracle import annotate, criteria_table
from visionsam_hf.annotation.ranking import identical_groups
from visionsam_hf.annotation.tally import Tally


def oracle_row(
    row: Mapping[str, Any],
    truth: np.ndarray,
    *,
    task: str,
    annotators: int,
    noise: float,
    flip_rate: float,
    seed: int,
    tally: Tally,
) -> dict[str, Any] | None:
    """Let simulated annotators rank one candidate row.

    Args:
        row: of `schema.candidate_features`.
        truth: (H, W) bool, by which they judge.
        task, noise, flip_rate, seed: as in `oracle.annotate`.
        annotators: how many.
        tally: is told of their rankings.

    Returns:
        A row of `schema.preference_features`, or None when the rankings tie from top to bottom.
    """
    masks = candidate_masks(row)
    criteria = criteria_table(masks, truth)
    groups = identical_groups(np.stack(masks))
    annotations = [
        annotate(criteria, groups, annotator=number, task=task, seed=seed, noise=noise, flip_rate=flip_rate)
        for number in range(annotators)
    ]
    preference, verdict = preference_row(row, annotations, criteria=criteria)
    ious = [float((mask & truth).sum() / max((mask | truth).sum(), 1)) for mask in masks]
    scores = [candidate["score"] for candidate in row["candidates"]]
    tally.add([annotation.ranking for annotation in annotations], verdict, scores, ious)
    return preference
