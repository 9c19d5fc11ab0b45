"""Rounds of candidates: which model proposed a task's masks, and newer masks for the tasks that nobody has seen yet.

A task's masks are settled when it first comes into somebody's hands; what its round says of them never changes again.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, delete, func, insert, select

from visionsam_hf.annotation.database import (
    annotator,
    answer,
    assignment,
    candidate,
    proposal,
    reading,
    rounds,
    task,
    writing,
)
from visionsam_hf.annotation.tasks import task_values
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.records import fingerprint, same_fingerprint

# Name of a candidate set -> its splits, images undecoded.
Load = Callable[[str], Mapping[str, Any]]


class RoundRows:
    """A split of a store's candidate set, every row with the masks of its task's round.

    Args:
        engine: of the store. split: the split's name.
        sets: number of a round -> its candidate set's splits.
    """

    def __init__(self, engine: Engine, split: str, sets: Callable[[int], Mapping[str, Any]]) -> None:
        self._engine, self._split, self._sets = engine, split, sets
        self.features = sets(0)[split].features

    def __len__(self) -> int:
        return len(self._sets(0)[self._split])

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self._sets(self._proposed(task.c.row == row).get(row, 0))[self._split][row]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        proposed = self._proposed()
        return (self._sets(proposed.get(row, 0))[self._split][row] for row in range(len(self)))

    def _proposed(self, *which: Any) -> dict[int, int]:
        # Asked each time: another process may have taken a round in.
        query = select(task.c.row, proposal.c.round).select_from(proposal.join(task))
        with reading(self._engine) as connection:
            return dict(connection.execute(query.where(task.c.split == self._split, *which)).tuples().all())


def rows_of_rounds(engine: Engine, datasets: Mapping[str, Any], load: Load) -> dict[str, RoundRows]:
    """The splits of a store's candidate set with the masks of every round.

    Args:
        datasets: the candidate set that the store was made for.
        load: opens the candidate sets of later rounds, each when it is first needed.
    """
    opened: dict[int, Mapping[str, Any]] = {0: datasets}

    def sets(number: int) -> Mapping[str, Any]:
        if number not in opened:
            with reading(engine) as connection:
                known = connection.execute(select(rounds).where(rounds.c.number == number)).one()
            is_there = Path(known.candidates).is_dir()
            if not (is_there and same_fingerprint(known.fingerprint, fingerprint(known.candidates))):
                raise UserError(f"{known.candidates}: is not what round {number} proposed; put its directory back")
            opened[number] = load(known.candidates)
        return opened[number]

    return {split: RoundRows(engine, split, sets) for split in datasets}


def begin_rounds(engine: Engine, *, model: str, candidates: str) -> None:
    """Say which model made the candidates that the store was filled with, unless that is known."""
    with writing(engine) as connection:
        if connection.scalar(select(rounds.c.number).limit(1)) is None:
            first = {"number": 0, "model": model, "candidates": candidates, "fingerprint": fingerprint(candidates)}
            connection.execute(insert(rounds).values(**first, rankings=0, created=time.time()))


def load_rounds(engine: Engine) -> list[Any]:
    """The rounds of a store, in order; none where it was never served online."""
    with reading(engine) as connection:
        return list(connection.execute(select(rounds).order_by(rounds.c.number)).all())


def count_rankings(engine: Engine) -> int:
    """How many rankings of people stand."""
    query = (
        select(func.count())
        .select_from(answer.join(assignment).join(task).join(annotator))
        .where(answer.c.status == "ranked", task.c.kind == "ranked", annotator.c.kind == "human")
    )
    with reading(engine) as connection:
        return connection.scalar(query) or 0


def propose(engine: Engine, datasets: Mapping[str, Any], *, model: str, candidates: str, rankings: int) -> int:
    """Begin a round: every task that nobody has seen gets the masks of a newer candidate set; returns how many did.

    Args:
        datasets: the newer set's splits, images undecoded: the same prompts in the same rows.
        model, candidates: where the model and the set lie.
        rankings: how many the model learnt from.

    Raises:
        UserError: a row is about another photograph, or has not three candidates.
    """
    with reading(engine) as connection:
        unseen = _unseen(connection)
    # Masks are compared before anybody has to wait for the store.
    masks = {}
    for task_id, one in unseen.items():
        values, masks[task_id] = task_values(candidates, one.split, one.row, datasets[one.split][one.row], kind="ranked")
        if values["image_id"] != one.image_id:
            raise UserError(f"{candidates}: row {one.row} of split '{one.split}' is not of image {one.image_id}")
    with writing(engine) as connection:
        number = (connection.scalar(select(func.max(rounds.c.number))) or 0) + 1
        told = {"model": model, "candidates": candidates, "fingerprint": fingerprint(candidates), "rankings": rankings}
        connection.execute(insert(rounds).values(number=number, created=time.time(), **told))
        still = sorted(masks.keys() & _unseen(connection).keys())
        for task_id in still:
            connection.execute(delete(candidate).where(candidate.c.task_id == task_id))
            connection.execute(delete(proposal).where(proposal.c.task_id == task_id))
            connection.execute(insert(candidate), [item | {"task_id": task_id} for item in masks[task_id]])
            connection.execute(insert(proposal).values(task_id=task_id, round=number))
    return len(still)


def _unseen(connection: Connection) -> dict[int, Any]:
    seen = select(assignment.c.id).where(assignment.c.task_id == task.c.id).exists()
    return {row.id: row for row in connection.execute(select(task).where(task.c.kind == "ranked", ~seen))}
