"""The server's endpoints, over HTTP."""

import io
import json

import datasets
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("sqlalchemy", reason="the extra [annotate] is not installed")
pytest.importorskip("fastapi", reason="the extra [annotate] is not installed")

from tests.annotation.browser import Client, ranking_event
from tests.annotation.fixtures import own_secret, served  # noqa: F401
from tests.candidate_sets import candidate_row, write_candidate_set
from visionsam_hf.annotation.task_images import TaskImages, view_window
from visionsam_hf.data.masks import decode_rle, encode_rle


@pytest.fixture
def page(served, tmp_path):
    candidates = write_candidate_set(tmp_path / "candidates", {"train": 3})
    practice = write_candidate_set(tmp_path / "practice", {"train": 1})
    address, token = served(candidates, calibration=practice, rubric="full", gate=-1)
    return Client(address, token)


def open_png(content):
    image = Image.open(io.BytesIO(content))
    assert image.format == "PNG"
    return np.asarray(image)


def test_a_task_from_claim_to_answer(page):
    reply = page.claim()
    practice = reply["tasks"][0]
    assert practice["calibration"] and practice["ratings"] == ["coverage", "boundary", "over_under", "noise"]
    assert page.get(f"/api/task/{practice['id']}/feedback")[0] == 404
    assert page.get(f"/api/task/{practice['id']}/truth.png")[0] == 404
    reply = page.send(ranking_event(practice, ratings=[[5, 4, 3, 2]] * 3))
    assert reply["results"][0]["ok"]
    status, _, body = page.get(f"/api/task/{practice['id']}/feedback")
    feedback = json.loads(body)
    assert status == 200 and feedback["yours"] == [1, 2, 3] and sorted(feedback["truth"]) == [1, 2, 3]
    best = feedback["truth"].index(1)
    assert feedback["numbers"][best]["worth"] == max(numbers["worth"] for numbers in feedback["numbers"])
    tasks = reply["tasks"]
    assert [task["calibration"] for task in tasks] == [False] * 3
    assert page.get(f"/api/task/{tasks[0]['id']}/truth.png")[0] == 404
    reply = page.send(*(ranking_event(task) for task in tasks))
    assert [result["ok"] for result in reply["results"]] == [True] * 3
    assert reply["progress"]["mine"] == 3
    assert reply["progress"]["done"] == 3


def test_pictures_show_the_masks_in_the_stored_order(page):
    page.send(ranking_event(page.claim()["tasks"][0]))
    task = page.claim()["tasks"][0]
    row = candidate_row(0)
    photo = open_png(page.get(f"/api/task/{task['id']}/photo.png")[2])
    assert np.array_equal(photo, np.asarray(row["image"]))
    masks = open_png(page.get(f"/api/task/{task['id']}/masks.png")[2])
    shown = [masks[..., pane] > 0 for pane in range(3)]
    stored = [decode_rle(candidate["rle"]) for candidate in row["candidates"]]
    places = [next(place for place in range(3) if np.array_equal(mask, stored[place])) for mask in shown]
    assert sorted(places) == [0, 1, 2]


def test_nothing_that_would_sway_anybody_leaves_the_server(page):
    page.send(ranking_event(page.claim()["tasks"][0]))
    for task in page.claim()["tasks"]:
        assert set(task) == {"id", "category", "box", "offset", "size", "twins", "calibration", "ratings", "mendable"}


def test_a_bad_submission_does_not_keep_good_ones_out(page):
    task = page.claim()["tasks"][0]
    reply = page.send({"uuid": "x", "surprise": 1}, ranking_event({"id": "somebody-else-s"}), ranking_event(task))
    assert [result["ok"] for result in reply["results"]] == [False, False, True]
    assert "reason" in reply["results"][0]


def test_the_static_page_has_all_it_names(page):
    status, headers, body = page.get("/")
    assert status == 200 and headers["content-type"].startswith("text/html")
    for name in (
        "style.css",
        "main.js",
        "outbox.js",
        "network.js",
        "panes.js",
        "outline.js",
        "screens.js",
        "chooser.js",
        "controls.js",
    ):
        status, headers, content = page.get(f"/static/{name}")
        assert status == 200 and len(content) > 100
    assert b"http://" not in body and b"https://" not in body


def test_a_large_photograph_is_shown_as_a_window_round_the_prompt():
    masks = np.zeros((3, 3000, 4000), bool)
    masks[0, 1500:1550, 2000:2100] = True
    x1, y1, x2, y2 = view_window((3000, 4000), [2000, 1500, 2100, 1550], masks)
    assert (x1, y1, x2, y2) == (1250, 725, 2850, 2325)
    assert view_window((600, 800), [0, 0, 10, 10], masks[:, :600, :800]) == (0, 0, 800, 600)
    masks[1, 0, 0] = True
    assert view_window((3000, 4000), [2000, 1500, 2100, 1550], masks)[:2] == (0, 0)


def test_what_is_kept_of_a_large_photograph_is_its_window():
    height, width, box = 2000, 3000, [1500.0, 1000.0, 1520.0, 1030.0]
    mask = np.zeros((height, width), bool)
    mask[1000:1030, 1500:1520] = True
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "grey").save(buffer, "JPEG")
    row = {
        "image": {"bytes": buffer.getvalue()}, "box": box, "category": 0, "image_id": "large", "truth": None,
        "candidates": [{"rle": encode_rle(mask)}] * 3,
    }  # fmt: skip

    class Rows(list):
        features = {"category": datasets.ClassLabel(names=["plate"])}

    image = TaskImages({"train": Rows([row])}).load("ranked", "train", 0)
    x1, y1, x2, y2 = image.window
    assert image.photo.shape[:2] == image.masks.shape[1:] == (y2 - y1, x2 - x1) and max(image.photo.shape) <= 1640
    # In full resolution, and without the photograph behind it: many tasks are kept in memory.
    assert image.photo.base is None and image.masks.base is None
