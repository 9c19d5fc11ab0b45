"""`visionsam demo`: the real command; asked over HTTP, and in a browser."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("sqlalchemy", reason="the extra [annotate] is not installed")
pytest.importorskip("fastapi", reason="the extra [annotate] is not installed")

from tests.annotation.test_page import chromium, visit  # noqa: F401
from tests.annotation.test_page import pytestmark as needs_chromium
from visionsam_hf.cli.command_line import main

COMMAND = [sys.executable, "-m", "visionsam_hf", "demo"]
BOX = [20, 10, 61, 50]


@pytest.fixture(scope="module")
def photograph(tmp_path_factory):
    file = tmp_path_factory.mktemp("photographs") / "part.png"
    pixels = np.random.default_rng(0).integers(100, 140, (96, 120, 3), np.uint8)
    pixels[15:45, 25:55] = 230
    Image.fromarray(pixels).save(file)
    return file


@pytest.fixture(scope="module")
def address(photograph):
    no_browser = {**os.environ, "BROWSER": "true"}
    command = [*COMMAND, str(photograph), "--model", "visionsam-tiny", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=no_browser) as server:
        try:
            found = re.search(r"(http://\S+)/ ", server.stdout.readline())
            assert found, server.stderr.read()
            yield found[1]
        finally:
            server.send_signal(signal.SIGTERM)
            assert server.wait(30) == 143


def ask(address, body, **headers):
    content = json.dumps(body).encode()
    headers = {"content-type": "application/json", "origin": address} | headers
    with urllib.request.urlopen(urllib.request.Request(f"{address}/api/masks", content, headers)) as answer:
        return json.load(answer)


def unpack(found):
    left, top, right, bottom = found["view"]
    for mask in found["masks"]:
        inside = np.repeat(np.arange(len(mask["runs"])) % 2 == 1, mask["runs"])
        yield inside.reshape(bottom - top, right - left)


def test_a_box_is_answered_as_by_predict(address, photograph, tmp_path):
    predict = ["predict", "--model", "visionsam-tiny", "--image", str(photograph), "--output", str(tmp_path / "p")]
    assert main([*predict, "--box", *map(str, BOX)]) == 0
    found = ask(address, {"box": BOX})
    assert found["view"] == [0, 0, 120, 96]
    scores = json.loads((tmp_path / "p" / "prediction.json").read_text())["scores"]
    for mask, entry, name in zip(unpack(found), found["masks"], scores, strict=True):
        expected = np.asarray(Image.open(tmp_path / "p" / f"{name}.png")) > 0
        assert np.array_equal(mask, expected) and entry["area"] == expected.sum()
        assert entry["score"] == pytest.approx(scores[name], abs=1e-4)


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ({"box": [20, 10, 20, 50]}, {}, 422),
        ({"box": [20, 10, 121, 50]}, {}, 422),
        ({"box": [20, 10, 61]}, {}, 422),
        ({"box": BOX, "model": "another"}, {}, 422),
        ({"box": BOX}, {"origin": "http://elsewhere"}, 403),
        ({"box": BOX}, {"host": "elsewhere"}, 421),
    ],
)
def test_what_is_no_box_is_refused(address, body, headers, status):
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(address, body, **headers)
    assert refused.value.code == status


def test_only_its_own_files_are_served(address):
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{address}/static/..%2Fdemo.py")
    assert refused.value.code == 404


def test_a_missing_photograph_is_one_line(capsys, tmp_path):
    assert main(["demo", str(tmp_path / "none.png")]) == 2
    assert capsys.readouterr().err == f"visionsam: {tmp_path / 'none.png'}: no such photograph\n"


class TestInABrowser:
    pytestmark = needs_chromium

    def test_a_drag_brings_four_masks(self, visit, address):  # noqa: F811
        from playwright.sync_api import expect

        page = visit(address, None, wait="#photo")
        expect(page.get_by_test_id("told")).to_contain_text("drag a box")
        shown = page.get_by_test_id("photo").bounding_box()
        zoom = min(shown["width"] / 120, shown["height"] / 96)
        left, top = shown["x"] + (shown["width"] - 120 * zoom) / 2, shown["y"] + (shown["height"] - 96 * zoom) / 2
        page.mouse.move(left + 20 * zoom, top + 10 * zoom)
        page.mouse.down()
        page.mouse.move(left + 61 * zoom, top + 50 * zoom, steps=4)
        page.mouse.up()
        expect(page.get_by_test_id("told")).to_contain_text("answered in")
        for place, entry in enumerate(ask(address, {"box": BOX})["masks"]):
            caption = page.locator(f"figure:has([data-testid=mask-{place}]) figcaption")
            area = int(re.search(r"([0-9]+) px", caption.text_content())[1])
            # A screen's pixel is less than half of the photograph's: the corners are where they were meant to be.
            assert abs(area - entry["area"]) <= 0.1 * entry["area"]
