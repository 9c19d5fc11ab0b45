"""Claims, leases, answers and their events."""

import uuid

import pytest

pytest.importorskip("sqlalchemy", reason="the extra [annotate] is not installed")
pytest.importorskip("fastapi", reason="the extra [annotate] is not installed")

from sqlalchemy import delete, select, update
from sqlalchemy.exc import DatabaseError

from tests.annotation.fixtures import make_store, own_secret  # noqa: F401
from visionsam_hf.annotation.access import add_oracle, add_user
from visionsam_hf.annotation.answers import Submission, rebuild, snapshot
from visionsam_hf.annotation.database import answer, events, open_engine, project, reading, writing
from visionsam_hf.annotation.store import LEASE_SECONDS, Refused
from visionsam_hf.data.errors import UserError


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def person(store, name):
    add_user(store.engine, b"secret", name)
    with reading(store.engine) as connection:
        from visionsam_hf.annotation.database import annotator

        return connection.execute(select(annotator.c.id).where(annotator.c.name == name)).scalar()


def say(store, user, work, kind="submit", **values):
    values = {"uuid": str(uuid.uuid4()), "assignment": work.public, "kind": kind} | values
    if kind == "submit":
        values.setdefault("ranking", [1, 2, 3])
    return store.submit(user, Submission(**values), (64, 64))


def answers(store):
    with reading(store.engine) as connection:
        return snapshot(connection)


def test_the_same_tasks_come_back_until_they_are_answered(make_store):
    store, _ = make_store(3)
    ann = person(store, "ann")
    first = store.claim(ann, 2)
    assert [work.public for work in store.claim(ann, 2)] == [work.public for work in first]
    say(store, ann, first[0])
    second = store.claim(ann, 2)
    assert second[0].public == first[1].public
    assert second[1].public != first[0].public


def test_nobody_gets_a_task_twice_and_no_task_more_than_the_overlap(make_store):
    store, _ = make_store(4, overlap=2)
    people = [person(store, name) for name in ("ann", "bob", "eve")]
    given = {user: [work.task_id for work in store.claim(user, 4)] for user in people}
    assert given[people[0]] == given[people[1]] == [1, 2, 3, 4]
    assert given[people[2]] == []


def test_panes_are_stored_by_candidate(make_store):
    store, _ = make_store(12, overlap=1)
    ann = person(store, "ann")
    orders = set()
    for work in store.claim(ann, 12):
        orders.add(tuple(work.order))
        say(store, ann, work, ranking=[2, 1, 3], criterion="noise", seconds=1.5)
        ranking = store.answer(work.public)["ranking"]
        assert [ranking[place] for place in work.order] == [2, 1, 3]
    assert len(orders) > 2


def test_a_lapsed_lease_is_given_to_the_next_and_the_late_answer_kept_as_surplus(make_store):
    clock = Clock()
    store, _ = make_store(1, overlap=1, clock=clock)
    ann, bob = person(store, "ann"), person(store, "bob")
    late = store.claim(ann, 1)[0]
    assert store.claim(bob, 1) == []
    clock.now += LEASE_SECONDS - 1
    store.heartbeat(ann)
    clock.now += 2
    assert store.claim(bob, 1) == []
    clock.now += LEASE_SECONDS
    work = store.claim(bob, 1)[0]
    assert not say(store, bob, work)["surplus"]
    assert say(store, ann, late)["surplus"]
    assert [row["surplus"] for row in answers(store)] == [True, False]
    assert store.claim(ann, 1) == []


def test_the_same_submission_twice_is_one_answer(make_store):
    store, _ = make_store(1)
    ann, bob = person(store, "ann"), person(store, "bob")
    work = store.claim(ann, 1)[0]
    name = str(uuid.uuid4())
    assert not say(store, ann, work, uuid=name)["duplicate"]
    assert say(store, ann, work, uuid=name)["duplicate"]
    assert len(answers(store)) == 1
    with pytest.raises(Refused, match="UUID"):
        say(store, bob, store.claim(bob, 1)[0], uuid=name)


def test_nobody_answers_for_another(make_store):
    store, _ = make_store(1)
    ann, bob = person(store, "ann"), person(store, "bob")
    with pytest.raises(Refused, match="in your hands"):
        say(store, bob, store.claim(ann, 1)[0])


def test_undo_skip_flag_and_revise_are_events(make_store):
    store, _ = make_store(2, overlap=1)
    ann = person(store, "ann")
    one, two = store.claim(ann, 2)
    say(store, ann, one)
    say(store, ann, one, "undo")
    assert store.claim(ann, 2)[0].public == one.public
    say(store, ann, one, ranking=[3, 2, 1])
    say(store, ann, one, ranking=[1, 1, 2])
    say(store, ann, two, "flag", reason="bad_box")
    with reading(store.engine) as connection:
        kinds = connection.execute(select(events.c.kind).order_by(events.c.seq)).scalars().all()
    assert kinds == ["submit", "undo", "submit", "revise", "flag"]
    assert [row["status"] for row in answers(store)] == ["ranked", "flagged"]
    assert store.claim(person(store, "bob"), 2) == []


def test_a_skipped_task_goes_to_somebody_else(make_store):
    store, _ = make_store(1, overlap=1)
    ann, bob = person(store, "ann"), person(store, "bob")
    say(store, ann, store.claim(ann, 1)[0], "skip")
    assert store.claim(ann, 1) == []
    assert len(store.claim(bob, 1)) == 1


def test_near_identical_masks_share_the_better_rank(make_store):
    store, _ = make_store(1, identical=True)
    ann = person(store, "ann")
    work = store.claim(ann, 1)[0]
    assert work.twins == [0, 0, 0]
    say(store, ann, work, ranking=[1, 2, 3])
    assert store.answer(work.public)["ranking"] == [1, 1, 1]


def test_panes_do_not_tell_which_candidate_they_show(make_store):
    store, _ = make_store(6, overlap=1)
    assert {tuple(work.twins) for work in store.claim(person(store, "ann"), 6)} == {(0, 1, 2)}


def test_regions_are_stored_as_run_lengths_by_candidate(make_store):
    from visionsam_hf.data.masks import decode_rle

    store, _ = make_store(1)
    ann = person(store, "ann")
    work = store.claim(ann, 1)[0]
    say(store, ann, work, regions=[{"pane": 2, "label": "extra", "points": [[10, 10], [20, 10], [20, 20], [10, 20]]}])
    region = store.answer(work.public)["detail"]["regions"][0]
    assert (region["candidate"], region["label"]) == (work.order[2], "extra")
    mask = decode_rle(region["rle"])
    assert mask.shape == (64, 64)
    assert mask[10:21, 10:21].all() and mask.sum() == 121


def test_events_cannot_be_changed_or_deleted(make_store):
    store, _ = make_store(1)
    ann = person(store, "ann")
    say(store, ann, store.claim(ann, 1)[0])
    for statement in (update(events).values(kind="skip"), delete(events)):
        with pytest.raises(DatabaseError, match="append-only"), writing(store.engine) as connection:
            connection.execute(statement)


def test_the_projection_rebuilds_from_the_events(make_store):
    store, _ = make_store(4, overlap=1)
    ann = person(store, "ann")
    work = store.claim(ann, 4)
    say(store, ann, work[0], criterion="noise", seconds=2.0)
    say(store, ann, work[1], "skip")
    say(store, ann, work[2])
    say(store, ann, work[2], "undo")
    say(store, ann, work[3], ranking=[1, 1, 1], unusable=True)
    before = answers(store)
    with writing(store.engine) as connection:
        connection.execute(delete(answer))
    assert rebuild(store.engine) == 5
    assert answers(store) == before


def test_oracles_do_not_take_people_s_places(make_store):
    store, _ = make_store(1, overlap=1)
    oracle, ann = add_oracle(store.engine, "oracle-1"), person(store, "ann")
    say(store, oracle, store.claim(oracle, 1)[0])
    assert len(store.claim(ann, 1)) == 1


def test_sqlite_is_set_up_to_survive(make_store):
    store, _ = make_store(1)
    with reading(store.engine) as connection:
        values = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert values == ["wal", 2, 1]


def test_calibration_comes_first_and_gates(make_store):
    store, _ = make_store(3, calibration=2)
    ann, bob = person(store, "ann"), person(store, "bob")
    for user, is_right in ((ann, True), (bob, False)):
        for _ in range(2):
            work = store.claim(user, 1)[0]
            assert work.kind == "calibration"
            truth = [store.truth_ranking(work.task_id)[place] for place in work.order]
            say(store, user, work, ranking=truth if is_right else [4 - rank for rank in truth])
    assert store.claim(ann, 1)[0].kind == "ranked"
    assert store.progress(ann)["calibration"]["passed"]
    assert store.claim(bob, 1) == []
    assert store.progress(bob)["calibration"]["agreement"] == -1.0
    store.retry_calibration(bob)
    assert store.claim(bob, 1)[0].kind == "calibration"
    with pytest.raises(Refused):
        store.retry_calibration(bob)


def test_gold_and_repeats_come_now_and_then(make_store, monkeypatch):
    for name, value in (("GOLD_SHARE", 0.3), ("REPEAT_SHARE", 0.3), ("REPEAT_AFTER", 2)):
        monkeypatch.setattr(f"visionsam_hf.annotation.store.{name}", value)
    monkeypatch.setattr("visionsam_hf.annotation.tasks.CALIBRATION_TASKS", 1)
    store, _ = make_store(12, overlap=1, calibration=5)
    ann = person(store, "ann")
    kinds = []
    while work := store.claim(ann, 1):
        truth = store.truth_ranking(work[0].task_id) or [1, 2, 3]
        say(store, ann, work[0], ranking=[truth[place] for place in work[0].order])
        kinds.append(f"{work[0].kind}/{work[0].round}")
    assert kinds[0] == "calibration/0"
    assert kinds.count("ranked/0") == 12
    assert kinds.count("gold/0") >= 1
    assert kinds.count("ranked/1") >= 1
    assert kinds.index("ranked/1") > kinds.index("ranked/0") + 2


def test_a_store_is_about_one_candidate_set(make_store):
    from visionsam_hf.annotation.tasks import import_tasks

    store, datasets = make_store(1, overlap=2)
    with pytest.raises(UserError, match="not the candidate set"):
        import_tasks(store.engine, "other", datasets, "another fingerprint", overlap=2)
    import_tasks(store.engine, "same", datasets, "fingerprint", overlap=5)
    with reading(store.engine) as connection:
        assert connection.execute(select(project.c.overlap)).scalar() == 5


@pytest.mark.parametrize("content", [b"", b"not a database"])
def test_something_else_than_a_store(tmp_path, content):
    path = tmp_path / "thing"
    path.write_bytes(content)
    with pytest.raises(UserError, match="thing"):
        open_engine(str(path))
    with pytest.raises(UserError, match="no such store"):
        open_engine(str(tmp_path / "absent"))
    with pytest.raises(UserError, match="cannot be opened|only SQLite"):
        open_engine("nosuchdialect://x", create=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ranking": [1, 2]}, "dense ranks"),
        ({"ranking": [1, 3, 3]}, "dense ranks"),
        ({"ranking": None}, "belongs to 'submit'"),
        ({"ranking": [1, 2, 3], "unusable": True}, "tie of all"),
        ({"kind": "flag", "ranking": None}, "belongs to 'flag'"),
        ({"uuid": "1"}, "badly formed"),
        ({"criterion": "beauty"}, "Input should be"),
        ({"seconds": -1}, "greater than or equal"),
        ({"ratings": [[1, 2, 3, 6]] * 3}, "1 to 5"),
        ({"surprise": 1}, "Extra inputs"),
        ({"regions": [{"pane": 5, "label": "extra", "points": [[0, 0], [1, 1], [2, 0]]}]}, "less than 3"),
        (
            {"regions": [{"pane": 0, "label": "extra", "points": [[0, 0], [1, 1], [float("inf"), 0]]}]},
            "less than or equal",
        ),
    ],
)
def test_what_a_browser_may_not_send(values, message):
    good = {"uuid": str(uuid.uuid4()), "assignment": "abcdefgh", "kind": "submit", "ranking": [1, 2, 3]}
    Submission(**good)
    with pytest.raises(ValueError, match=message):
        Submission(**good | values)
