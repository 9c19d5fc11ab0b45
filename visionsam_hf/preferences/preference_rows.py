"""Candidate rows and their annotations to rows of the preference data set."""

import dataclasses
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from visionsam_hf.data.errors import decoding
from visionsam_hf.data.masks import decode_mask, decode_rle, encode_mask, mask_iou
from visionsam_hf.preferences.ranking_statistics import Tally
from visionsam_hf.preferences.rankings import Annotation, Verdict, aggregate
from visionsam_hf.preferences.rubric import CRITERIA, rate_masks
from visionsam_hf.preferences.store_statistics import Answer


def preference_row(
    row: Mapping[str, Any],
    annotations: Sequence[Annotation],
    *,
    criteria: np.ndarray | None = None,
    deciding: str | None = None,
) -> tuple[dict[str, Any] | None, Verdict]:
    """One row of `schema.preference_features`, and the verdict it stands on.

    Args:
        row: a row of `schema.candidate_features`; `image` and `truth` may be undecoded ({"bytes", "path"}).
        annotations: at least one, each ranking the row's candidates in the row's order.
        criteria: (K, 4) criteria of the candidates, or None where no truth is known.
        deciding: the kind of annotators, "human" or "oracle", whose rankings make the verdict; None means all. The
            others are listed all the same, without what they circled.

    Returns:
        The row, with the candidates (and everyone's ranks of them) best first, or None when the annotations tie from
        top to bottom and nobody mended one. The chosen mask is the best candidate or, where somebody mended it, that: of
        several corrections every pixel that at least half of them hold.
    """
    heard = [one for one in annotations if deciding in (None, one.kind)]
    verdict = aggregate([one.ranking for one in heard])
    best, worst = (decode_rle(row["candidates"][verdict.order[place]]["rle"]) for place in (0, -1))
    corrections = [decode_rle(one.correction) for one in heard if one.correction is not None]
    mended = 2 * np.sum(corrections, axis=0) >= len(corrections) if corrections else None
    if mended is not None and mended.any() and not np.array_equal(mended, worst):
        verdict = dataclasses.replace(verdict, mended=True)
    if verdict.is_tie:
        return None, verdict
    ranked = []
    regions = []
    for annotation in annotations:
        told = dataclasses.asdict(annotation)
        del told["unusable"], told["regions"], told["correction"]
        ranked.append(told | {"ranking": [annotation.ranking[index] for index in verdict.order]})
        if annotation in heard:
            regions += [
                {**region, "candidate": verdict.order.index(region["candidate"]), "annotator": annotation.annotator}
                for region in annotation.regions
            ]
    copied = {key: row[key] for key in ("image", "image_id", "category", "box", "object_index", "truth")}
    preference = copied | {
        "chosen": encode_mask(mended if verdict.mended else best),
        "chosen_kind": "corrected" if verdict.mended else "ranked",
        "rejected": encode_mask(worst),
        "margin": verdict.margin,
        "votes": verdict.votes,
        "candidates": [_candidate(row["candidates"][index], index, verdict, criteria) for index in verdict.order],
        "annotations": ranked,
        "regions": regions,
    }
    return preference, verdict


def _candidate(
    candidate: Mapping[str, Any], index: int, verdict: Verdict, criteria: np.ndarray | None
) -> dict[str, Any]:
    values = [None] * len(CRITERIA) if criteria is None else [float(value) for value in criteria[index]]
    told = {name: candidate[name] for name in ("rle", "token", "score")}
    return told | {"mean_rank": verdict.mean_ranks[index], **dict(zip(CRITERIA, values, strict=True))}


def pair_ious(
    ious: Sequence[float], truth: np.ndarray, preference: Mapping[str, Any] | None, verdict: Verdict
) -> list[float]:
    """The candidates' IoU with the truth; where somebody mended the best one, that of what came of it."""
    ious = list(ious)
    if preference is not None and verdict.mended:
        ious[verdict.order[0]] = mask_iou(decode_mask(preference["chosen"]), truth)
    return ious


def told_ious(chosen: float, rejected: float, share_worse: float) -> str:
    """What pairs teach, in words: mean IoU of both masks, and the share whose chosen mask has the lower one."""
    return f"IoU {chosen:.3f} chosen and {rejected:.3f} rejected, {share_worse:.0%} the wrong way round"


@dataclasses.dataclass(frozen=True)
class PairQuality:
    """What pairs teach, where the truth is known: mean IoU with it, and the share whose chosen mask has the lower one."""

    pairs: int
    chosen_iou: float
    rejected_iou: float
    share_worse_chosen: float

    @property
    def teach_wrong(self) -> bool:
        """Whether they teach as much of the wrong as of the right."""
        return self.share_worse_chosen > 0.25 or self.chosen_iou <= self.rejected_iou

    def __str__(self) -> str:
        return f"{self.pairs} pairs, {told_ious(self.chosen_iou, self.rejected_iou, self.share_worse_chosen)}"


def pair_quality(rows: Iterable[Mapping[str, Any]]) -> PairQuality | None:
    """Compare the pairs of preference rows with their truth; None where none is known."""
    found = []
    for row in rows:
        if row["truth"] is not None:
            truth = decode_mask(row["truth"])
            found.append([mask_iou(decode_mask(row[name]), truth) for name in ("chosen", "rejected")])
    if not found:
        return None
    chosen, rejected = np.array(found).T
    return PairQuality(len(found), chosen.mean(), rejected.mean(), float((chosen < rejected).mean()))


class Exporter:
    """Rows of a preference data set from a store's answers, counting what is left out."""

    def __init__(self, answers: Sequence[Answer], kind: str, min_votes: int) -> None:
        self._kind = kind
        self._min_votes = min_votes
        self._by_row: dict[tuple[str, int], list[Answer]] = {}
        for item in answers:
            if item.task_kind == "ranked" and item.round == 0 and not item.surplus:
                self._by_row.setdefault((item.split, item.row), []).append(item)
        self._tally = Tally()
        self._counts = {"too_few_votes": 0, "flagged": 0, "corrected": 0}
        self._regions: list[dict[str, Any]] = []

    def rows(self, split: str, dataset: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """The preference rows of one split of the candidate set (images undecoded)."""
        for number, row in enumerate(dataset):
            answers = self._by_row.get((split, number), [])
            ranked = [item for item in answers if item.status == "ranked"]
            deciding = [item for item in ranked if item.kind == self._kind]
            flags = [item for item in answers if item.status == "flagged" and item.kind == self._kind]
            if len(flags) > len(deciding):
                self._counts["flagged"] += 1
                continue
            if len(deciding) < self._min_votes:
                self._counts["too_few_votes"] += 1
                continue
            masks, truth = candidate_masks(row), truth_of(row)
            criteria, ious = (None, None) if truth is None else rate_masks(masks, truth)
            preference, verdict = preference_row(
                row, [_annotation(item) for item in ranked], criteria=criteria, deciding=self._kind
            )
            if ious is not None:
                ious = pair_ious(ious, truth, preference, verdict)
            self._tally.add([_annotation(item) for item in deciding], verdict, row["candidates"], ious)
            if preference is None:
                continue
            where = {"image_id": row["image_id"], "object_index": row["object_index"], "split": split}
            self._counts["corrected"] += preference["chosen_kind"] == "corrected"
            self._regions += [where | region for region in preference["regions"]]
            yield preference

    def write_regions(self, path: Path) -> None:
        """The lassoed mistakes, a JSON line each; `candidate` counts in the row's order, best first. None, no file."""
        if self._regions:
            path.write_text("".join(json.dumps(region) + "\n" for region in self._regions), encoding="utf-8")

    def results(self) -> dict[str, Any]:
        """What `stage.json` records."""
        return self._tally.summary() | self._counts | {"regions": len(self._regions)}


def _annotation(item: Answer) -> Annotation:
    criterion, seconds = item.detail.get("criterion"), item.detail.get("seconds")
    more = {"unusable": bool(item.detail.get("unusable")), "regions": item.detail.get("regions", [])}
    more["correction"] = item.detail.get("correction")
    return Annotation(item.annotator, item.kind, item.ranks, criterion, seconds, **more)


def candidate_masks(row: Mapping[str, Any]) -> list[np.ndarray]:
    """The (H, W) bool masks of a candidate row, in its order."""
    return [decode_rle(candidate["rle"]) for candidate in row["candidates"]]


def truth_of(row: Mapping[str, Any]) -> np.ndarray | None:
    """The (H, W) bool truth of a candidate row whose images are undecoded, or None."""
    if row["truth"] is None:
        return None
    with decoding(f"{row['image_id']}: the true mask"):
        return decode_mask(Image.open(io.BytesIO(row["truth"]["bytes"])))
