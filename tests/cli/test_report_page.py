"""The report in a real browser: desk, phone, dark, keyboard and paper."""

import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))
from test_report import inputs, make  # noqa: E402, F401

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="no chromium: install one, or name it in CHROMIUM"),
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="no playwright: pip install playwright"),
]
PATIENCE = 120_000
SIZES = {"desk": (1280, 800), "phone": (360, 740)}


@pytest.fixture(scope="module")
def report(inputs, tmp_path_factory):  # noqa: F811
    directory = tmp_path_factory.mktemp("page")
    make(directory, **inputs)
    return directory / "report.html"


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--no-first-run"], timeout=PATIENCE
        )
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, report):
    contexts = []

    def go(size="desk", scheme="light"):
        width, height = SIZES[size]
        context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        problems = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: problems.append(request.url) if request.url.startswith("http") else None)
        page.goto(report.as_uri())
        assert problems == []
        return page

    yield go
    for context in contexts:
        context.close()


@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_wider_than_the_screen(visit, size):
    page = visit(size)
    page.evaluate("document.querySelectorAll('details').forEach(item => item.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    # Text of charts stays readable where they shrink.
    smallest = page.evaluate(
        "Math.min(...[...document.querySelectorAll('.panel svg text')]"
        ".map(text => text.getBoundingClientRect().height))"
    )
    assert smallest >= 7


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(visit, scheme):
    page = visit(scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(item => item.open = true)")
    colours = page.evaluate(
        """() => [...document.querySelectorAll(
            'p, th, td, td small, figcaption, figcaption span, a, summary, b, li, h2')]
            .filter(element => element.offsetParent && element.textContent.trim()).map(element => {
            let ground = element;
            while (getComputedStyle(ground).backgroundColor === 'rgba(0, 0, 0, 0)') ground = ground.parentElement;
            const colours = [getComputedStyle(element).color, getComputedStyle(ground).backgroundColor];
            return [...colours, element.outerHTML.slice(0, 60)];
        })"""
    )
    assert len(colours) > 100
    for text, ground, element in {tuple(entry[:2]): entry for entry in colours}.values():
        assert contrast(text, ground) >= 4.5, (text, ground, element)


def contrast(first, second):
    """WCAG's contrast ratio of two CSS colours."""

    def luminance(colour):
        parts = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_keyboard_reaches_everything(visit):
    page = visit()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#main"
    reached = set()
    for _ in range(150):
        page.keyboard.press("Tab")
        focused = "document.activeElement"
        reached.add(page.evaluate(f"{focused}.tagName + ' ' + ({focused}.getAttribute('aria-label') || '')"))
    assert {"SUMMARY ", "DIV Table of the systems"} <= reached
    assert any(name.startswith("DIV Pictures:") for name in reached)
    scrolling = page.evaluate(
        "[...document.querySelectorAll('main *')].filter(one => one.scrollWidth > one.clientWidth + 1 &&"
        " getComputedStyle(one).overflowX === 'auto' && one.tabIndex < 0).map(one => one.className)"
    )
    assert scrolling == []  # what scrolls can be scrolled without a mouse


def test_on_paper_nothing_is_cut_off(visit, tmp_path):
    page = visit()
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 718, "height": 1000})  # A4 without its margins
    cut = page.evaluate(
        "[...document.querySelectorAll('main table, main svg, main .cells')].filter(one =>"
        " one.checkVisibility() && one.getBoundingClientRect().right > window.innerWidth + 1)"
        ".map(one => one.parentElement.getAttribute('aria-label') || one.className || one.tagName)"
    )
    assert cut == []
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").stat().st_size > 20_000
