"""Backup, dump and restore."""

import json
import uuid

import pytest

pytest.importorskip("sqlalchemy", reason="the extra [annotate] is not installed")
pytest.importorskip("fastapi", reason="the extra [annotate] is not installed")

from tests.annotation.fixtures import make_store, own_secret  # noqa: F401
from visionsam_hf.annotation.access import add_oracle
from visionsam_hf.annotation.answers import Submission, snapshot
from visionsam_hf.annotation.archive import backup, dump, restore
from visionsam_hf.annotation.database import open_engine, reading
from visionsam_hf.data.errors import UserError


@pytest.fixture
def filled(make_store):
    store, _ = make_store(3, overlap=1)
    user = add_oracle(store.engine, "oracle-1")
    for work in store.claim(user, 2):
        store.submit(user, Submission(uuid=str(uuid.uuid4()), assignment=work.public, kind="submit", ranking=[1, 2, 3]))
    return store.engine, user


def answers(engine):
    with reading(engine) as connection:
        return snapshot(connection)


def test_a_backup_is_a_store_with_the_same_answers(filled, tmp_path):
    engine, _ = filled
    backup(engine, tmp_path / "copy.sqlite")
    copy = open_engine(str(tmp_path / "copy.sqlite"))
    assert answers(copy) == answers(engine) != []
    with pytest.raises(UserError, match="exists already"):
        backup(engine, tmp_path / "copy.sqlite")


def test_a_dump_reads_back_and_work_goes_on(filled, tmp_path):
    from visionsam_hf.annotation.store import Store

    engine, user = filled
    count = dump(engine, tmp_path / "store.jsonl")
    copy = open_engine(str(tmp_path / "new.sqlite"), create=True)
    assert restore(copy, tmp_path / "store.jsonl") == count
    assert answers(copy) == answers(engine) != []
    work = Store(copy).claim(user, 3)
    assert len(work) == 1
    Store(copy).submit(user, Submission(uuid=str(uuid.uuid4()), assignment=work[0].public, kind="skip"))
    with pytest.raises(UserError, match="not empty"):
        restore(copy, tmp_path / "store.jsonl")


def test_a_damaged_dump_changes_nothing(filled, tmp_path):
    engine, _ = filled
    dump(engine, tmp_path / "store.jsonl")
    lines = (tmp_path / "store.jsonl").read_text().splitlines()
    broken = {
        "line 3 is damaged": lines[:2] + [lines[2][:-5]] + lines[3:],
        "cut short": lines[:-1],
        "line 1 is damaged": [json.dumps({"table": "x"})],
        "newer version": [json.dumps({"visionsam_annotation_store": 99})],
        "line 1 is damaged; dump": ["SQLite format 3\udcff"],
        "is damaged .*NOT NULL": [line.replace('"overlap": 1', '"overlap": null') for line in lines],
    }
    for message, content in broken.items():
        (tmp_path / "bad.jsonl").write_bytes("\n".join(content).encode(errors="surrogateescape"))
        copy = open_engine(str(tmp_path / "new.sqlite"), create=True)
        with pytest.raises(UserError, match=message):
            restore(copy, tmp_path / "bad.jsonl")
        assert answers(copy) == []


def test_a_dump_that_fails_leaves_nothing(filled, tmp_path, monkeypatch):
    engine, _ = filled
    written = []

    def dumps(value):
        written.append(value)
        if len(written) == 5:
            raise OSError(28, "No space left on device")
        return json.JSONEncoder().encode(value)

    monkeypatch.setattr("visionsam_hf.annotation.archive.json.dumps", dumps)
    with pytest.raises(UserError, match="No space left"):
        dump(engine, tmp_path / "store.jsonl")
    assert list(tmp_path.glob("store.jsonl*")) == []
