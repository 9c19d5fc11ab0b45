"""Copies of a store: SQLite's own backup while people work, and a JSON-lines dump that any database reads back."""

import contextlib
import itertools
import json
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, func, insert, select, text
from sqlalchemy.exc import SQLAlchemyError

from visionsam_hf.annotation.answers import rebuild
from visionsam_hf.annotation.database import VERSION, answer, metadata, project, reading, writing
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.files import written_file

_BATCH = 500


@contextlib.contextmanager
def _new_file(target: Path) -> Iterator[Path]:
    """Where to write what becomes `target` when it is whole; `UserError` when the target exists or cannot be written."""
    if target.exists():
        raise UserError(f"{target}: exists already; give the name of a new file")
    try:
        with written_file(target) as unfinished:
            yield unfinished
    except (OSError, sqlite3.Error) as error:
        raise UserError(f"{target}: cannot be written ({getattr(error, 'strerror', None) or error})") from None


def backup(engine: Engine, target: Path) -> None:
    """Copy a SQLite store to a new file, consistent though others write meanwhile.

    Raises:
        UserError: the store is not SQLite, or the target exists.
    """
    if engine.dialect.name != "sqlite":
        raise UserError("backup: copies SQLite stores; use 'visionsam annotate dump', or your database's own backup")
    with (
        _new_file(target) as partial,
        contextlib.closing(sqlite3.connect(engine.url.database)) as source,
        contextlib.closing(sqlite3.connect(partial)) as copy,
    ):
        source.backup(copy)
        problem = copy.execute("PRAGMA integrity_check").fetchone()[0]
        if problem != "ok":
            raise UserError(f"{engine.url.database}: is damaged ({problem}); restore an earlier backup")


def dump(engine: Engine, target: Path) -> int:
    """Write every row as JSON lines, but for the answers, which are made of the events; returns how many rows."""
    count = 0
    with _new_file(target) as partial, partial.open("w", encoding="utf-8") as file, reading(engine) as connection:
        file.write(json.dumps({"visionsam_annotation_store": VERSION}) + "\n")
        for table in metadata.sorted_tables:
            if table is answer:
                continue
            for row in connection.execute(select(table).order_by(*table.primary_key)).mappings():
                file.write(json.dumps({"table": table.name, "row": dict(row)}) + "\n")
                count += 1
        # So that a file cut short at a line's end is not taken for a whole one.
        file.write(json.dumps({"rows": count}) + "\n")
    return count


def restore(engine: Engine, source: Path) -> int:
    """Fill an empty store from a dump, in one transaction, and make the answers anew; returns the number of rows.

    Raises:
        UserError: the store is not empty, or a line of the dump is damaged (naming it).
    """
    try:
        file = source.open("rb")
    except OSError as error:
        raise UserError(
            f"{source}: cannot be read ({error.strerror}); give a file that 'annotate dump' wrote"
        ) from None
    count = 0
    with file, writing(engine) as connection:
        if connection.scalar(select(project.c.id)) is not None:
            raise UserError("the store is not empty; give the name of a new one")
        for table, found in itertools.groupby(_read_rows(file, source), key=lambda item: item[0]):
            while batch := [row for _, row in itertools.islice(found, _BATCH)]:
                try:
                    connection.execute(insert(table), batch)
                except SQLAlchemyError as error:
                    reason = str(getattr(error, "orig", None) or error).splitlines()[0]
                    raise UserError(f"{source}: is damaged ({table.name}: {reason}); dump the store again") from None
                count += len(batch)
        if connection.dialect.name == "postgresql":
            _advance_sequences(connection)
    rebuild(engine)
    return count


def _read_rows(lines: Iterable[bytes], source: Path) -> Iterator[tuple[Table, dict[str, Any]]]:
    """The rows of a dump with their tables; `UserError` at a damaged line, or at the end when it is not the dump's."""
    count, is_whole = 0, False
    for number, line in enumerate(lines, 1):
        try:
            item = json.loads(line)
            if number == 1:
                if item["visionsam_annotation_store"] > VERSION:
                    raise UserError(f"{source}: was written by a newer version; upgrade visionsam_hf")
            elif "rows" in item:
                is_whole = item["rows"] == count
            else:
                table, row = metadata.tables[item["table"]], item["row"]
                if set(row) != set(table.columns.keys()):
                    raise KeyError("columns")
                count += 1
                yield table, row
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{source}: line {number} is damaged; dump the store again") from None
    if not is_whole:
        raise UserError(f"{source}: is cut short after {count} rows; dump the store again")


def _advance_sequences(connection: Connection) -> None:
    """Rows came with their numbers; the next new one must not take one of them."""
    for table in metadata.sorted_tables:
        column = table.autoincrement_column
        if column is not None:
            top = connection.scalar(select(func.max(column))) or 1
            connection.execute(
                text("SELECT setval(pg_get_serial_sequence(:name, :column), :top)"),
                {"name": table.name, "column": column.name, "top": top},
            )
