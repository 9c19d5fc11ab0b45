"""From events to the answers that stand: `answer` can be thrown away and made again."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Engine, delete, insert, select

from visionsam_hf.annotation.tables import answer, events, writing

_STATUS = {"submit": "ranked", "revise": "ranked", "skip": "skipped", "flag": "flagged"}


def apply_event(connection: Connection, event: Mapping[str, Any]) -> None:
    """Bring the projection up to one more event: the last word on an assignment counts, an undo takes it back."""
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
