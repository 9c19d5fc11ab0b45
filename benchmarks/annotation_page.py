"""What an annotator waits for: a click's answer over HTTP, and the next task after a key, in Chromium.

    python benchmarks/annotation_page.py --candidates outputs/candidates --model DIR --embeddings outputs/embeddings

The page is served by the command itself with everything on (`--model`, `--online`, `--order uncertain`), in a process of its own.
Beside each wait stands the processor's time that the server spent on it, which other work on the machine leaves alone.
"""

import contextlib
import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import measuring
import psutil

CLICKS_A_TASK = 3
_WATCH = """() => {
  window.waits = [];
  let pressed = 0;
  addEventListener('keydown', () => { pressed = performance.now() }, true);
  addEventListener('visionsam:painted', () => { window.waits.push(performance.now() - pressed) });
}"""


def main() -> None:
    """One JSON line: medians in milliseconds over so many clicks and tasks."""
    parser = measuring.arguments(__doc__.splitlines()[0])
    parser.add_argument("--candidates", required=True, help="directory that 'visionsam candidates' wrote")
    parser.add_argument("--model", required=True, help="the model that answers clicks")
    parser.add_argument("--embeddings", required=True, help="the cache that proposed the masks")
    parser.add_argument("--count", type=int, default=30, help="clicks that are measured, three a task, and then tasks")
    options = parser.parse_args()
    count = 6 if options.short else options.count
    with tempfile.TemporaryDirectory() as directory, served(options, Path(directory)) as (address, process):
        begun, load = _spent(process), os.getloadavg()[0]
        clicks = clicked(address, count)
        ended = _spent(process)
        waits = ranked(address, count)
    result = {
        "clicks": len(clicks),
        "click_ms": _milliseconds(clicks),
        "click_processor_ms": round(1000 * (ended - begun) / len(clicks), 1),
        "tasks": len(waits),
        "next_task_ms": _milliseconds([wait / 1000 for wait in waits]) if waits else None,
        "load_before": round(load, 1),
    }
    measuring.report("annotation_page", options, result)


@contextlib.contextmanager
def served(options: Any, directory: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The page's address with its token, and the process that serves it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    told = ["--candidates", options.candidates, "--model", options.model, "--embeddings", options.embeddings]
    told += ["--store", str(directory / "store.sqlite"), "--port", str(port), "--order", "uncertain", "--online"]
    command = [sys.executable, "-m", "visionsam_hf", "annotate", "serve", *told]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = process.stdout.readline().split()[-1]
            while process.poll() is None:
                # It says its address before it answers there.
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.1)
            yield address, psutil.Process(process.pid)
        finally:
            process.terminate()


def clicked(address: str, count: int) -> list[float]:
    """Seconds of every click's answer, over one connection, as a browser has it; a task's first one reads its embedding."""
    host = urlsplit(address).netloc
    token = parse_qs(urlsplit(address).fragment)["token"][0]
    connection = http.client.HTTPConnection(host)
    headers = {"origin": f"http://{host}", "content-type": "application/json"}

    def post(path: str, body: Any) -> bytes:
        connection.request("POST", path, json.dumps(body), headers)
        response = connection.getresponse()
        content = response.read()
        if response.status != 200:
            raise SystemExit(f"{path}: {response.status} {content[:200]!r}")
        if cookie := response.getheader("set-cookie"):
            headers["cookie"] = cookie.split(";")[0]
        return content

    post("/api/session", {"token": token})
    seconds = []
    while len(seconds) < count:
        task = json.loads(post("/api/claim", {}))["tasks"][0]
        (left, top), (x1, y1, x2, y2) = task["offset"], task["box"]
        clicks: list[dict[str, Any]] = []
        for place in range(CLICKS_A_TASK):
            share = (place + 1) / (CLICKS_A_TASK + 1)
            at = [left + x1 + share * (x2 - x1), top + y1 + share * (y2 - y1)]
            clicks.append({"at": at, "positive": place != 1})
            box = [left + x1, top + y1, left + x2, top + y2]
            started = time.perf_counter()
            post(f"/api/task/{task['id']}/mask.png", {"box": box, "clicks": clicks})
            seconds.append(time.perf_counter() - started)
        number = f"00000000-0000-4000-8000-{len(seconds):012d}"
        post("/api/events", {"events": [{"uuid": number, "assignment": task["id"], "kind": "submit", "ranking": [1, 2, 3]}]})
    return seconds


def ranked(address: str, tasks: int) -> list[float]:
    """Milliseconds from the second key to the next task on the screen; none where there is no browser."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        return []
    # Here, because only this half needs it.
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.goto(address)
        page.wait_for_selector("#work:not([hidden])", timeout=120_000)
        page.evaluate(_WATCH)
        for done in range(1, tasks + 1):
            page.keyboard.press("1")
            page.keyboard.press("2")
            # The page's policy forbids the eval that Playwright would wait with.
            while page.evaluate("window.waits.length") < done and page.is_hidden("#message"):
                time.sleep(0.02)
        waits = page.evaluate("window.waits")
        browser.close()
    return waits


def _spent(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _milliseconds(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(1000 * one for one in seconds)
    return {"median": round(statistics.median(ordered), 1), "p95": round(ordered[int(0.95 * (len(ordered) - 1))], 1)}


if __name__ == "__main__":
    main()
