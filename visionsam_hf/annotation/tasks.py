"""The tasks of a store: made from a candidate set, once; ranked by its truth; answered by simulated annotators."""

import secrets
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from sqlalchemy import Engine, delete, insert, select, update

from visionsam_hf.annotation.access import add_oracle
from visionsam_hf.annotation.answers import PANES, Region, Rle, Submission
from visionsam_hf.annotation.database import (
    VERSION,
    answer,
    assignment,
    candidate,
    priority,
    project,
    reading,
    task,
    writing,
)
from visionsam_hf.annotation.store import Assignment, Store
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.masks import encode_rle
from visionsam_hf.data.records import same_fingerprint
from visionsam_hf.preferences.oracle import Habits, annotate, draw
from visionsam_hf.preferences.preference_rows import candidate_masks, truth_of
from visionsam_hf.preferences.rankings import identical_groups, rank_scores
from visionsam_hf.preferences.rubric import TIE, rate_masks, worths
from visionsam_hf.preferences.store_statistics import Task
from visionsam_hf.preferences.task_order import ordered

CALIBRATION_TASKS = 20
# Simulated annotators claim this many tasks at a time.
_CLAIM = 20


def import_tasks(
    engine: Engine,
    name: str,
    datasets: Mapping[str, Any],
    fingerprint: str,
    *,
    overlap: int,
    calibration: tuple[str, Mapping[str, Any]] | None = None,
) -> None:
    """Fill an empty store with tasks; on a filled one, check that it is about the same candidates.

    Args:
        name: where the candidate set came from; kept for people.
        datasets: the splits of the candidate set, images undecoded.
        fingerprint: of the candidate set's content.
        overlap: how many annotators rank each task; may be changed later.
        calibration: name and splits of a set with truth: its first tasks train annotators, the others are hidden gold.

    Raises:
        UserError: the store holds another candidate set, a row has not three candidates, a calibration row no truth.
    """
    known = load_project(engine)
    if known is not None:
        if not same_fingerprint(known.fingerprint, fingerprint):
            raise UserError(
                f"{name}: is not the candidate set this store was made for ({known.candidates}); "
                "give that one, or a new store"
            )
        if known.overlap != overlap:
            with writing(engine) as connection:
                connection.execute(update(project).values(overlap=overlap))
        return
    practice, practice_sets = calibration or ("", {})
    rows = [
        task_values(practice, *row, kind="calibration" if number < CALIBRATION_TASKS else "gold")
        for number, row in enumerate(_rows(practice_sets))
    ]
    rows += [task_values(name, *row, kind="ranked") for row in _rows(datasets)]
    with writing(engine) as connection:
        if connection.scalar(select(project.c.id)) is not None:
            raise UserError("another process is filling this store; start again when it is done")
        connection.execute(
            insert(project).values(
                id=1,
                version=VERSION,
                candidates=name,
                fingerprint=fingerprint,
                calibration=practice or None,
                overlap=overlap,
                seed=secrets.randbelow(2**31),
                created=time.time(),
            )
        )
        for values, candidates in rows:
            task_id = connection.execute(insert(task).values(**values)).inserted_primary_key[0]
            connection.execute(insert(candidate), [item | {"task_id": task_id} for item in candidates])


def order_tasks(engine: Engine, datasets: Mapping[str, Any], order: str) -> None:
    """Say which tasks are given out first: a new round is a new candidate set, whose tasks are ordered anew, and so are
    those of a store that is served again. What is in somebody's hands stays there.

    Args:
        datasets: the splits of the store's candidate set, images undecoded.
        order: as in `task_order.ordered`.
    """
    is_ranked = select(answer.c.assignment_id).select_from(answer.join(assignment)).where(assignment.c.task_id == task.c.id)
    query = select(task.c.id, is_ranked.exists().label("is_ranked")).where(task.c.kind == "ranked").order_by(task.c.id)
    with reading(engine) as connection:
        known = connection.execute(query).all()
    ranked = [place for place, one in enumerate(known) if one.is_ranked]
    places = [] if order == "id" else ordered((row for _, _, row in _rows(datasets)), order, ranked=ranked)
    with writing(engine) as connection:
        connection.execute(delete(priority))
        if places:
            values = [{"place": number, "task_id": known[place].id} for number, place in enumerate(places)]
            connection.execute(insert(priority), values)


def _rows(datasets: Mapping[str, Any]) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    for split, dataset in datasets.items():
        for number, row in enumerate(dataset):
            yield split, number, row


def task_values(
    name: str, split: str, number: int, row: Mapping[str, Any], *, kind: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A row of the candidate set `name` as values of the tables `task` and `candidate`.

    Raises:
        UserError: it has not three candidates, or is to train or test people and has no truth.
    """
    where = f"{name}: row {number} of split '{split}' ({row['image_id']})"
    if len(row["candidates"]) != PANES:
        raise UserError(f"{where} has {len(row['candidates'])} candidates; the page shows {PANES}")
    truth_ranking = None if kind == "ranked" else _truth_ranking(row)
    if truth_ranking is None and kind != "ranked":
        raise UserError(f"{where} has no truth; a calibration set needs one in every row")
    values = {"kind": kind, "split": split, "row": number, "image_id": row["image_id"], "truth_ranking": truth_ranking}
    twins = identical_groups(np.stack(candidate_masks(row)))
    return values, [
        {"place": place, "token": item["token"], "score": item["score"], "twin": twin}
        for place, (item, twin) in enumerate(zip(row["candidates"], twins, strict=True))
    ]


def _truth_ranking(row: Mapping[str, Any]) -> list[int] | None:
    truth = truth_of(row)
    if truth is None:
        return None
    return rank_scores(worths(*rate_masks(candidate_masks(row), truth)).tolist(), TIE)


def truth_rankings(datasets: Mapping[str, Any], tasks: Sequence[Any]) -> dict[int, list[int]]:
    """The ranking by the truth of every task (with `id`, `split` and `row`) whose row has one."""
    rankings = {one.id: _truth_ranking(datasets[one.split][one.row]) for one in tasks}
    return {task_id: ranking for task_id, ranking in rankings.items() if ranking is not None}


def load_project(engine: Engine) -> Any:
    """The store's project row, or None for an empty store."""
    with reading(engine) as connection:
        return connection.execute(select(project)).first()


def load_tasks(engine: Engine) -> dict[int, Task]:
    """Every task by its id."""
    with reading(engine) as connection:
        scores: dict[int, list[float]] = {}
        for row in connection.execute(select(candidate).order_by(candidate.c.task_id, candidate.c.place)):
            scores.setdefault(row.task_id, []).append(row.score)
        return {
            row.id: Task(row.id, row.kind, row.split, row.row, row.truth_ranking, scores[row.id])
            for row in connection.execute(select(task).order_by(task.c.id))
        }


def rank_in_store(
    store: Store,
    datasets: Mapping[str, Any],
    *,
    annotators: int,
    noise: float,
    flip_rate: float,
    seed: int,
    habits: Habits = Habits(),
) -> int:
    """Let simulated annotators rank all that the store still wants of them; returns how many answers.

    They claim as people do, and their answers become the same events, marked as oracle.

    Args:
        datasets: the splits of the candidate set, images undecoded, with a truth in every row.
        annotators: how many.
        noise, flip_rate, seed, habits: as in `oracle.oracle_row`.
    """
    answered = 0
    for number in range(annotators):
        user = add_oracle(store.engine, f"oracle-{number + 1}")
        while held := store.claim(user, _CLAIM):
            for one in held:
                masks, truth = _seen(one, datasets)
                # A task that comes again gets new noise, as a person's second look does.
                name = f"{one.split}/{one.row}" + (f"/{one.round}" if one.round else "")
                who: dict[str, Any] = {"annotator": number, "task": name, "seed": seed}
                judged = annotate(
                    *rate_masks(masks, truth), identical_groups(np.stack(masks)), **who, noise=noise, flip_rate=flip_rate
                )
                loops, mended = draw(judged, masks, truth, **who, habits=habits)
                pane = one.order.index(judged.ranking.index(1))
                submission = Submission(
                    uuid=str(uuid.uuid4()),
                    assignment=one.public,
                    kind="submit",
                    ranking=[judged.ranking[place] for place in one.order],
                    criterion=judged.deciding_criterion,  # type: ignore[arg-type]  # pydantic checks it
                    unusable=judged.unusable,
                    regions=[Region(pane=pane, label=loop.label, points=loop.points) for loop in loops],
                    correction=None if mended is None else Rle(**encode_rle(mended)),
                )
                store.submit(user, submission, truth.shape)
            answered += len(held)
    return answered


def _seen(held: Assignment, datasets: Mapping[str, Any]) -> tuple[list[np.ndarray], np.ndarray]:
    """What an oracle goes by: the candidates' masks and the truth."""
    row = datasets[held.split][held.row]
    truth = truth_of(row)
    if truth is None:
        raise UserError(f"row {held.row} of split '{held.split}' has no truth for the oracle to judge by")
    return candidate_masks(row), truth
