"""Copies of a store: SQLite's own backup while people work, and a JSON-lines dump that any database reads back."""

import json
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, func, insert, select, text

from visionsam_hf.annotation.tables import VERSION, answer, metadata, project, reading, rebuild, writing
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.files import written_file

_BATCH = 500


def backup(engine: Engine, target: Path) -> None:
    """Copy a SQLite store to a new file, consistent though others write meanwhile.

    Raises:
        UserError: the store is not SQLite, or the target exists.
    """
    if engine.dialect.name != "sqlite":
        raise UserError("backup: copies SQLite stores; use 'visionsam annotate dump', or your database's own backup")
    if target.exists():
        raise UserError(f"{target}: exists already; give the name of a new file")
    try:
        with written_file(target) as unfinished:
            with sqlite3.connect(engine.url.database) as source, sqlite3.connect(unfinished) as copy:
                source.backup(copy)
            problem = copy.execute("PRAGMA integrity_check").fetchone()[0]
            copy.close()
            source.close()
            if problem != "ok":
                raise UserError(f"{engine.url.database}: is damaged ({problem}); restore an earlier backup")
    except (OSError, sqlite3.Error) as error:
        raise UserError(f"{target}: cannot be written ({error})") from None


def dump(engine: Engine, target: Path) -> int:
    """Write every row but the projection as JSON lines; returns how many."""
    if target.exists():
        raise UserError(f"{target}: exists already; give the name of a new file")
    lines = 0
    try:
        with (
            written_file(target) as unfinished,
            unfinished.open("w", encoding="utf-8") as file,
            reading(engine) as connection,
        ):
            file.write(json.dumps({"visionsam_annotation_store": VERSION}) + "\n")
            for table in metadata.sorted_tables:
                if table is answer:
                    continue
                for row in connection.execute(select(table).order_by(*table.primary_key)).mappings():
                    file.write(json.dumps({"table": table.name, "row": dict(row)}) + "\n")
                    lines += 1
            # So that a file cut short at a line's end is not taken for a whole one.
            file.write(json.dumps({"rows": lines}) + "\n")
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror})") from None
    return lines


def restore(engine: Engine, source: Path) -> int:
    """Fill an empty store from a dump, in one transaction, and rebuild the projection; returns the number of rows.

    Raises:
        UserError: the store is not empty, or a line of the dump is damaged (naming it).
    """
    tables = metadata.tables
    try:
        file = source.open(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{source}: cannot be read ({error.strerror}); give a file that 'annotate dump' wrote"
        ) from None
    count = 0
    with file, writing(engine) as connection:
        if connection.execute(select(project.c.id)).first() is not None:
            raise UserError("the store is not empty; give the name of a new one")
        waiting: list[dict[str, Any]] = []
        name = None
        is_whole = False
        for number, line in enumerate(file, 1):
            try:
                item = json.loads(line)
                if number == 1:
                    if item["visionsam_annotation_store"] > VERSION:
                        raise UserError(f"{source}: was written by a newer version; upgrade visionsam_hf")
                    continue
                if "rows" in item:
                    is_whole = item["rows"] == count
                    continue
                table, row = tables[item["table"]], item["row"]
                if set(row) != set(table.columns.keys()):
                    raise KeyError("columns")
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{source}: line {number} is damaged; dump the store again") from None
            if waiting and (table.name != name or len(waiting) == _BATCH):
                connection.execute(insert(tables[name]), waiting)
                waiting = []
            name = table.name
            waiting.append(row)
            count += 1
        if waiting:
            connection.execute(insert(tables[name]), waiting)
        if not is_whole:
            raise UserError(f"{source}: is cut short after {count} rows; dump the store again")
        if connection.dialect.name == "postgresql":
            _advance_sequences(connection)
    rebuild(engine)
    return count


def _advance_sequences(connection: Connection) -> None:
    """Rows came with their numbers; the next new one must not take one of them."""
    for table in metadata.sorted_tables:
        column = table.autoincrement_column
        if column is not None:
            top = connection.execute(select(func.max(column))).scalar() or 1
            connection.execute(
                text("SELECT setval(pg_get_serial_sequence(:name, :column), :top)"),
                {"name": table.name, "column": column.name, "top": top},
            )
