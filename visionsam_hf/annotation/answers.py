"""The answers that stand, out of the store, under pseudonyms: what statistics and export work on."""

from typing import Any

from sqlalchemy import Engine, func, select

from visionsam_hf.annotation.tables import annotator, answer, assignment, candidate, project, reading, task
from visionsam_hf.preferences.ranking_statistics import Answer, Task


def load_answers(engine: Engine) -> list[Answer]:
    """Every standing answer, by task and annotator."""
    query = (
        select(answer, assignment.c.task_id, assignment.c.round, assignment.c.order, task.c.kind.label("task_kind"))
        .add_columns(task.c.split, task.c.row, annotator.c.id.label("annotator_id"), annotator.c.kind, annotator.c.name)
        .join(assignment, assignment.c.id == answer.c.assignment_id)
        .join(task, task.c.id == assignment.c.task_id)
        .join(annotator, annotator.c.id == assignment.c.annotator_id)
        .order_by(assignment.c.task_id, annotator.c.id, assignment.c.round)
    )
    with reading(engine) as connection:
        humans = connection.execute(
            select(annotator.c.id).where(annotator.c.kind == "human").order_by(annotator.c.id)
        ).scalars().all()
        pseudonyms = {user: f"annotator-{number}" for number, user in enumerate(humans, 1)}
        return [
            Answer(
                task_id=row.task_id,
                task_kind=row.task_kind,
                split=row.split,
                row=row.row,
                round=row.round,
                annotator=pseudonyms.get(row.annotator_id, row.name),
                kind=row.kind,
                status=row.status,
                ranking=row.ranking,
                order=row.order,
                surplus=row.surplus,
                at=row.at,
                detail=row.detail,
            )
            for row in connection.execute(query).all()
        ]


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


def project_of(engine: Engine) -> Any:
    """The store's project row, or None for an empty store."""
    with reading(engine) as connection:
        return connection.execute(select(project)).first()


def count_undone(engine: Engine) -> int:
    """How many answers were taken back."""
    from visionsam_hf.annotation.tables import events

    with reading(engine) as connection:
        return connection.execute(select(func.count()).select_from(events).where(events.c.kind == "undo")).scalar()
