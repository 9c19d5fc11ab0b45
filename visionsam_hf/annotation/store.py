"""Who ranks what, and what they said: claims with leases, and answers as events that are never lost or doubled."""

import dataclasses
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sqlalchemy import Connection, Engine, and_, func, insert, or_, select, update

from visionsam_hf.annotation.answers import Submission, apply_event
from visionsam_hf.annotation.database import (
    annotator,
    answer,
    assignment,
    candidate,
    events,
    priority,
    project,
    reading,
    task,
    writing,
)
from visionsam_hf.preferences.ranking_statistics import tau

LEASE_SECONDS = 600.0
GOLD_SHARE = 0.05
REPEAT_SHARE = 0.05
# A repeat comes no sooner than this many tasks later, when the first answer is forgotten.
REPEAT_AFTER = 20
AUDIT_SHARE = 0.05
_ORDER, _MIX, _AUDIT = 1, 2, 3


class Refused(Exception):
    """A submission that cannot be taken; the message is for whoever sent it."""


@dataclasses.dataclass(frozen=True)
class Assignment:
    """A task in one annotator's hands. `order` says which candidate stands in which pane."""

    public: str
    task_id: int
    kind: str
    split: str
    row: int
    round: int
    order: list[int]
    # Each pane's first nearly identical pane, or itself.
    twins: list[int]
    # One in twenty, for a closer look at each mask.
    is_audited: bool


class Store:
    """The annotation store behind an engine of `database.open_engine`, once a project was put into it."""

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.time, gate: float = 0.5) -> None:
        self.engine = engine
        self.gate = gate
        self._clock = clock

    # ---- claiming -------------------------------------------------------------------------------------------------

    def claim(self, annotator_id: int, count: int) -> list[Assignment]:
        """Up to `count` tasks for one annotator: those already in their hands first, their leases renewed.

        A task is given out while its answers and live leases, of annotators of the same kind, are fewer than the overlap.
        """
        with writing(self.engine) as connection:
            now = self._clock()
            setup = connection.execute(select(project)).one()
            held = self._renew_held(connection, annotator_id, setup.overlap, now, count)
            while len(held) < count:
                task_id, round_ = self._next_task(connection, annotator_id, setup, now)
                if task_id is None:
                    break
                held.append(self._assign(connection, annotator_id, task_id, round_, setup.seed, now))
            return [self._assignment(connection, assignment_id) for assignment_id in held]

    def heartbeat(self, annotator_id: int) -> None:
        """Renew the leases of what this annotator holds."""
        with writing(self.engine) as connection:
            now = self._clock()
            held = (assignment.c.annotator_id == annotator_id, assignment.c.lease_until > now, ~_answered())
            _renew(connection, now, *held)

    def assignment(self, annotator_id: int, public: str) -> Assignment | None:
        """What this public name stands for, if it is this annotator's."""
        query = select(assignment.c.id).where(assignment.c.public == public, assignment.c.annotator_id == annotator_id)
        with reading(self.engine) as connection:
            assignment_id = connection.scalar(query)
            return None if assignment_id is None else self._assignment(connection, assignment_id)

    def _renew_held(self, connection: Connection, annotator_id: int, overlap: int, now: float, count: int) -> list[int]:
        query = (
            select(assignment.c.id, assignment.c.task_id, assignment.c.lease_until, assignment.c.round, task.c.kind)
            .select_from(assignment.join(task))
            .where(assignment.c.annotator_id == annotator_id, ~_answered())
            .order_by(assignment.c.id)
        )
        held = []
        for row in connection.execute(query).all():
            shared = row.kind == "ranked" and row.round == 0
            if shared and row.lease_until <= now and self._taken(connection, row.task_id, annotator_id, now) >= overlap:
                continue
            held.append(row.id)
            _renew(connection, now, assignment.c.id == row.id)
            if len(held) == count:
                break
        return held

    def _next_task(self, connection: Connection, annotator_id: int, setup: Any, now: float) -> tuple[int | None, int]:
        kind = connection.scalar(select(annotator.c.kind).where(annotator.c.id == annotator_id))
        special = self._special_task(connection, annotator_id, setup.seed) if kind == "human" else None
        if special is not None:
            return special
        open_task = _unseen(annotator_id, "ranked").where(
            _taken_query(task.c.id, now, kind).scalar_subquery() < setup.overlap
        )
        if connection.scalar(select(priority.c.place).limit(1)) is not None:
            open_task = open_task.join(priority).order_by(None).order_by(priority.c.place)
        return connection.scalar(open_task), 0

    def _special_task(self, connection: Connection, annotator_id: int, seed: int) -> tuple[int | None, int] | None:
        """Calibration until it is passed, then now and then hidden gold or a repeat; None means ordinary work."""
        in_calibration = calibration_state(connection, annotator_id, self.gate)
        if in_calibration["tasks"] and not in_calibration["passed"]:
            return in_calibration["next"], in_calibration["attempt"]
        seen = connection.scalar(select(func.count(assignment.c.id)).where(assignment.c.annotator_id == annotator_id))
        draw = np.random.default_rng([seed, _MIX, annotator_id, seen]).random()
        if draw < GOLD_SHARE:
            gold = connection.scalar(_unseen(annotator_id, "gold"))
            return None if gold is None else (gold, 0)
        if draw < GOLD_SHARE + REPEAT_SHARE:
            repeat = self._to_repeat(connection, annotator_id)
            return None if repeat is None else (repeat, 1)
        return None

    def _to_repeat(self, connection: Connection, annotator_id: int) -> int | None:
        again = assignment.alias()
        query = (
            select(assignment.c.task_id)
            .select_from(assignment.join(task).join(answer))
            .where(assignment.c.annotator_id == annotator_id, assignment.c.round == 0)
            .where(task.c.kind == "ranked", answer.c.status == "ranked")
            .where(
                ~select(again.c.id)
                .where(again.c.task_id == assignment.c.task_id, again.c.annotator_id == annotator_id, again.c.round > 0)
                .exists()
            )
            .order_by(assignment.c.id)
        )
        answered = connection.scalars(query).all()
        return answered[0] if len(answered) > REPEAT_AFTER else None

    def _taken(self, connection: Connection, task_id: int, annotator_id: int, now: float) -> int:
        kind = select(annotator.c.kind).where(annotator.c.id == annotator_id).scalar_subquery()
        query = _taken_query(task_id, now, kind).where(assignment.c.annotator_id != annotator_id)
        return connection.scalar(query)

    def _assign(
        self, connection: Connection, annotator_id: int, task_id: int, round_: int, seed: int, now: float
    ) -> int:
        places = np.random.default_rng([seed, _ORDER, annotator_id, task_id, round_]).permutation(3)
        return connection.execute(
            insert(assignment).values(
                public=secrets.token_urlsafe(18),
                task_id=task_id,
                annotator_id=annotator_id,
                round=round_,
                order=[int(place) for place in places],
                lease_until=now + LEASE_SECONDS,
            )
        ).inserted_primary_key[0]

    def _assignment(self, connection: Connection, assignment_id: int) -> Assignment:
        row = connection.execute(
            select(assignment, task.c.kind, task.c.split, task.c.row)
            .select_from(assignment.join(task))
            .where(assignment.c.id == assignment_id)
        ).one()
        twins = _twins(connection, row.task_id)
        groups = [twins[place] for place in row.order]
        # By pane: a candidate's number would tell which pane shows which.
        shown = [groups.index(group) for group in groups]
        seed = connection.scalar(select(project.c.seed))
        draw = np.random.default_rng([seed, _AUDIT, row.id]).random()
        return Assignment(
            row.public, row.task_id, row.kind, row.split, row.row, row.round, row.order, shown, draw < AUDIT_SHARE
        )

    # ---- answering ------------------------------------------------------------------------------------------------

    def submit(
        self,
        annotator_id: int,
        submission: Submission,
        size: tuple[int, int] | None = None,
        shown: tuple[int, int, int, int] | None = None,
    ) -> dict[str, Any]:
        """Take one submission; the same one again changes nothing and gets the same acknowledgement.

        Args:
            size, shown: as in `Submission.by_candidate`; needed when regions or a corrected mask come with the ranking.

        Raises:
            ValueError: what was drawn does not fit the image.
            Refused: the assignment is not this annotator's, or the UUID was used for something else.
        """
        with writing(self.engine) as connection:
            known = connection.execute(select(events).where(events.c.uuid == submission.uuid)).first()
            if known is not None:
                if known.annotator_id != annotator_id:
                    raise Refused("this UUID was used before")
                return {"uuid": submission.uuid, "surplus": known.surplus, "duplicate": True}
            row = connection.execute(
                select(assignment, task.c.kind)
                .select_from(assignment.join(task))
                .where(assignment.c.public == submission.assignment, assignment.c.annotator_id == annotator_id)
            ).first()
            if row is None:
                raise Refused("no such task in your hands")
            now = self._clock()
            standing = connection.execute(select(answer).where(answer.c.assignment_id == row.id)).first()
            kind: str = submission.kind
            if kind == "submit" and standing is not None:
                kind = "revise"
            surplus = self._is_surplus(connection, row, standing, kind, now)
            event = {
                "uuid": submission.uuid,
                "assignment_id": row.id,
                "annotator_id": annotator_id,
                "kind": kind,
                "payload": submission.by_candidate(row.order, _twins(connection, row.task_id), size, shown),
                "surplus": surplus,
                "at": now,
            }
            connection.execute(insert(events).values(**event))
            apply_event(connection, event)
            if kind == "undo":
                _renew(connection, now, assignment.c.id == row.id)
        return {"uuid": submission.uuid, "surplus": surplus, "duplicate": False}

    def _is_surplus(self, connection: Connection, row: Any, standing: Any, kind: str, now: float) -> bool:
        if row.kind != "ranked" or row.round or kind in ("undo", "skip"):
            return False
        if standing is not None and standing.status != "skipped":
            return standing.surplus
        overlap = connection.scalar(select(project.c.overlap))
        return self._taken(connection, row.task_id, row.annotator_id, now) >= overlap

    # ---- looking --------------------------------------------------------------------------------------------------

    def answer(self, public: str) -> dict[str, Any] | None:
        """The answer that stands on an assignment, or None."""
        query = select(answer).select_from(answer.join(assignment))
        with reading(self.engine) as connection:
            row = connection.execute(query.where(assignment.c.public == public)).mappings().first()
            return None if row is None else dict(row)

    def truth_ranking(self, task_id: int) -> list[int]:
        """The ranking by the truth, of a calibration or gold task."""
        with reading(self.engine) as connection:
            return connection.scalar(select(task.c.truth_ranking).where(task.c.id == task_id))

    def progress(self, annotator_id: int) -> dict[str, Any]:
        """How far this annotator and everyone are, and this annotator's median seconds of the last day."""
        with reading(self.engine) as connection:
            now = self._clock()
            overlap = connection.scalar(select(project.c.overlap))
            total = connection.scalar(select(func.count(task.c.id)).where(task.c.kind == "ranked"))
            humans = _answers("human").where(task.c.kind == "ranked", assignment.c.round == 0, ~answer.c.surplus)
            done = connection.scalar(select(func.count()).select_from(humans.subquery()))
            mine = connection.execute(
                _answers("human").where(assignment.c.annotator_id == annotator_id, task.c.kind != "calibration")
            ).mappings().all()
            today = [row["detail"].get("seconds") for row in mine if row["at"] > now - 86400]
            seconds = [value for value in today if value is not None]
            name = connection.scalar(select(annotator.c.name).where(annotator.c.id == annotator_id))
            return {
                "annotator": name,
                "mine": len(mine),
                "done": done,
                "wanted": total * overlap,
                "median_seconds": round(float(np.median(seconds)), 2) if seconds else None,
                "calibration": calibration_state(connection, annotator_id, self.gate),
            }

    def retry_calibration(self, annotator_id: int) -> None:
        """Begin the calibration again, after one that missed the gate."""
        with writing(self.engine) as connection:
            state = calibration_state(connection, annotator_id, self.gate)
            if not state["tasks"] or state["passed"] or state["done"] < state["tasks"]:
                raise Refused("the calibration cannot be begun again now")
            first = connection.scalar(select(func.min(task.c.id)).where(task.c.kind == "calibration"))
            seed = connection.scalar(select(project.c.seed))
            self._assign(connection, annotator_id, first, state["attempt"] + 1, seed, self._clock())


def calibration_state(connection: Connection, annotator_id: int, gate: float) -> dict[str, Any]:
    """The latest attempt: tasks, how many are done, mean τ-b with the truth, whether that passes, what comes next."""
    wanted = connection.execute(
        select(task.c.id, task.c.truth_ranking).where(task.c.kind == "calibration").order_by(task.c.id)
    ).all()
    rows = connection.execute(
        select(assignment.c.task_id, assignment.c.round, answer.c.ranking, answer.c.status)
        .select_from(assignment.join(task).outerjoin(answer))
        .where(assignment.c.annotator_id == annotator_id, task.c.kind == "calibration")
    ).all()
    attempt = max((row.round for row in rows), default=0)
    latest = {row.task_id: row for row in rows if row.round == attempt}
    done = {task_id: row for task_id, row in latest.items() if row.status is not None}
    agreement = [
        value
        for task_id, truth in wanted
        if task_id in done and (value := _agreement(done[task_id].ranking, truth)) is not None
    ]
    mean = round(sum(agreement) / len(agreement), 3) if agreement else None
    return {
        "tasks": len(wanted),
        "done": len(done),
        "attempt": attempt,
        "agreement": mean,
        "gate": gate,
        "passed": len(done) == len(wanted) and (mean is None or mean >= gate),
        "next": next((task_id for task_id, _ in wanted if task_id not in latest), None),
    }


def _agreement(ranking: Sequence[int] | None, truth: Sequence[int]) -> float | None:
    if len(set(truth)) < 2:
        return None
    # A skip, or calling everything equal, agrees with nothing.
    return 0.0 if ranking is None or len(set(ranking)) < 2 else tau(ranking, truth)


def _renew(connection: Connection, now: float, *which: Any) -> None:
    connection.execute(update(assignment).where(*which).values(lease_until=now + LEASE_SECONDS))


def _answered() -> Any:
    return select(answer.c.assignment_id).where(answer.c.assignment_id == assignment.c.id).exists()


def _unseen(annotator_id: int, kind: str) -> Any:
    seen = select(assignment.c.id).where(assignment.c.task_id == task.c.id, assignment.c.annotator_id == annotator_id)
    return select(task.c.id).where(task.c.kind == kind, ~seen.exists()).order_by(task.c.id).limit(1)


def _taken_query(task_id: Any, now: float, kind: Any) -> Any:
    """How many of a task's places are filled: standing answers that are not surplus, and live leases."""
    counts = or_(
        and_(answer.c.status.in_(("ranked", "flagged")), ~answer.c.surplus),
        and_(answer.c.assignment_id.is_(None), assignment.c.lease_until > now),
    )
    return (
        select(func.count())
        .select_from(assignment.outerjoin(answer).join(annotator))
        .where(assignment.c.task_id == task_id, assignment.c.round == 0, annotator.c.kind == kind, counts)
    )


def _answers(kind: str) -> Any:
    return (
        select(answer.c.assignment_id, answer.c.detail, answer.c.at)
        .select_from(answer.join(assignment).join(task).join(annotator))
        .where(annotator.c.kind == kind)
    )


def _twins(connection: Connection, task_id: int) -> list[int]:
    query = select(candidate.c.twin).where(candidate.c.task_id == task_id).order_by(candidate.c.place)
    return list(connection.scalars(query))
