"""Rounds of candidates while people rank: who sees whose masks, and what is left when server or trainer are killed."""

import os
import time

import numpy as np
import pytest
from conftest import CATEGORIES, segmentation_rows

pytest.importorskip("sqlalchemy", reason="the extra [annotate] is not installed")
pytest.importorskip("fastapi", reason="the extra [annotate] is not installed")

import psutil
from sqlalchemy import select

from tests.annotation.browser import Client, ranking_event
from tests.annotation.fixtures import free_port, make_store, own_secret  # noqa: F401
from tests.annotation.processes import Server
from tests.annotation.test_store import person, say
from tests.candidate_sets import write_candidate_set
from visionsam_hf.annotation import archive
from visionsam_hf.annotation.access import add_user, read_secret
from visionsam_hf.annotation.answers import load_answers, rebuild, snapshot
from visionsam_hf.annotation.database import events, open_engine, proposal, reading, rounds
from visionsam_hf.annotation.rounds import begin_rounds, count_rankings, load_rounds, propose, rows_of_rounds
from visionsam_hf.annotation.task_images import TaskImages
from visionsam_hf.annotation.tasks import load_tasks
from visionsam_hf.cli import command_line as cli
from visionsam_hf.cli.annotate import training_online
from visionsam_hf.cli.annotation_options import ServeSettings
from visionsam_hf.cli.candidates import load_candidates
from visionsam_hf.data.dataset_directory import load_split, write_splits
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.masks import encode_rle
from visionsam_hf.data.schema import segmentation_features
from visionsam_hf.preferences.preference_rows import Exporter, candidate_masks
from visionsam_hf.preferences.store_statistics import describe


def newer(tmp_path, count, name="newer"):
    """A candidate set of the same prompts whose three masks are one."""
    return str(write_candidate_set(tmp_path / name, {"train": count}, identical=True))


def begin(store, tmp_path, count=4):
    """The store's rows, after a first round was said."""
    old = str(tmp_path / "candidates-0")
    begin_rounds(store.engine, model="old", candidates=old)
    return rows_of_rounds(store.engine, load_candidates(old), load_candidates)


def test_a_round_gives_new_masks_to_what_nobody_has_seen_and_to_nothing_else(make_store, tmp_path):
    store, old = make_store(4, overlap=2)
    rows, images, name = begin(store, tmp_path), None, newer(tmp_path, 4)
    ann, bob = person(store, "ann"), person(store, "bob")
    answered, held = store.claim(ann, 2)
    say(store, ann, answered)
    assert count_rankings(store.engine) == 1
    assert propose(store.engine, load_candidates(name), model="new", candidates=name, rankings=1) == 2
    images = TaskImages(rows)
    new = load_candidates(name)
    for work, source in zip(store.claim(bob, 4), [old, old, new, new], strict=True):
        seen, wanted = images.load("ranked", "train", work.row).masks, candidate_masks(source["train"][work.row])
        assert np.array_equal(seen, wanted), work.row
        assert (work.twins == [0, 0, 0]) == (source is new), "what is nearly identical goes by the masks that are shown"
        say(store, bob, work)
    say(store, ann, held)
    assert [one.proposed_in for one in load_answers(store.engine)] == [0, 0, 0, 0, 1, 1]
    exported = list(Exporter(load_answers(store.engine), "human", 1).rows("train", rows["train"]))
    assert [row["image_id"] for row in exported] == ["image-0", "image-1"], "three masks that are one give no pair"
    # Everything is in somebody's hands now: a further round changes nothing, whatever was proposed before.
    assert propose(store.engine, load_candidates(name), model="newest", candidates=name, rankings=6) == 0
    assert [one.proposed_in for one in load_answers(store.engine)] == [0, 0, 0, 0, 1, 1]
    assert [one.model for one in load_rounds(store.engine)] == ["old", "new", "newest"]


def test_the_statistics_tell_rounds_apart_and_a_dump_keeps_them(make_store, tmp_path):
    store, _ = make_store(3, overlap=1)
    begin(store, tmp_path)
    ann, name = person(store, "ann"), newer(tmp_path, 3)
    say(store, ann, store.claim(ann, 1)[0], seconds=4.0)
    propose(store.engine, load_candidates(name), model="new", candidates=name, rankings=1)
    for work in store.claim(ann, 3):
        say(store, ann, work, ranking=[1, 1, 1], unusable=True, correction=encode_rle(np.eye(64, dtype=bool)))
    models = {one.number: one.model for one in load_rounds(store.engine)}
    figures = describe(load_answers(store.engine), load_tasks(store.engine), models=models)["human"]["rounds"]
    told = [(one["model"], one["rankings"], one["unusable_rate"], one["corrected_rate"]) for one in figures]
    assert told == [("old", 1, 0.0, 0.0), ("new", 2, 1.0, 1.0)] and figures[0]["median_seconds"] == 4.0
    assert describe([], {})["human"]["rounds"] == [], "without rounds as before"
    archive.dump(store.engine, tmp_path / "dump.jsonl")
    copy = open_engine(str(tmp_path / "copy.sqlite"), create=True)
    archive.restore(copy, tmp_path / "dump.jsonl")
    assert [one.model for one in load_rounds(copy)] == ["old", "new"]
    assert [one.proposed_in for one in load_answers(copy)] == [0, 1, 1]


def test_a_set_about_other_photographs_or_one_that_changed_is_refused(make_store, tmp_path):
    store, _ = make_store(3, overlap=1)
    rows, name = begin(store, tmp_path), newer(tmp_path, 3)
    other = load_candidates(str(write_candidate_set(tmp_path / "other", {"x": 1, "train": 3})))
    with pytest.raises(UserError, match="row 0 of split 'train' is not of image image-0"):
        propose(store.engine, other, model="new", candidates=name, rankings=1)
    assert [one.number for one in load_rounds(store.engine)] == [0], "nothing of it is taken in"
    propose(store.engine, load_candidates(name), model="new", candidates=name, rankings=1)
    (tmp_path / "newer").rename(tmp_path / "moved")
    with pytest.raises(UserError, match="is not what round 1 proposed"):
        rows["train"][0]
    (tmp_path / "moved").rename(tmp_path / "newer")
    (tmp_path / "newer" / "data" / "more").write_text("more")
    with pytest.raises(UserError, match="is not what round 1 proposed"):
        rows["train"][0]


def test_a_store_from_before_rounds_opens(make_store, tmp_path):
    store, _ = make_store(2, overlap=1)
    proposal.drop(store.engine)
    rounds.drop(store.engine)
    engine = open_engine(str(tmp_path / "store.sqlite"))
    assert load_rounds(engine) == [] and load_answers(engine) == []


def made_candidates(tmp_path, monkeypatch, model="visionsam-tiny"):
    """A candidate set that `visionsam candidates` made, and its data set."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "arrow"))
    data = tmp_path / "data"
    write_splits(data, {"train": segmentation_rows(12)}, segmentation_features(CATEGORIES), card="---\n---\n")
    words = ["--model_name_or_path", model, "--dataset", str(data), "--candidate_source", "tokens", "box_jitter", "shapes"]
    assert cli.main(["candidates", *words, "--output_dir", str(tmp_path / "candidates")]) == 0
    return str(tmp_path / "candidates"), data


def test_what_cannot_train_is_one_line_before_the_page_is_there(make_store, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="add --model DIR"):
        ServeSettings(candidates="c", online=True)
    store, _ = make_store(2)

    def start(candidates):
        settings = ServeSettings(candidates=str(candidates), model="visionsam-tiny", online=True)
        with training_online(settings, store.engine, {}):
            pass

    with pytest.raises(UserError, match=r"has no stage.json of 'visionsam candidates'"):
        start(tmp_path / "candidates-0")
    candidates, data = made_candidates(tmp_path, monkeypatch)
    settings = ServeSettings(candidates=candidates, model="visionsam-tiny", online=True)
    with training_online(settings, store.engine, {}), pytest.raises(UserError, match="another run"):
        start(candidates)
    left = tmp_path / "store.sqlite.rounds" / "round-1-9-9"
    left.mkdir()
    start(candidates)
    assert not left.exists(), "what a killed server left goes"
    (data / "data" / "more").write_text("more")
    with pytest.raises(UserError, match="has changed since"):
        start(candidates)


def until(condition, seconds=600):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def test_rounds_come_though_trainer_and_server_are_killed_and_no_answer_is_lost(tmp_path, free_port, monkeypatch):
    candidates, _ = made_candidates(tmp_path, monkeypatch)
    store = str(tmp_path / "store.sqlite")
    token = add_user(open_engine(store, create=True), read_secret(), "ann")
    options = dict(candidates=candidates, store=store, overlap=1, model="visionsam-tiny", online=True, online_every=2)
    page = Server(tmp_path / "said.txt", free_port, **options)
    corrected = {}

    def rank(client, count):
        for _ in range(count):
            task = client.claim()["tasks"][0]
            width, height = task["size"]
            mask = np.zeros((height, width), bool)
            mask[5 : 20 + len(corrected), 5:20] = True
            event = ranking_event(task, (1, 2, 3), correction=encode_rle(mask))
            assert client.send(event)["results"][0]["ok"]
            corrected[event["uuid"]] = event["correction"]

    page.start()
    try:
        rank(page.client(token), 2)
        until(lambda: page.commands("dpo"))[0].kill()
        line = until(lambda: [line for line in page.said.splitlines() if "failed" in line])
        assert len(line) == 1 and line[0].startswith("visionsam: round 1 failed (dpo: killed by signal 9; see ")
        rank(Client(page.address, token), 2)
        until(lambda: page.commands("dpo"))
        page.kill()
        page.start()
        until(lambda: "Round 1: " in page.said)
        rank(page.client(token), 6)
    finally:
        page.end()
    engine = open_engine(store)
    assert not [one for one in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(one.info["cmdline"] or [])]
    answers = load_answers(engine)
    assert [one.proposed_in for one in answers][:4] == [0] * 4 and answers[-1].proposed_in == 1
    round_1 = load_rounds(engine)[1]
    assert round_1.rankings == 4 and os.path.isdir(round_1.model) and os.path.isdir(round_1.candidates)
    with reading(engine) as connection:
        kept = dict(connection.execute(select(events.c.uuid, events.c.payload)).all())
        before = snapshot(connection)
    assert {name: kept[name]["correction"] for name in corrected} == corrected
    rebuild(engine)
    with reading(engine) as connection:
        assert snapshot(connection) == before
    out = str(tmp_path / "preferences")
    assert cli.main(["annotate", "export", "--store", store, "--output_dir", out]) == 0
    rows = load_split(out, "train", kind="preference")
    assert set(rows["chosen_kind"]) == {"corrected"} and len(rows) == len(answers)
