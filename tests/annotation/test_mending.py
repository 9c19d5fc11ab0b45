"""A mask mended in a real browser: clicks that a model answers, a brush, undo, reloads, export, a step of training."""

import json
import uuid

import numpy as np
import pytest
from conftest import tiny_processor

pytest.importorskip("sqlalchemy", reason="the extra [annotate] is not installed")
pytest.importorskip("fastapi", reason="the extra [annotate] is not installed")

from sqlalchemy import select

from tests.annotation.browser import Client, ranking_event
from tests.annotation.fixtures import free_port, make_store, own_secret, served  # noqa: F401
from tests.annotation.processes import Server
from tests.annotation.test_page import chromium, rank, until, visit, wait_saved  # noqa: F401
from tests.annotation.test_page import pytestmark as in_browser
from tests.annotation.test_store import person
from tests.candidate_sets import CATEGORIES, write_candidate_set
from visionsam_hf import SamDPOConfig, SamDPOTrainer
from visionsam_hf.annotation.access import add_user, read_secret
from visionsam_hf.annotation.answers import Submission, load_answers, rebuild, snapshot
from visionsam_hf.annotation.database import assignment, open_engine, reading
from visionsam_hf.cli.annotate import _click_answerer
from visionsam_hf.cli.annotation_options import ServeSettings
from visionsam_hf.cli.candidates import load_candidates
from visionsam_hf.data.data_card import data_card
from visionsam_hf.data.dataset_directory import load_split, write_preferences
from visionsam_hf.data.masks import decode_mask, decode_rle, encode_rle, mask_iou
from visionsam_hf.preferences.preference_rows import Exporter, candidate_masks, truth_of

SIZE = 64


def export(engine, datasets, directory):
    """The exported pairs, written and read back."""
    exporter = Exporter(load_answers(engine), "human", 1)
    rows = {split: exporter.rows(split, dataset) for split, dataset in datasets.items()}
    card = data_card("preference", title="Pairs", summary="For tests.")
    write_preferences(directory, rows, CATEGORIES, card=card)
    return load_split(str(directory), "train", kind="preference")


def on_screen(page, x, y):
    """Where pixel (x, y) of the image is on the pane that is shown; the view is the fitted one."""
    place = page.evaluate(
        """() => { const canvas = document.querySelector('.pane.shown canvas'); const at = canvas.getBoundingClientRect();
        return [at.left, at.top, at.width, at.height]; }"""
    )
    left, top, wide, high = place
    x1, y1, x2, y2 = page.box
    margin = max(0.5 * max(x2 - x1, y2 - y1), 10)
    a, b, c, d = max(x1 - margin, 0), max(y1 - margin, 0), min(x2 + margin, SIZE), min(y2 + margin, SIZE)
    zoom = min(wide / (c - a), high / (d - b))
    return left + wide / 2 + (x - (a + c) / 2) * zoom, top + high / 2 + (y - (b + d) / 2) * zoom


def click(page, x, y, *, keys=()):
    page.evaluate("window.answered = 0; addEventListener('visionsam:answered', () => { window.answered++ }, { once: true })")
    for key in keys:
        page.keyboard.down(key)
    page.mouse.click(*on_screen(page, x, y))
    for key in keys:
        page.keyboard.up(key)
    until(page, "window.answered > 0")


def small_pane(engine, task, row):
    """Where the smallest of a task's masks stands."""
    with reading(engine) as connection:
        order = connection.scalar(select(assignment.c.order).where(assignment.c.public == task["id"]))
    return order.index(int(np.argmin([mask.sum() for mask in candidate_masks(row)])))


@pytest.fixture
def at_work(served, visit, tmp_path):
    """A page over one task with visionsam-tiny behind it, its small mask's pane, and the task's row."""
    candidates = write_candidate_set(tmp_path / "c", {"train": 2})
    datasets = load_candidates(str(candidates), [])
    settings = ServeSettings(candidates=str(candidates), model="visionsam-tiny")
    address, token = served(candidates, overlap=1, answer_clicks=_click_answerer(settings, datasets, None))
    client = Client(address, token)
    task = client.claim()["tasks"][0]
    page = visit(address, token)
    row = datasets["train"][0]
    page.box = row["box"]
    return page, small_pane(served.engine, task, row), row


@in_browser[0]
@in_browser[1]
def test_three_clicks_raise_the_iou_outlive_reload_and_sigkill_and_are_learnt_from(visit, free_port, model, tmp_path):
    candidates, store = write_candidate_set(tmp_path / "c", {"train": 2}), str(tmp_path / "store.sqlite")
    engine = open_engine(store, create=True)
    token = add_user(engine, read_secret(), "ann")
    options = dict(candidates=candidates, store=store, overlap=1, model="visionsam-tiny")
    server = Server(tmp_path / "said.txt", free_port, **options)
    server.start()
    try:
        mended, row = mend_through_a_kill(server, visit, engine, token, load_candidates(str(candidates)))
    finally:
        server.kill()
    [answer] = load_answers(engine)
    assert np.array_equal(decode_rle(answer.detail["correction"]), mended)
    rows = export(engine, load_candidates(str(candidates)), tmp_path / "out")
    assert [one["chosen_kind"] for one in rows] == ["corrected"]
    assert np.array_equal(decode_mask(rows[0]["chosen"]), mended)
    assert len(rows[0]["candidates"]) == 3, "a corrected mask is nobody's candidate"
    args = SamDPOConfig(output_dir=str(tmp_path / "t"), max_steps=1, logging_steps=1, disable_tqdm=True, use_cpu=True)
    trainer = SamDPOTrainer(model, args, rows, processing_class=tiny_processor())
    trainer.train()
    assert trainer.state.log_history[0]["loss"] > 0


def mend_through_a_kill(server, visit, engine, token, datasets):
    """Three clicks, then the server dies, then the ranking: the mask that the new server has, and the task's row."""
    client = server.client(token)
    task = client.claim()["tasks"][0]
    page, row = visit(server.address, token), datasets["train"][0]
    page.box, pane = row["box"], small_pane(engine, task, row)
    truth, small = truth_of(row), min(candidate_masks(row), key=np.sum)
    page.keyboard.press("m")
    assert "First the number" in page.get_by_test_id("ask").inner_text()
    page.keyboard.press(str(pane + 1))
    page.keyboard.press("m")
    assert page.evaluate("document.body.classList.contains('mending')")
    y, x = np.argwhere(truth).mean(0)
    radius = np.sqrt(truth.sum() / np.pi)
    for angle in (0.5, 2.6, 4.7):
        reach = 0.87 * radius
        click(page, x + reach * np.cos(angle) + 0.5, y + reach * np.sin(angle) + 0.5)
    page.keyboard.press("Enter")
    server.kill()
    rank(page, str((pane + 1) % 3 + 1))
    until(page, "document.querySelector('#saved').textContent === '1 queued'")
    assert load_answers(engine) == []
    server.start()
    server.client(token)
    page.reload()
    page.wait_for_selector("#work:not([hidden])")
    wait_saved(page)
    until(page, "document.querySelector('#progress').textContent.startsWith('1 by you')")
    [answer] = load_answers(engine)
    mended = decode_rle(answer.detail["correction"])
    assert mask_iou(mended, truth) > mask_iou(small, truth) + 0.02
    return mended, row


@in_browser[0]
@in_browser[1]
def test_brush_box_undo_and_escape(at_work, served):
    page, pane, row = at_work
    small = min(candidate_masks(row), key=np.sum)
    page.keyboard.press(str(pane + 1))
    page.keyboard.press("m")
    page.keyboard.press("b")
    assert "Brush of 2" in page.get_by_test_id("ask").inner_text()
    page.keyboard.press("[")
    far = (row["box"][0] - 4, row["box"][1] - 4)
    page.mouse.click(*on_screen(page, *far))
    page.keyboard.press("Enter")
    page.keyboard.press("m")
    page.keyboard.press("r")
    page.mouse.move(*on_screen(page, row["box"][0], row["box"][1]))
    page.mouse.down()
    page.evaluate("window.answered = 0; addEventListener('visionsam:answered', () => { window.answered++ }, { once: true })")
    page.mouse.move(*on_screen(page, row["box"][2], row["box"][3]), steps=3)
    page.mouse.up()
    until(page, "window.answered > 0")
    page.keyboard.press("Backspace")
    page.keyboard.press("b")
    page.mouse.click(*on_screen(page, far[0] + 2, far[1]))
    page.keyboard.press("Enter")
    rank(page, str((pane + 1) % 3 + 1))
    wait_saved(page)
    [answer] = [one for one in load_answers(served.engine) if one.row == 0]
    added = decode_rle(answer.detail["correction"]) & ~small
    assert 0 < added.sum() < 20 and np.argwhere(added)[:, 0].max() < row["box"][1], "two dabs, and no answer to the box"
    rank(page, "Backspace")
    page.keyboard.press(str(pane + 1))
    page.keyboard.press("m")
    page.keyboard.press("b")
    page.mouse.click(*on_screen(page, *far))
    page.keyboard.press("Escape")
    rank(page, str((pane + 1) % 3 + 1))
    wait_saved(page)
    [answer] = [one for one in load_answers(served.engine) if one.row == 0]
    assert "correction" not in answer.detail, "an undo takes the correction back, and Esc leaves the mask as it was"


def mend(store, user, work, *, undo=False, mask=None):
    mask = np.eye(SIZE, dtype=bool) if mask is None else mask
    values = {"kind": "submit", "ranking": [1, 1, 1], "correction": encode_rle(mask)}
    if undo:
        values = {"kind": "undo"}
    store.submit(user, Submission(uuid=str(uuid.uuid4()), assignment=work.public, **values), (SIZE, SIZE))


def test_a_correction_is_an_event_that_undo_takes_back_and_a_tie_with_one_is_a_pair(make_store, tmp_path):
    store, datasets = make_store(3, overlap=2)
    ann, bob = person(store, "ann"), person(store, "bob")
    held = store.claim(ann, 3)
    for work in held:
        mend(store, ann, work)
    mend(store, ann, held[0], undo=True)
    half = np.eye(SIZE, dtype=bool) & (np.arange(SIZE) < 30)
    for work in store.claim(bob, 3)[2:]:
        mend(store, bob, work, mask=half)
    with reading(store.engine) as connection:
        before = snapshot(connection)
    rebuild(store.engine)
    with reading(store.engine) as connection:
        assert snapshot(connection) == before
    exporter = Exporter(load_answers(store.engine), "human", 1)
    rows = list(exporter.rows("train", datasets["train"]))
    assert [row["image_id"] for row in rows] == ["image-1", "image-2"]
    assert np.array_equal(decode_mask(rows[0]["chosen"]), np.eye(SIZE, dtype=bool))
    assert np.array_equal(decode_mask(rows[1]["chosen"]), np.eye(SIZE, dtype=bool)), "what half of two hold, stays"
    assert {row["chosen_kind"] for row in rows} == {"corrected"} and exporter.results()["corrected"] == 2


def test_a_correction_of_a_window_lies_where_it_was_drawn():
    code = encode_rle(np.ones((4, 6), bool))
    submission = Submission(
        uuid=str(uuid.uuid4()), assignment="assignment", kind="submit", ranking=[1, 2, 3], correction=code
    )
    payload = submission.by_candidate([0, 1, 2], [0, 1, 2], (20, 30), (10, 5, 16, 9))
    mask = decode_rle(payload["correction"])
    assert mask.shape == (20, 30) and mask.sum() == 24 and mask[5:9, 10:16].all()
    with pytest.raises(ValueError, match="size of what is shown"):
        submission.by_candidate([0, 1, 2], [0, 1, 2], (20, 30))


def test_a_corrected_mask_is_never_shown(served, tmp_path):
    """Everything that anybody can load of a task is the same before and after somebody mended it."""
    address, token = served(write_candidate_set(tmp_path / "c", {"train": 1}), overlap=1)
    client = Client(address, token)
    task = client.claim()["tasks"][0]

    def seen():
        return [client.get(f"/api/task/{task['id']}{path}")[2] for path in ("", "/masks.png", "/photo.png")]

    before = seen()
    event = ranking_event(task, correction=encode_rle(np.eye(SIZE, dtype=bool)))
    assert client.send(event)["results"][0]["ok"]
    assert seen() == before and "correction" not in json.dumps(json.loads(before[0]))
