"""The pictures of docs/annotation.md: VISIONSAM_PICTURES=docs/annotation pytest tests/annotation/test_pictures.py writes them."""

import datetime
import json
import os
import random
import re
import time
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="the extra [annotate] is not installed")
pytest.importorskip("fastapi", reason="the extra [annotate] is not installed")

from tests.annotation.fixtures import own_secret, served  # noqa: F401
from tests.annotation.rubric_picture import rubric_picture
from tests.annotation.test_page import chromium, until, visit  # noqa: F401
from tests.annotation.test_page import pytestmark as needs_browser
from tests.world_candidates import write_world_candidates
from visionsam_hf.annotation.agreement_page import render
from visionsam_hf.cli.annotate import _click_answerer
from visionsam_hf.cli.annotation_options import ServeSettings
from visionsam_hf.cli.candidates import load_candidates
from visionsam_hf.preferences.store_statistics import Answer, Task, describe


@pytest.fixture
def album(tmp_path):
    directory = Path(os.environ.get("VISIONSAM_PICTURES") or tmp_path)
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def test_the_rubric(album):
    picture = rubric_picture()
    picture.save(album / "rubric.png", optimize=True)
    assert picture.width > 1000


class TestScreens:
    pytestmark = needs_browser

    def test_the_work(self, served, visit, tmp_path, album):
        candidates = write_world_candidates(tmp_path / "c", 6)
        address, token = served(candidates, overlap=3)
        for scheme, size in (("light", (1280, 720)), ("dark", (1920, 1080))):
            page = visit(address, token, color_scheme=scheme, viewport={"width": size[0], "height": size[1]})
            time.sleep(0.3)
            page.keyboard.press("1")
            page.screenshot(path=album / f"work-{scheme}.png")
        page.keyboard.press("?")
        page.get_by_test_id("help").wait_for()
        page.screenshot(path=album / "keys.png")

    def test_circling_and_mending(self, served, visit, tmp_path, album):
        candidates = write_world_candidates(tmp_path / "c", 6)
        datasets = load_candidates(str(candidates))
        settings = ServeSettings(candidates=str(candidates), model="visionsam-tiny")
        address, token = served(candidates, overlap=3, answer_clicks=_click_answerer(settings, datasets, None))
        for name, size in (("", (1280, 720)), ("-narrow", (900, 640))):
            page = visit(address, token, color_scheme="light", viewport={"width": size[0], "height": size[1]})
            time.sleep(0.3)
            page.screenshot(path=album / f"ranking{name}.png")
            canvas = page.locator(".pane canvas").nth(1).bounding_box()
            x, y = canvas["x"] + canvas["width"] / 2, canvas["y"] + canvas["height"] / 2
            page.keyboard.press("d")
            page.mouse.move(x, y)
            page.mouse.down()
            for dx, dy in ((50, 0), (60, 40), (20, 50), (0, 10)):
                page.mouse.move(x + dx, y + dy)
            page.screenshot(path=album / f"circling{name}.png")
            page.mouse.up()
            page.screenshot(path=album / f"circled{name}.png")
            for key in ("e", "1", "m"):
                page.keyboard.press(key)
            for at, keys in ((0.35, []), (0.65, ["Shift"])):
                page.evaluate("addEventListener('visionsam:answered', () => { window.answered = true }, { once: true })")
                for key in keys:
                    page.keyboard.down(key)
                canvas = page.locator(".pane.shown canvas").bounding_box()
                page.mouse.click(canvas["x"] + at * canvas["width"], canvas["y"] + at * canvas["height"])
                for key in keys:
                    page.keyboard.up(key)
                until(page, "window.answered")
                page.evaluate("window.answered = false")
            time.sleep(0.3)
            page.screenshot(path=album / f"mending{name}.png")
            page.keyboard.press("b")
            page.mouse.move(canvas["x"] + 0.4 * canvas["width"], canvas["y"] + 0.3 * canvas["height"])
            page.mouse.down()
            page.mouse.move(canvas["x"] + 0.5 * canvas["width"], canvas["y"] + 0.35 * canvas["height"], steps=8)
            page.screenshot(path=album / f"brush{name}.png")
            page.mouse.up()
            page.keyboard.press("Enter")
            page.screenshot(path=album / f"mended{name}.png")

    def test_practice(self, served, visit, tmp_path, album):
        candidates = write_world_candidates(tmp_path / "c", 2)
        practice = write_world_candidates(tmp_path / "p", 2, seed=8)
        page = visit(*served(candidates, calibration=practice, rubric="full"), color_scheme="light")
        for key in ("1", "2", *"4435"):
            page.keyboard.press(key)
        page.screenshot(path=album / "marks.png")
        for key in "54443334":
            page.keyboard.press(key)
        until(page, "document.querySelectorAll('.numbers').length === 3")
        time.sleep(0.3)
        page.screenshot(path=album / "practice.png")

    def test_agreement(self, visit, served, chromium, tmp_path, album):
        page = chromium.new_page(viewport={"width": 1180, "height": 1000}, color_scheme="light")
        page.set_content(example_agreement({0: "outputs/sft", 1: "annotations.sqlite.rounds/round-1-60-4711/model"}))
        page.screenshot(path=album / "agreement.png", full_page=True)
        page.close()
        assert (album / "agreement.png").stat().st_size > 10_000


def test_the_agreement_page_is_one_file_in_the_page_s_colours_and_the_same_each_time():
    page = example_agreement()
    assert page == example_agreement()
    assert page.count("<svg") == 3 and "http" not in page
    plots = "".join(part.split("</svg>")[0] for part in page.split("<svg")[1:])
    assert set(re.findall(r"#[0-9a-f]{6}", plots)) == set(), "a colour that does not follow light and dark"
    for text in ("Krippendorff", "no data", "pane 3", "seconds a task"):
        assert text in plots


def example_agreement(models: dict[int, str] | None = None) -> str:
    """The agreement page of 4 made-up annotators, one of them careless, on 120 tasks; and of rounds, where there are."""
    rng = random.Random(1)
    tasks = {
        number: Task(number, "ranked", "train", number, None, [rng.random() for _ in range(3)]) for number in range(120)
    }
    answers, truths = [], {}
    for number in tasks:
        truths[number] = rng.sample([1, 2, 3], 3)
        for person in rng.sample(range(4), 3):
            careful = 0.45 if person == 3 else 0.82
            ranking = truths[number] if rng.random() < careful else rng.choice([rng.sample([1, 2, 3], 3), [1, 1, 2]])
            detail = {"seconds": rng.lognormvariate(1.2, 0.5), "criterion": rng.choice([None, "boundary", "coverage"])}
            for round_ in range(2 if rng.random() < 0.05 else 1):
                again = ranking if not round_ or rng.random() < careful else rng.sample([1, 2, 3], 3)
                answers.append(
                    Answer(
                        number, "ranked", "train", number, round_, f"annotator-{person + 1}", "human", "ranked",
                        again, rng.sample(range(3), 3), False, 0.0, json.loads(json.dumps(detail)), int(number > 70),
                    )
                )
    figures = describe(answers, tasks, truth_rankings=truths, models=models)
    return render(figures, candidates="outputs/candidates", overlap=3, when=datetime.datetime(2025, 1, 1, 12))
