"""What is given out first, and that leases, overlaps and other annotators go on as they were."""

import pytest

pytest.importorskip("sqlalchemy", reason="the extra [annotate] is not installed")
pytest.importorskip("fastapi", reason="the extra [annotate] is not installed")

from sqlalchemy import select

from tests.annotation.fixtures import make_store, own_secret  # noqa: F401
from tests.annotation.test_store import person, say
from visionsam_hf.annotation import archive
from visionsam_hf.annotation.database import open_engine, priority, reading
from visionsam_hf.annotation.store import Store
from visionsam_hf.annotation.tasks import order_tasks
from visionsam_hf.preferences.task_order import ordered


def given(store, user, count):
    """Which tasks a person ranks one after the other."""
    tasks = []
    while len(tasks) < count and (work := store.claim(user, 1)):
        tasks.append(work[0].task_id)
        say(store, user, work[0])
    return tasks


@pytest.mark.parametrize("order", ["uncertain", "diverse"])
def test_everybody_ranks_in_the_order_and_every_task_is_ranked(make_store, order):
    store, datasets = make_store(8, overlap=2)
    order_tasks(store.engine, datasets, order)
    wanted = [place + 1 for place in ordered(datasets["train"], order)]
    assert wanted != sorted(wanted), "or this test says nothing"
    people = [person(store, name) for name in ("ann", "bob", "eve")]
    assert [given(store, user, 9) for user in people] == [wanted, wanted, []]


def test_a_new_order_leaves_what_is_in_somebody_s_hands(make_store):
    store, datasets = make_store(6, overlap=1)
    ann, bob = person(store, "ann"), person(store, "bob")
    held = store.claim(ann, 2)
    assert [work.task_id for work in held] == [1, 2]
    order_tasks(store.engine, datasets, "uncertain")
    left = [place + 1 for place in ordered(datasets["train"], "uncertain") if place > 1]
    assert [work.public for work in store.claim(ann, 2)] == [work.public for work in held]
    assert given(store, bob, 9) == left
    order_tasks(store.engine, datasets, "id")
    assert given(store, ann, 9) == [1, 2]


def test_diverse_is_ordered_anew_by_what_was_ranked(make_store):
    store, datasets = make_store(6, overlap=2)
    ann, bob = person(store, "ann"), person(store, "bob")
    given(store, ann, 2)
    order_tasks(store.engine, datasets, "diverse")
    assert given(store, bob, 6) == [place + 1 for place in ordered(datasets["train"], "diverse", ranked=[0, 1])]


def test_a_store_from_before_orders_opens_and_an_order_survives_a_dump(make_store, tmp_path):
    store, datasets = make_store(4, overlap=1)
    priority.drop(store.engine)
    engine = open_engine(str(tmp_path / "store.sqlite"))
    assert given(Store(engine), person(store, "ann"), 1) == [1]
    order_tasks(engine, datasets, "uncertain")
    archive.dump(engine, tmp_path / "dump.jsonl")
    copy = open_engine(str(tmp_path / "copy.sqlite"), create=True)
    archive.restore(copy, tmp_path / "dump.jsonl")
    states = []
    for one in (engine, copy):
        with reading(one) as connection:
            states.append(connection.execute(select(priority).order_by(priority.c.place)).all())
    assert states[0] == states[1] and len(states[0]) == 4
