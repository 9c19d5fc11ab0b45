"""The page in a real browser: keys, undo, lost networks, and no request to anywhere else."""

import importlib.util
import os
import shutil
import time
from urllib.parse import urlsplit

import pytest

pytest.importorskip("sqlalchemy", reason="the extra [annotate] is not installed")
pytest.importorskip("fastapi", reason="the extra [annotate] is not installed")

from sqlalchemy import select

from tests.annotation.fixtures import free_port, own_secret, served  # noqa: F401
from tests.candidate_sets import write_candidate_set
from visionsam_hf.annotation.answers import load_answers
from visionsam_hf.annotation.database import events, reading

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="no chromium: install one, or name it in CHROMIUM"),
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="no playwright: pip install playwright"),
]
# Long enough for a machine that trains a model meanwhile; nothing waits that long in vain.
PATIENCE = 60_000
IS_DONE = (
    "(!document.querySelector('#message').hidden"
    " && /All done|Nothing to do|Once more/.test(document.querySelector('#message-title').textContent))"
)


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """visit(address, token) -> page, at work; checks at the end that nothing else was asked and nothing failed."""
    visited = []

    def go(address, token, *, wait="#work:not([hidden])", **options):
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 720}} | options)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        asked, failed = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: failed.append(str(error)))
        visited.append((context, address, asked, failed))
        page.goto(f"{address}/#token={token}")
        page.wait_for_selector(wait)
        return page

    yield go
    for context, address, asked, failed in visited:
        context.close()
        assert {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "blob:"))} == {
            urlsplit(address).netloc
        }
        assert failed == []


def until(page, expression):
    """Wait for a JavaScript expression; Playwright's own waiting needs eval, which the page's policy forbids."""
    deadline = time.monotonic() + PATIENCE / 1000
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        time.sleep(0.01)


def rank(page, *keys):
    """Press the keys and wait until the next task is painted, or until there is none and all is sent."""
    page.evaluate(
        "window.painted = 0; addEventListener('visionsam:painted', () => { window.painted++ }, { once: true })"
    )
    for key in keys:
        page.keyboard.press(key)
    until(page, f"window.painted > 0 || {IS_DONE}")


def wait_saved(page):
    until(page, "document.querySelector('#saved').textContent === 'saved'")


def rankings(serve):
    return [answer.ranking for answer in load_answers(serve.engine) if answer.status == "ranked"]


def shown(answer):
    """An answer's ranks by pane."""
    return [answer.ranking[place] for place in answer.order]


def test_two_keys_rank_a_task(served, visit, tmp_path):
    page = visit(*served(write_candidate_set(tmp_path / "c", {"train": 6}), overlap=1))
    assert "best" in page.get_by_test_id("ask").inner_text()
    page.keyboard.press("2")
    assert page.get_by_test_id("pane-2").get_attribute("data-verdict") == "best"
    page.keyboard.press("2")
    assert page.get_by_test_id("pane-2").get_attribute("data-verdict") == "", "pressed again it is taken back"
    for keys in (["2", "3"], ["1", "="], ["=", "3"], ["=", "="], ["0"], ["b", "3", "1"]):
        rank(page, *keys)
    until(page, IS_DONE)
    assert page.locator("#message-title").inner_text() == "All done"
    answers = load_answers(served.engine)
    assert [shown(one) for one in answers] == [[2, 1, 3], [1, 2, 2], [1, 1, 2], [1, 1, 1], [1, 1, 1], [3, 2, 1]]
    assert [one.detail["unusable"] for one in answers] == [False] * 4 + [True, False]
    assert answers[-1].detail["criterion"] == "boundary"
    assert all(one.detail["seconds"] >= 0 for one in answers)


def test_undo_goes_five_tasks_back(served, visit, tmp_path):
    page = visit(*served(write_candidate_set(tmp_path / "c", {"train": 7}), overlap=1))
    for _ in range(6):
        rank(page, "1", "2")
    for _ in range(5):
        rank(page, "Backspace")
    wait_saved(page)
    assert len(rankings(served)) == 1
    for _ in range(6):
        rank(page, "3", "1")
    wait_saved(page)
    answers = load_answers(served.engine)
    assert [shown(one) for one in answers] == [[1, 3, 2]] + [[3, 2, 1]] * 6


def test_a_reload_goes_on_and_undo_reaches_behind_it(served, visit, tmp_path):
    address, token = served(write_candidate_set(tmp_path / "c", {"train": 4}), overlap=1)
    page = visit(address, token)
    rank(page, "1", "2")
    rank(page, "1", "2")
    page.reload()
    page.wait_for_selector("#work:not([hidden])")
    until(page, "document.querySelector('#progress').textContent.startsWith('2 by you')")
    rank(page, "Backspace")
    rank(page, "3", "2")
    rank(page, "2", "1")
    rank(page, "2", "1")
    wait_saved(page)
    assert [shown(one) for one in load_answers(served.engine)] == [[1, 3, 2], [2, 3, 1], [3, 1, 2], [3, 1, 2]]


def test_nothing_is_lost_without_a_network(served, visit, tmp_path):
    page = visit(*served(write_candidate_set(tmp_path / "c", {"train": 4}), overlap=1))
    # Four tasks are at hand; they must be painted from memory.
    page.wait_for_load_state("networkidle")
    page.context.set_offline(True)
    for _ in range(3):
        rank(page, "1", "3")
    until(page, "document.querySelector('#saved').textContent === '3 queued'")
    assert rankings(served) == []
    page.context.set_offline(False)
    wait_saved(page)
    rank(page, "1", "3")
    wait_saved(page)
    assert [shown(one) for one in load_answers(served.engine)] == [[1, 2, 3]] * 4


def test_answers_wait_in_the_browser_while_the_server_is_away(served, visit, tmp_path, free_port):
    candidates = write_candidate_set(tmp_path / "c", {"train": 4})
    page = visit(*served(candidates, overlap=1, port=free_port))
    page.wait_for_load_state("networkidle")
    served.stop()
    rank(page, "1", "2")
    rank(page, "1", "2")
    until(page, "document.querySelector('#saved').textContent === '2 queued'")
    served(candidates, overlap=1, port=free_port)
    page.reload()
    page.wait_for_selector("#work:not([hidden])")
    wait_saved(page)
    until(page, "document.querySelector('#progress').textContent.startsWith('2 by you')")
    assert len(rankings(served)) == 2


def test_two_annotators_at_once(served, visit, tmp_path):
    from visionsam_hf.annotation.access import add_user, read_secret
    from visionsam_hf.annotation.database import open_engine

    store = tmp_path / "two.sqlite"
    engine = open_engine(str(store), create=True)
    tokens = [add_user(engine, read_secret(), name) for name in ("ann", "bob")]
    address, _ = served(write_candidate_set(tmp_path / "c", {"train": 3}), store=store, overlap=2)
    pages = [visit(address, token) for token in tokens]
    for _ in range(3):
        for page in pages:
            rank(page, "1", "2")
    for page in pages:
        wait_saved(page)
    answers = load_answers(served.engine)
    assert len(answers) == 6
    assert len({(one.task_id, one.annotator) for one in answers}) == 6


def test_skip_flag_and_circled_mistakes(served, visit, tmp_path):
    page = visit(*served(write_candidate_set(tmp_path / "c", {"train": 3}), overlap=1))
    rank(page, "s")
    page.keyboard.press("!")
    page.get_by_test_id("flag-dialog").wait_for()
    rank(page, "3")
    page.keyboard.press("d")
    canvas = page.locator(".pane canvas").nth(1).bounding_box()
    x, y = canvas["x"] + canvas["width"] / 2, canvas["y"] + canvas["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    for dx, dy in ((40, 0), (40, 40), (0, 40), (0, 0)):
        page.mouse.move(x + dx, y + dy)
    page.mouse.up()
    assert "What is it" in page.get_by_test_id("ask").inner_text()
    page.keyboard.press("m")
    rank(page, "1", "2")
    wait_saved(page)
    answers = load_answers(served.engine)
    assert [one.status for one in answers] == ["skipped", "flagged", "ranked"]
    assert answers[1].detail["reason"] == "no_anomaly"
    region = answers[2].detail["regions"][0]
    assert (region["label"], region["candidate"]) == ("missed", answers[2].order[1])


def test_practice_gives_feedback_and_the_full_rubric_asks_for_marks(served, visit, tmp_path):
    candidates = write_candidate_set(tmp_path / "c", {"train": 2})
    practice = write_candidate_set(tmp_path / "p", {"train": 1})
    page = visit(*served(candidates, overlap=1, calibration=practice, rubric="full", gate=0.9))
    assert page.get_by_test_id("phase").inner_text() == "Practice"
    for key in ("1", "2", *"345345345345"):
        page.keyboard.press(key)
    until(page, "document.querySelectorAll('.numbers').length === 3")
    assert "by the truth" in page.get_by_test_id("pane-1").inner_text()
    page.keyboard.press("Space")
    wait_saved(page)
    answer = load_answers(served.engine)[0]
    assert [answer.detail["ratings"][place] for place in answer.order] == [[3, 4, 5, 3], [4, 5, 3, 4], [5, 3, 4, 5]]
    marks_gone = "document.querySelectorAll('.under dl').length === 0"
    until(page, f"{marks_gone} || document.querySelector('[data-testid=message]').checkVisibility()")
    if page.get_by_test_id("message").is_visible():
        assert "Once more" in page.get_by_test_id("message").inner_text()
        page.get_by_test_id("message-button").click()
    until(page, marks_gone)


def test_space_hides_x_fills_tab_flickers(served, visit, tmp_path):
    page = visit(*served(write_candidate_set(tmp_path / "c", {"train": 1}), overlap=1))
    frames = "await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    picture = f"async () => {{ {frames}; return document.querySelector('.pane canvas').toDataURL() }}"
    outlined = page.evaluate(picture)
    page.keyboard.down("Space")
    hidden = page.evaluate(picture)
    page.keyboard.up("Space")
    assert page.evaluate(picture) == outlined != hidden
    page.keyboard.press("x")
    filled = page.evaluate(picture)
    page.keyboard.press("]")
    stronger = page.evaluate(picture)
    assert len({outlined, hidden, filled, stronger}) == 4
    page.reload()
    page.wait_for_selector("#work:not([hidden])")
    assert (page.locator("#mode").inner_text(), page.get_by_test_id("opacity").inner_text()) == ("fill", "55%")
    page.keyboard.press("Tab")
    assert page.locator(".pane:visible").count() == 1
    page.keyboard.press("Tab")
    assert page.locator(".pane:visible").count() == 3
    page.keyboard.press("?")
    page.get_by_test_id("help").wait_for()
    page.keyboard.press("1")
    page.keyboard.press("Escape")
    assert page.get_by_test_id("pane-1").get_attribute("data-verdict") == "", "keys rank nothing behind a dialog"


def test_everything_is_reachable_and_named(served, visit, tmp_path):
    page = visit(*served(write_candidate_set(tmp_path / "c", {"train": 1}), overlap=1))
    names = page.evaluate(
        "[...document.querySelectorAll('button, canvas, progress, input, main')].filter((one) => one.offsetParent)"
        ".map((one) => one.getAttribute('aria-label') || one.textContent.trim() || one.labels?.[0]?.textContent || '')"
    )
    assert all(names)
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.tagName") == "BUTTON"
    page.get_by_test_id("pick-3").focus()
    page.keyboard.press("Enter")
    assert page.get_by_test_id("pane-3").get_attribute("data-verdict") == "best"


def test_a_script_in_a_category_name_does_not_run(served, visit, tmp_path, monkeypatch):
    name = "<img src=x onerror=window.hacked=1>"
    monkeypatch.setattr("tests.candidate_sets.CATEGORIES", [name, "ring"])
    page = visit(*served(write_candidate_set(tmp_path / "c", {"train": 1}), overlap=1))
    assert page.get_by_test_id("category").inner_text() == name
    assert page.evaluate("window.hacked") is None


def test_near_identical_masks_take_no_decision(served, visit, tmp_path):
    page = visit(*served(write_candidate_set(tmp_path / "c", {"train": 1}, identical=True), overlap=1))
    assert "≈" in page.get_by_test_id("pane-1").inner_text()
    page.keyboard.press("1")
    assert "identical" in page.get_by_test_id("ask").inner_text()
    rank(page, "=")
    wait_saved(page)
    assert rankings(served) == [[1, 1, 1]]


def test_a_wrong_token_gets_a_plain_answer_and_a_right_one_starts(served, visit, tmp_path):
    address, token = served(write_candidate_set(tmp_path / "c", {"train": 1}), overlap=1)
    page = visit(address, "wrong", wait="#login:not([hidden])")
    assert "not known" in page.locator("#login-error").inner_text()
    page.get_by_test_id("token").fill(token)
    page.keyboard.press("Enter")
    page.wait_for_selector("#work:not([hidden])")


def test_a_hundred_tasks_with_two_keys_each(served, visit, tmp_path, record_property):
    """Prints the time from the last key to the next task on the screen; it is a figure, not a claim."""
    count = 100 if os.environ.get("VISIONSAM_STRESS") else 12
    size = 256 if os.environ.get("VISIONSAM_STRESS") else 64
    page = visit(*served(write_candidate_set(tmp_path / "c", {"train": count}, size=size), overlap=1))
    page.evaluate(
        """() => {
          window.times = [];
          let pressed = 0;
          addEventListener('keydown', () => { pressed = performance.now() }, true);
          addEventListener('visionsam:painted', () => { window.times.push(performance.now() - pressed) });
        }"""
    )
    for _ in range(count):
        rank(page, "1", "2")
    wait_saved(page)
    times = sorted(page.evaluate("window.times"))
    assert len(rankings(served)) == count
    with reading(served.engine) as connection:
        assert set(connection.execute(select(events.c.kind)).scalars()) == {"submit"}, "no task was asked twice"
    median = times[len(times) // 2]
    record_property("median_ms", median)
    print(
        f"key to next task painted: median {median:.0f} ms, 95% {times[int(0.95 * len(times))]:.0f} ms, {count} tasks"
    )
