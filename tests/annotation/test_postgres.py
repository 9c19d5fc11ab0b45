"""The same store in a real PostgreSQL server, when one is installed."""

import importlib.util
import os
import shutil
import subprocess
import tempfile
import threading
import uuid
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="the extra [annotate] is not installed")
pytest.importorskip("fastapi", reason="the extra [annotate] is not installed")

from sqlalchemy import delete, select, update
from sqlalchemy.exc import DatabaseError

from tests.annotation.fixtures import make_store, own_secret  # noqa: F401
from visionsam_hf.annotation.access import add_oracle
from visionsam_hf.annotation.answers import Submission, rebuild, snapshot
from visionsam_hf.annotation.archive import backup, dump, restore
from visionsam_hf.annotation.database import events, open_engine, reading, writing
from visionsam_hf.data.errors import UserError

TOOLS = [shutil.which(name) for name in ("initdb", "pg_ctl", "postgres")]
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("psycopg") is None, reason="no driver: pip install 'psycopg[binary]'"),
    pytest.mark.skipif(
        not os.environ.get("VISIONSAM_TEST_POSTGRES") and not all(TOOLS),
        reason="no PostgreSQL: put initdb, pg_ctl and postgres on PATH, or set VISIONSAM_TEST_POSTGRES to the URL of an "
        "empty database (docker run -e POSTGRES_PASSWORD=x -p 5432:5432 postgres; postgresql+psycopg://postgres:x@localhost/postgres)",
    ),
]


@pytest.fixture(scope="module")
def server():
    """URL of a database server that lives as long as the tests."""
    if os.environ.get("VISIONSAM_TEST_POSTGRES"):
        yield os.environ["VISIONSAM_TEST_POSTGRES"]
        return
    root = Path(tempfile.mkdtemp(prefix="visionsam-pg-"))
    user = {}
    if os.geteuid() == 0:
        # PostgreSQL refuses to run as root.
        shutil.chown(root, "nobody")
        user = {"user": "nobody"}
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": root, **user}
    try:
        subprocess.run([TOOLS[0], "-D", "data", "-U", "tester", "-A", "trust", "--no-sync"], **quiet)
        options = f"-c listen_addresses='' -c unix_socket_directories={root}"
        subprocess.run([TOOLS[1], "-D", "data", "-w", "-t", "60", "-l", "log", "-o", options, "start"], **quiet)
    except (subprocess.CalledProcessError, OSError, LookupError) as error:
        shutil.rmtree(root, ignore_errors=True)
        pytest.skip(f"the installed PostgreSQL does not start here ({error})")
    yield f"postgresql+psycopg://tester@/postgres?host={root}"
    subprocess.run([TOOLS[1], "-D", "data", "-m", "immediate", "stop"], **quiet)
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def url(server):
    """A database of its own for each test."""
    from sqlalchemy import create_engine, text

    name = f"t{uuid.uuid4().hex[:12]}"
    with create_engine(server, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    return server.replace("/postgres?", f"/{name}?") if "?" in server else server.rsplit("/", 1)[0] + f"/{name}"


def submit(store, user, work, **values):
    values = {"uuid": str(uuid.uuid4()), "assignment": work.public, "kind": "submit", "ranking": [1, 2, 3]} | values
    return store.submit(user, Submission(**values))


def test_eight_writers_at_once_fill_every_task_exactly(make_store, url):
    store, _ = make_store(6, overlap=3, url=url, size=24)
    users = [add_oracle(store.engine, f"oracle-{number}") for number in range(8)]
    errors = []

    def work(user):
        try:
            while tasks := store.claim(user, 2):
                for task in tasks:
                    submit(store, user, task)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(user,)) for user in users]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with reading(store.engine) as connection:
        before = snapshot(connection)
    assert len(before) == 18 and not any(row["surplus"] for row in before)
    assert rebuild(store.engine) == 18
    with reading(store.engine) as connection:
        assert snapshot(connection) == before


def test_events_are_append_only_there_too(make_store, url):
    store, _ = make_store(1, url=url, size=24)
    user = add_oracle(store.engine, "oracle-1")
    submit(store, user, store.claim(user, 1)[0])
    for statement in (update(events).values(kind="skip"), delete(events)):
        with pytest.raises(DatabaseError, match="append-only"), writing(store.engine) as connection:
            connection.execute(statement)


def test_a_dump_of_sqlite_goes_on_in_postgres(make_store, url, tmp_path):
    from visionsam_hf.annotation.store import Store

    store, _ = make_store(2, overlap=1, size=24)
    user = add_oracle(store.engine, "oracle-1")
    submit(store, user, store.claim(user, 1)[0])
    dump(store.engine, tmp_path / "d.jsonl")
    engine = open_engine(url, create=True)
    restore(engine, tmp_path / "d.jsonl")
    moved = Store(engine)
    submit(moved, user, moved.claim(user, 1)[0])
    add_oracle(engine, "oracle-2")
    with reading(engine) as connection:
        assert connection.execute(select(events.c.seq)).scalars().all() == [1, 2]
    with pytest.raises(UserError, match="dump"):
        backup(engine, tmp_path / "b")
    engine.dispose()


def test_a_server_that_is_not_there():
    with pytest.raises(UserError, match="cannot be opened"):
        open_engine("postgresql+psycopg://nobody@127.0.0.1:1/none", create=True)
