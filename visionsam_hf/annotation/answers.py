"""Answers: as they are sent, word by word checked; as they stand after all events; as statistics and export get them."""

import uuid
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, Field, field_validator, model_validator
from sqlalchemy import Connection, Engine, delete, func, insert, select

from visionsam_hf.annotation.database import annotator, answer, assignment, events, proposal, reading, task, writing
from visionsam_hf.data.critiques import Label, loop_mask
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.masks import decode_rle, encode_rle
from visionsam_hf.preferences.rankings import dense, is_ranking
from visionsam_hf.preferences.rubric import CRITERIA
from visionsam_hf.preferences.store_statistics import Answer

PANES = 3
# Characters of a corrected mask's code: a batch of some fits into one request.
MAX_COUNTS = 60_000
Coordinate = Annotated[float, Field(ge=-1e5, le=1e5)]
# x, y in pixels of the original image
Point = tuple[Coordinate, Coordinate]


class Region(BaseModel, extra="forbid"):
    """A lasso round a mistake of one mask."""

    pane: int = Field(ge=0, lt=PANES)
    label: Label
    points: list[Point] = Field(min_length=3, max_length=500)


class Rle(BaseModel, extra="forbid"):
    """A mask of what the page shows, as COCO's compressed run-length code; `decode` checks it."""

    size: tuple[int, int]
    counts: str = Field(min_length=1, max_length=MAX_COUNTS)

    def decode(self, shown: tuple[int, int, int, int], size: tuple[int, int]) -> np.ndarray:
        """The (H, W) bool mask of the whole image.

        Args:
            shown: the part of the image that the page shows, x1, y1, x2, y2.
            size: height and width of the image.

        Raises:
            ValueError: another size than what is shown, no code of so many pixels, or an empty mask.
        """
        x1, y1, x2, y2 = shown
        if self.size != (y2 - y1, x2 - x1):
            raise ValueError("a corrected mask has the size of what is shown")
        mask = np.zeros(size, bool)
        try:
            mask[y1:y2, x1:x2] = decode_rle({"size": list(self.size), "counts": self.counts})
        except UserError:
            raise ValueError("a corrected mask is no run-length code") from None
        if not mask.any():
            raise ValueError("a corrected mask is empty")
        return mask


def _is_uuid(value: str) -> str:
    if str(uuid.UUID(value)) != value:
        raise ValueError("not a UUID in its usual form")
    return value


class Submission(BaseModel, extra="forbid"):
    """One answer, or taking one back. Everything by pane, as the annotator saw it."""

    uuid: Annotated[str, AfterValidator(_is_uuid)]
    assignment: str = Field(min_length=8, max_length=64)
    kind: Literal["submit", "undo", "skip", "flag"]
    ranking: list[int] | None = None
    unusable: bool = False
    criterion: Literal["coverage", "boundary", "over_under", "noise"] | None = None
    reason: Literal["bad_box", "bad_image", "no_anomaly"] | None = None
    seconds: float | None = Field(default=None, ge=0, le=86400)
    regions: list[Region] = Field(default=[], max_length=20)
    # The best mask, mended.
    correction: Rle | None = None
    # Per pane four numbers from 1 to 5, in the order of the criteria.
    ratings: list[list[int]] | None = None

    @field_validator("ranking")
    @classmethod
    def _dense(cls, ranking: list[int] | None) -> list[int] | None:
        if ranking is not None and not is_ranking(ranking, PANES):
            raise ValueError(f"not the dense ranks of {PANES} masks")
        return ranking

    @field_validator("ratings")
    @classmethod
    def _one_to_five(cls, ratings: list[list[int]] | None) -> list[list[int]] | None:
        if ratings is not None and (
            [len(row) for row in ratings] != [len(CRITERIA)] * PANES
            or not all(1 <= v <= 5 for row in ratings for v in row)
        ):
            raise ValueError(f"not {PANES} times {len(CRITERIA)} numbers from 1 to 5")
        return ratings

    @model_validator(mode="after")
    def _complete(self) -> "Submission":
        if (self.kind == "submit") != (self.ranking is not None):
            raise ValueError("a ranking belongs to 'submit' and to nothing else")
        if self.correction is not None and self.kind != "submit":
            raise ValueError("a corrected mask belongs to 'submit' and to nothing else")
        if (self.kind == "flag") != (self.reason is not None):
            raise ValueError("a reason belongs to 'flag' and to nothing else")
        if self.unusable and set(self.ranking or []) != {1}:
            raise ValueError("'unusable' is a tie of all masks")
        return self

    def by_candidate(
        self,
        order: list[int],
        twins: list[int],
        size: tuple[int, int] | None = None,
        shown: tuple[int, int, int, int] | None = None,
    ) -> dict[str, Any]:
        """The payload of this submission's event, by candidate instead of by pane.

        Args:
            order: which candidate stood in which pane.
            twins: for each candidate the first that it is nearly identical to: they share the better of their ranks.
            size: height and width of the image, for its lassoed regions and its corrected mask.
            shown: the part of the image that the page shows, for its corrected mask; None is all of it.

        Raises:
            ValueError: what was drawn does not fit the image.
        """
        if self.kind == "undo":
            return {}
        payload: dict[str, Any] = {"seconds": self.seconds}
        if self.kind == "flag":
            payload["reason"] = self.reason
        if self.ranking is None:
            return payload
        panes = [order.index(place) for place in range(PANES)]
        ranks = [self.ranking[pane] for pane in panes]
        payload["ranking"] = dense([min(rank for rank, other in zip(ranks, twins) if other == twin) for twin in twins])
        payload["unusable"] = self.unusable
        payload["criterion"] = self.criterion
        if self.regions:
            if size is None:
                raise ValueError("regions need the image's size")
            payload["regions"] = [
                {"candidate": order[one.pane], "label": one.label, "rle": encode_rle(loop_mask(one.points, size))}
                for one in self.regions
            ]
        if self.correction is not None:
            if size is None:
                raise ValueError("a corrected mask needs the image's size")
            payload["correction"] = encode_rle(self.correction.decode(shown or (0, 0, size[1], size[0]), size))
        if self.ratings is not None:
            payload["ratings"] = [self.ratings[pane] for pane in panes]
        return payload


_STATUS = {"submit": "ranked", "revise": "ranked", "skip": "skipped", "flag": "flagged"}


def apply_event(connection: Connection, event: Mapping[str, Any]) -> None:
    """Bring the answers up to one more event: the last word on an assignment counts, an undo takes it back."""
    connection.execute(delete(answer).where(answer.c.assignment_id == event["assignment_id"]))
    if event["kind"] == "undo":
        return
    payload = dict(event["payload"])
    connection.execute(
        insert(answer).values(
            assignment_id=event["assignment_id"],
            status=_STATUS[event["kind"]],
            ranking=payload.pop("ranking", None),
            detail=payload,
            surplus=event["surplus"],
            uuid=event["uuid"],
            at=event["at"],
        )
    )


def rebuild(engine: Engine) -> int:
    """Make the answers again from all events, in their order; returns how many events there are."""
    with writing(engine) as connection:
        connection.execute(delete(answer))
        rows = connection.execute(select(events).order_by(events.c.seq)).mappings().all()
        for row in rows:
            apply_event(connection, row)
    return len(rows)


def snapshot(connection: Connection) -> list[dict[str, Any]]:
    """All answers, in an order of their own, for comparing two states."""
    return [dict(row) for row in connection.execute(select(answer).order_by(answer.c.assignment_id)).mappings()]


def load_answers(engine: Engine) -> list[Answer]:
    """Every standing answer, by task and annotator; people under pseudonyms."""
    query = (
        select(assignment.c.task_id, task.c.kind.label("task_kind"), task.c.split, task.c.row, assignment.c.round)
        .add_columns(annotator.c.name.label("annotator"), annotator.c.kind, answer.c.status, answer.c.ranking)
        .add_columns(assignment.c.order, answer.c.surplus, answer.c.at, answer.c.detail)
        .add_columns(func.coalesce(proposal.c.round, 0).label("proposed_in"))
        .select_from(answer.join(assignment).join(task).join(annotator).outerjoin(proposal))
        .order_by(assignment.c.task_id, annotator.c.id, assignment.c.round)
    )
    people = select(annotator.c.name).where(annotator.c.kind == "human").order_by(annotator.c.id)
    with reading(engine) as connection:
        pseudonyms = {name: f"annotator-{n}" for n, name in enumerate(connection.scalars(people), 1)}
        return [
            Answer(**{**row, "annotator": pseudonyms.get(row["annotator"], row["annotator"])})
            for row in connection.execute(query).mappings()
        ]


def count_undone(engine: Engine) -> int:
    """How many answers were taken back."""
    with reading(engine) as connection:
        return connection.scalar(select(func.count(events.c.seq)).where(events.c.kind == "undo"))
