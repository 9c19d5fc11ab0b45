"""Simulated annotators: they rank candidates by the rubric, with noise, now and then upside down, or find none usable,
and circle mistakes of the best one."""

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from visionsam_hf.data.critiques import Label, loop_mask
from visionsam_hf.data.masks import encode_rle
from visionsam_hf.preferences.preference_rows import candidate_masks, pair_ious, preference_row
from visionsam_hf.preferences.ranking_statistics import Tally
from visionsam_hf.preferences.rankings import Annotation, identical_groups, rank_scores, reverse
from visionsam_hf.preferences.rubric import CRITERIA, TIE, USABLE, rate_masks, worths

_PURPOSE, _CIRCLES = 0x04AC1E, 0xC12C1E
# What is smaller than this share of the true mask nobody circles, nor what fills less than half of the loop round it.
_WORTH_A_LOOP, _FILLED = 0.05, 0.5
# How far a loop runs outside the mistake, as a share of the mistake's width.
_ROOM = 0.1


def annotate(
    criteria: np.ndarray,
    ious: Sequence[float],
    groups: Sequence[int],
    *,
    annotator: int,
    task: str,
    seed: int,
    noise: float = 0.0,
    flip_rate: float = 0.0,
) -> Annotation:
    """One simulated annotator's answer; a tie of all masks where none is worth `rubric.USABLE`, as people answer then.

    Args:
        criteria: (K, 4), of `criteria_table`.
        ious: (K,) of the masks with the truth.
        groups: of `rankings.identical_groups`: nearly identical masks are judged as one, as the page does for people.
        annotator: number of the annotator, from 0; with `task` and `seed` it decides the noise, whatever the order of
            the tasks.
        task: a name of the task that no other task of the set has.
        noise: standard deviation added to each criterion of each mask; to its worth goes the mean of the four.
        flip_rate: chance that the whole ranking is reversed.
    """
    rng = np.random.default_rng([seed, _PURPOSE, annotator, zlib.crc32(task.encode())])
    errors = rng.normal(0.0, 1.0, criteria.shape) * noise
    seen = np.clip(criteria + errors, 0.0, 1.0)[list(groups)]
    worth = np.clip(worths(criteria, ious) + errors.mean(1), 0.0, 1.0)[list(groups)]
    ranking = rank_scores(worth, TIE) if worth.max() >= USABLE else [1] * len(worth)
    best, worst = ranking.index(min(ranking)), ranking.index(max(ranking))
    deciding = CRITERIA[int(np.argmax(seen[best] - seen[worst]))] if best != worst else None
    if rng.random() < flip_rate:
        ranking = reverse(ranking)
    return Annotation(f"oracle-{annotator + 1}", "oracle", ranking, deciding, unusable=bool(worth.max() < USABLE))


@dataclasses.dataclass(frozen=True)
class Habits:
    """What simulated annotators do beside ranking, and how long they take.

    Attributes:
        circles: how many mistakes of the mask that they rank first they circle at most, unless none is usable.
        circle_error: chance that a loop lies beside its mistake.
        mended: how many of the largest mistakes of that mask they mend; 0 and they mend nothing.
        seconds_per_ranking, seconds_per_circle, seconds_per_correction: assumed times.
    """

    circles: int = 0
    circle_error: float = 0.0
    mended: int = 0
    seconds_per_ranking: float = 3.0
    seconds_per_circle: float = 5.0
    seconds_per_correction: float = 12.0


@dataclasses.dataclass(frozen=True)
class Loop:
    """A loop round a mistake: its corners (x, y) in pixels of the image, and "extra" or "missed"."""

    label: Label
    points: list[tuple[float, float]]


def _mistakes(mask: np.ndarray, truth: np.ndarray) -> list[tuple[Label, np.ndarray]]:
    """The connected parts of what a mask has too much and of what it lacks, the largest first."""
    found: list[tuple[Label, np.ndarray]] = []
    wrongs: dict[Label, np.ndarray] = {"extra": mask & ~truth, "missed": truth & ~mask}
    for label, wrong in wrongs.items():
        count, parts = cv2.connectedComponents(wrong.astype(np.uint8), connectivity=8)
        found += [(label, parts == part) for part in range(1, count)]
    return sorted(found, key=lambda one: -np.count_nonzero(one[1]))


def circle_mistakes(
    mask: np.ndarray, truth: np.ndarray, *, annotator: int, task: str, seed: int, most: int, error_rate: float
) -> list[Loop]:
    """Loops of a simulated annotator round the largest connected mistakes of a mask.

    A loop is the mistake's convex hull with some room, as a hand draws it, so it holds pixels beside the mistake too.
    A mistake that no loop can hold without holding more else, such as a rim all round, is not circled.

    Args:
        mask, truth: (H, W) bool.
        annotator, task, seed: as in `annotate`.
        most: how many mistakes are circled at most.
        error_rate: chance that a loop is drawn beside its mistake: moved by its own size in a random direction.
    """
    rng = np.random.default_rng([seed, _CIRCLES, annotator, zlib.crc32(task.encode())])
    loops: list[Loop] = []
    for label, part in _mistakes(mask, truth) if most else []:
        area = np.count_nonzero(part)
        if len(loops) == most or area < max(_WORTH_A_LOOP * truth.sum(), 2):
            break
        room = 2 * max(round(_ROOM * float(np.sqrt(area))), 1) + 1
        tight, wide = (
            cv2.convexHull(cv2.findNonZero(region))[:, 0].astype(float)
            for region in (part.astype(np.uint8), cv2.dilate(part.astype(np.uint8), np.ones((room, room), np.uint8)))
        )
        if area < _FILLED * loop_mask(tight.tolist(), mask.shape).sum():
            continue
        angle, is_beside = rng.uniform(0, 2 * np.pi), rng.random() < error_rate
        if is_beside:
            wide = wide + np.ptp(wide, axis=0) * (np.cos(angle), np.sin(angle))
        loops.append(Loop(label, [(x, y) for x, y in wide.tolist()]))
    return loops


def draw(
    ranked: Annotation,
    masks: Sequence[np.ndarray],
    truth: np.ndarray,
    *,
    annotator: int,
    task: str,
    seed: int,
    habits: Habits,
) -> tuple[list[Loop], np.ndarray | None]:
    """What a simulated annotator circles in the mask ranked first, and that mask as mended, or None.

    Args:
        ranked: of `annotate`, for the masks (K, H, W) bool and the truth (H, W) bool; the others are as there.
    """
    best = masks[ranked.ranking.index(1)]
    loops = [] if ranked.unusable else circle_mistakes(
        best, truth, annotator=annotator, task=task, seed=seed, most=habits.circles, error_rate=habits.circle_error
    )
    mended = best.copy()
    for _, part in _mistakes(best, truth)[: habits.mended] if habits.mended else []:
        mended ^= part
    return loops, mended if mended.any() and (mended != best).any() else None


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
    habits: Habits = Habits(),
) -> dict[str, Any] | None:
    """Let simulated annotators rank one candidate row.

    Args:
        row: of `schema.candidate_features`.
        truth: (H, W) bool, by which they judge.
        task, noise, flip_rate, seed: as in `annotate`.
        annotators: how many.
        tally: is told of their rankings.
        habits: what they do beside ranking.

    Returns:
        A row of `schema.preference_features`, or None when the rankings tie from top to bottom (no mask is usable, say).
    """
    masks = candidate_masks(row)
    criteria, ious = rate_masks(masks, truth)
    groups = identical_groups(np.stack(masks))
    annotations = [
        annotate(criteria, ious, groups, annotator=number, task=task, seed=seed, noise=noise, flip_rate=flip_rate)
        for number in range(annotators)
    ]
    for number, one in enumerate(annotations):
        loops, mended = draw(one, masks, truth, annotator=number, task=task, seed=seed, habits=habits)
        best = one.ranking.index(1)
        annotations[number] = dataclasses.replace(
            one,
            seconds=habits.seconds_per_ranking
            + habits.seconds_per_circle * len(loops)
            + habits.seconds_per_correction * (mended is not None),
            regions=[
                {"candidate": best, "label": loop.label, "rle": encode_rle(loop_mask(loop.points, truth.shape))}
                for loop in loops
            ],
            correction=None if mended is None else encode_rle(mended),
        )
    preference, verdict = preference_row(row, annotations, criteria=criteria)
    tally.add(annotations, verdict, row["candidates"], pair_ious(ious, truth, preference, verdict))
    return preference
