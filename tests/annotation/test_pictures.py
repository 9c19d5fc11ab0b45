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
        page.set_content(example_agreement())
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


def example_agreement() -> str:
    """The agreement page of 4 made-up annotators, one of them careless, on 120 tasks."""
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
                        again, rng.sample(range(3), 3), False, 0.0, json.loads(json.dumps(detail)),
                    )
                )
    figures = describe(answers, tasks, truth_rankings=truths)
    return render(figures, candidates="outputs/candidates", overlap=3, when=datetime.datetime(2025, 1, 1, 12))
