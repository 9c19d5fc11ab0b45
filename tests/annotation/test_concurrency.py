"""Many annotators over HTTP while the server is killed again and again: no acknowledged answer is lost."""

import contextlib
import os
import random
import threading
import time
from collections import Counter

import numpy as np
import pytest

pytest.importorskip("sqlalchemy", reason="the extra [annotate] is not installed")
pytest.importorskip("fastapi", reason="the extra [annotate] is not installed")

from sqlalchemy import select

from tests.annotation.browser import Client, ranking_event
from tests.annotation.fixtures import free_port, own_secret  # noqa: F401
from tests.annotation.processes import Server
from tests.candidate_sets import write_candidate_set
from visionsam_hf.annotation.access import add_user, read_secret
from visionsam_hf.annotation.answers import load_answers, rebuild, snapshot
from visionsam_hf.annotation.database import events, open_engine, reading
from visionsam_hf.data.masks import encode_rle

# VISIONSAM_STRESS=1 runs the size that the documentation reports.
ANNOTATORS, TASKS, KILLS = (8, 300, 20) if os.environ.get("VISIONSAM_STRESS") else (4, 6, 2)
OVERLAP = 3


def work_through(address, token, deadline, acknowledged, problems, corrected):
    """One annotator: claim, rank, claim; keeps what was not acknowledged and sends it again, as the page does."""
    rng = random.Random(token)
    client, waiting = None, []
    while time.monotonic() < deadline:
        try:
            client = client or Client(address, token, timeout=10)
            if waiting:
                reply = client.send(*waiting)
                problems += [result for result in reply["results"] if not result["ok"]]
                acknowledged += [result["uuid"] for result in reply["results"] if result["ok"]]
                waiting = []
            else:
                reply = client.claim()
        except (OSError, ValueError, AssertionError, EOFError) as error:
            if isinstance(error, AssertionError) and b"" != error.args[:1]:
                client = None
            time.sleep(0.05)
            continue
        except Exception as error:  # http.client's, when the server dies in the middle of an answer
            if type(error).__module__ != "http.client":
                problems.append(repr(error))
                return
            time.sleep(0.05)
            continue
        if not reply["tasks"]:
            if reply["progress"]["done"] >= reply["progress"]["wanted"]:
                return
            time.sleep(0.1)
        waiting = [ranking_event(task, rng.sample([1, 2, 3], 3)) for task in reply["tasks"][:2]]
        for event in waiting[: rng.randrange(3)]:
            mask = np.zeros((32, 32), bool)
            mask[rng.randrange(16) :, rng.randrange(16) :] = True
            event["correction"] = corrected[event["uuid"]] = encode_rle(mask)
    problems.append("out of time")


def test_every_acknowledged_answer_survives_sigkill(tmp_path, free_port):
    candidates = write_candidate_set(tmp_path / "candidates", {"train": TASKS}, size=32)
    store = str(tmp_path / "store.sqlite")
    engine, secret = open_engine(store, create=True), read_secret()
    tokens = [add_user(engine, secret, f"annotator {number}") for number in range(ANNOTATORS)]
    server = Server(tmp_path / "said.txt", free_port, candidates=candidates, store=store, overlap=OVERLAP)
    server.start()
    deadline = time.monotonic() + 60 + 6 * TASKS + 30 * KILLS
    acknowledged, problems, corrected = [], [], {}
    people = [
        threading.Thread(
            target=work_through,
            args=(server.address, token, deadline, acknowledged, problems, corrected),
        )
        for token in tokens
    ]
    for person in people:
        person.start()
    kills = 0
    try:
        while any(person.is_alive() for person in people):
            share = (kills + 1) / (KILLS + 1)
            if kills < KILLS and len(acknowledged) >= share * TASKS * OVERLAP:
                server.kill()
                kills += 1
                server.start()
            time.sleep(0.02)
    finally:
        with contextlib.suppress(ProcessLookupError):
            server.kill()
    assert problems == []
    assert kills == KILLS
    answers = load_answers(engine)
    stored = [answer for answer in answers if answer.round == 0]
    assert Counter(answer.task_id for answer in stored) == dict.fromkeys(range(1, TASKS + 1), OVERLAP)
    assert len({(answer.task_id, answer.annotator) for answer in stored}) == TASKS * OVERLAP
    assert not any(answer.surplus for answer in stored)
    with reading(engine) as connection:
        kept = set(connection.execute(select(events.c.uuid)).scalars())
        payloads = dict(connection.execute(select(events.c.uuid, events.c.payload)).all())
        before = snapshot(connection)
    assert set(acknowledged) <= kept
    assert len(acknowledged) == len(set(acknowledged))
    assert corrected.keys() & set(acknowledged), "corrections are among the answers"
    assert all(payloads[name].get("correction") == corrected.get(name) for name in acknowledged)
    rebuild(engine)
    with reading(engine) as connection:
        assert snapshot(connection) == before
    print(
        f"{ANNOTATORS} annotators, {TASKS} tasks, {kills} kills: {len(acknowledged)} acknowledged, {len(kept)} events"
    )
