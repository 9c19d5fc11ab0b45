"""Simulated annotators at work in a store: the same claims, the same events as people's, marked as oracle."""

import secrets
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sqlalchemy import Engine, insert, select, update

from visionsam_hf.annotation.access import add_oracle
from visionsam_hf.annotation.store import Store, Work
from visionsam_hf.annotation.submission import PANES, Submission
from visionsam_hf.annotation.tables import VERSION, candidate, project, reading, task, writing
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.records import same_fingerprint
from visionsam_hf.preferences.oracle import annotate
from visionsam_hf.preferences.preference_rows import candidate_masks, truth_of
from visionsam_hf.preferences.rankings import identical_groups, rank_scores
from visionsam_hf.preferences.rubric import TIE, criteria_table

CALIBRATION_TASKS = 20


def take_in(
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
        overlap: how many annotators rank each task; may be changed later.
        calibration: name and splits of a set with truth: its first tasks train annotators, the others are hidden gold.

    Raises:
        UserError: the store holds another candidate set, a row has not three candidates, a calibration row no truth.
    """
    with reading(engine) as connection:
        known = connection.execute(select(project)).first()
    if known is not None:
        if not same_fingerprint(known.fingerprint, fingerprint):
            raise UserError(
                f"{name}: is not the candidate set this store was made for ({known.candidates}); give that one, or a new store"
            )
        if known.overlap != overlap:
            with writing(engine) as connection:
                connection.execute(update(project).values(overlap=overlap))
        return
    rows = []
    if calibration is not None:
        where, splits = calibration
        for number, (split, row_number, row) in enumerate(_rows(splits)):
            kind = "calibration" if number < CALIBRATION_TASKS else "gold"
            rows.append(_task(where, split, row_number, row, kind))
    rows += [_task(name, split, number, row, "ranked") for split, number, row in _rows(datasets)]
    with writing(engine) as connection:
        if connection.execute(select(project.c.id)).first() is not None:
            raise UserError("another process is filling this store; start again when it is done")
        connection.execute(
            insert(project).values(
                id=1,
                version=VERSION,
                candidates=name,
                fingerprint=fingerprint,
                calibration=calibration[0] if calibration else None,
                overlap=overlap,
                seed=secrets.randbelow(2**31),
                created=time.time(),
            )
        )
        for values, candidates in rows:
            task_id = connection.execute(insert(task).values(**values)).inserted_primary_key[0]
            connection.execute(insert(candidate), [item | {"task_id": task_id} for item in candidates])


def truth_rankings(datasets: Mapping[str, Any], tasks: Sequence[Any]) -> dict[int, list[int]]:
    """The ranking by the truth of every task (with `id`, `split` and `row`) whose row has one."""
    found = {}
    for task_ in tasks:
        row = datasets[task_.split][task_.row]
        truth = truth_of(row)
        if truth is not None:
            found[task_.id] = _rank_by_truth(candidate_masks(row), truth)
    return found


def _rank_by_truth(masks: Sequence[np.ndarray], truth: np.ndarray) -> list[int]:
    return rank_scores(criteria_table(masks, truth).mean(1).tolist(), TIE)


def _rows(datasets: Mapping[str, Any]) -> Any:
    for split, dataset in datasets.items():
        for number, row in enumerate(dataset):
            yield split, number, row


def _task(where: str, split: str, number: int, row: Mapping[str, Any], kind: str) -> tuple[dict, list[dict]]:
    place = f"{where}: row {number} of split '{split}' ({row['image_id']})"
    if len(row["candidates"]) != PANES:
        raise UserError(f"{place} has {len(row['candidates'])} candidates; the page shows {PANES}")
    masks = candidate_masks(row)
    truth_ranking = None
    if kind != "ranked":
        truth = truth_of(row)
        if truth is None:
            raise UserError(f"{place} has no truth; a calibration set needs one in every row")
        truth_ranking = _rank_by_truth(masks, truth)
    values = {"kind": kind, "split": split, "row": number, "image_id": row["image_id"], "truth_ranking": truth_ranking}
    twins = identical_groups(np.stack(masks))
    return values, [
        {"place": place, "token": item["token"], "score": item["score"], "twin": twin}
        for place, (item, twin) in enumerate(zip(row["candidates"], twins, strict=True))
    ]


_CLAIM = 20


def rank_in_store(
    store: Store, datasets: Mapping[str, Any], *, annotators: int, noise: float, flip_rate: float, seed: int
) -> int:
    """Let `annotators` simulated annotators rank all that the store still wants of them; returns how many answers.

    Args:
        datasets: the splits of the candidate set, images undecoded, with a truth in every row.
        noise, flip_rate, seed: as in `oracle.annotate`.
    """
    answered = 0
    for number in range(annotators):
        user = add_oracle(store.engine, f"oracle-{number + 1}")
        while work := store.claim(user, _CLAIM):
            for item in work:
                ranking, criterion = _judge(item, datasets, number, noise, flip_rate, seed)
                store.submit(
                    user,
                    Submission(
                        uuid=str(uuid.uuid4()),
                        assignment=item.public,
                        kind="submit",
                        ranking=[ranking[place] for place in item.order],
                        criterion=criterion,  # type: ignore[arg-type]  # pydantic checks it
                    ),
                )
                answered += 1
    return answered


def _judge(
    item: Work, datasets: Mapping[str, Any], annotator: int, noise: float, flip_rate: float, seed: int
) -> tuple[list[int], str | None]:
    row = datasets[item.split][item.row]
    truth = truth_of(row)
    if truth is None:
        raise UserError(f"row {item.row} of split '{item.split}' has no truth for the oracle to judge by")
    masks = candidate_masks(row)
    answer = annotate(
        criteria_table(masks, truth),
        identical_groups(np.stack(masks)),
        annotator=annotator,
        # A task that comes again gets new noise, as a person's second look does.
        task=f"{item.split}/{item.row}" + (f"/{item.round}" if item.round else ""),
        seed=seed,
        noise=noise,
        flip_rate=flip_rate,
    )
    return answer.ranking, answer.deciding_criterion
