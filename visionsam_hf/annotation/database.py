"""The annotation store's tables, and engines for SQLite and PostgreSQL that never lose an acknowledged write.

Events are the truth and only ever added to: triggers refuse to change or delete one. `answer` is made of them (answers.py).
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    create_engine,
    event,
    inspect,
    text,
)
from sqlalchemy.exc import SQLAlchemyError

from visionsam_hf.data.errors import UserError

VERSION = 1
metadata = MetaData()

project = Table(
    "project",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("candidates", String, nullable=False),
    Column("fingerprint", String, nullable=False),
    Column("calibration", String),
    Column("overlap", Integer, nullable=False),
    Column("seed", Integer, nullable=False),
    Column("created", Float, nullable=False),
)
task = Table(
    "task",
    metadata,
    Column("id", Integer, primary_key=True),
    # ranked: the work; calibration: known truth, feedback after each; gold: known truth, hidden among the work.
    Column("kind", String, nullable=False),
    Column("split", String, nullable=False),
    Column("row", Integer, nullable=False),
    Column("image_id", String, nullable=False),
    # The ranking by the truth, where a gate or hidden gold needs it.
    Column("truth_ranking", JSON(none_as_null=True)),
)
candidate = Table(
    "candidate",
    metadata,
    Column("task_id", ForeignKey("task.id"), primary_key=True),
    Column("place", Integer, primary_key=True),
    Column("token", Integer),
    Column("score", Float),
    # The first candidate that this one is nearly identical to; itself when there is none.
    Column("twin", Integer, nullable=False),
)
# Which task is given out first; a store from before orders, or in the order of its ids, has none.
priority = Table(
    "priority",
    metadata,
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("task_id", ForeignKey("task.id"), nullable=False, unique=True),
)
# Candidate sets: 0 is the one that the store was filled with, the others were proposed while people ranked.
rounds = Table(
    "round",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("model", String, nullable=False),
    Column("candidates", String, nullable=False),
    Column("fingerprint", String, nullable=False),
    # What the model learnt from.
    Column("rankings", Integer, nullable=False),
    Column("created", Float, nullable=False),
)
# Which round a task's candidates are of; none is round 0.
proposal = Table(
    "proposal",
    metadata,
    Column("task_id", ForeignKey("task.id"), primary_key=True),
    Column("round", ForeignKey("round.number"), nullable=False),
)
annotator = Table(
    "annotator",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("kind", String, nullable=False),
    Column("token_hash", String, unique=True),
    Column("created", Float, nullable=False),
    Column("revoked", Float),
)
assignment = Table(
    "assignment",
    metadata,
    Column("id", Integer, primary_key=True),
    # The only name that leaves the server.
    Column("public", String, nullable=False, unique=True),
    Column("task_id", ForeignKey("task.id"), nullable=False),
    Column("annotator_id", ForeignKey("annotator.id"), nullable=False),
    # 0, or how often this person met the task before: repeats, further attempts at calibration.
    Column("round", Integer, nullable=False),
    # Which candidate stands in which pane.
    Column("order", JSON, nullable=False),
    Column("lease_until", Float, nullable=False),
    UniqueConstraint("task_id", "annotator_id", "round"),
    Index("assignment_annotator", "annotator_id"),
)
events = Table(
    "event",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("uuid", String, nullable=False, unique=True),
    Column("assignment_id", ForeignKey("assignment.id"), nullable=False),
    Column("annotator_id", ForeignKey("annotator.id"), nullable=False),
    Column("kind", String, nullable=False),
    Column("payload", JSON, nullable=False),
    Column("surplus", Boolean, nullable=False),
    Column("at", Float, nullable=False),
)
answer = Table(
    "answer",
    metadata,
    Column("assignment_id", ForeignKey("assignment.id"), primary_key=True),
    Column("status", String, nullable=False),
    Column("ranking", JSON(none_as_null=True)),
    Column("detail", JSON, nullable=False),
    Column("surplus", Boolean, nullable=False),
    Column("uuid", String, nullable=False),
    Column("at", Float, nullable=False),
)

_SQLITE_TRIGGERS = [
    f"CREATE TRIGGER IF NOT EXISTS event_no_{verb.lower()} BEFORE {verb} ON event "
    "BEGIN SELECT RAISE(ABORT, 'events are append-only'); END"
    for verb in ("UPDATE", "DELETE")
]
_POSTGRES_TRIGGERS = [
    "CREATE OR REPLACE FUNCTION refuse_event_change() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE EXCEPTION 'events are append-only'; END $$",
    "DROP TRIGGER IF EXISTS event_append_only ON event",
    "CREATE TRIGGER event_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON event "
    "FOR EACH STATEMENT EXECUTE FUNCTION refuse_event_change()",
]
# Any number: all writers of the store take the same lock, as SQLite's do by nature.
_POSTGRES_WRITER = 7041


def is_url(store: str) -> bool:
    """Whether a store is named by a database URL, not by a file."""
    return "://" in store


def open_engine(store: str, *, create: bool = False) -> Engine:
    """An engine for a SQLite file or a database URL, with its tables.

    Args:
        store: path of the SQLite file, or a SQLAlchemy URL such as postgresql+psycopg://user@host/name.
        create: make the file and the tables when they are missing.

    Raises:
        UserError: no such store, not a store, or one that a newer version wrote.
    """
    if not is_url(store):
        path = Path(store)
        if path.is_dir():
            raise UserError(f"{store}: is a directory; give the path of the store's file")
        if not create and not path.is_file():
            raise UserError(f"{store}: no such store; start one with 'visionsam annotate serve --store {store}'")
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
    try:
        engine = create_engine(store if is_url(store) else f"sqlite:///{Path(store).absolute()}")
        if engine.dialect.name == "sqlite":
            _prepare_sqlite(engine)
        elif engine.dialect.name == "postgresql":
            event.listen(engine, "begin", _lock_postgres)
        else:
            raise UserError(f"{store}: only SQLite files and PostgreSQL URLs can hold a store")
        with writing(engine) as connection:
            _prepare_tables(connection, store, create)
    except UserError:
        raise
    except (SQLAlchemyError, ImportError, ValueError) as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise UserError(
            f"{store}: cannot be opened as an annotation store ({reason}); give a SQLite file or a URL"
        ) from None
    return engine


def _prepare_tables(connection: Connection, store: str, create: bool) -> None:
    exists = inspect(connection).has_table("event")
    if not exists and not create:
        raise UserError(f"{store}: is not an annotation store; start one with 'visionsam annotate serve'")
    if not exists:
        metadata.create_all(connection)
        triggers = _SQLITE_TRIGGERS if connection.dialect.name == "sqlite" else _POSTGRES_TRIGGERS
        for statement in triggers:
            connection.execute(text(statement))
    else:
        for table in (priority, rounds, proposal):  # which came later
            table.create(connection, checkfirst=True)
    newest = connection.execute(project.select()).first()
    if newest is not None and newest.version > VERSION:
        raise UserError(f"{store}: was written by a newer version ({newest.version} > {VERSION}); upgrade visionsam_hf")


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def connect(raw: Any, _: Any) -> None:
        # The driver's own BEGIN is deferred and late; ours is below.
        raw.isolation_level = None
        for pragma in ("busy_timeout=30000", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            raw.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        is_writer = connection.get_execution_options().get("is_writer", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writer else "BEGIN")


def _lock_postgres(connection: Connection) -> None:
    if connection.get_execution_options().get("is_writer", False):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_POSTGRES_WRITER})")


@contextlib.contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that no other writer overlaps; committed, to the disk, when the block ends well."""
    with engine.connect().execution_options(is_writer=True) as connection, connection.begin():
        yield connection


@contextlib.contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that sees one state and waits for nobody."""
    with engine.connect() as connection, connection.begin():
        yield connection
