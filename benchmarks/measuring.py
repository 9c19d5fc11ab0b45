"""What every benchmark shares: sides measured in turn, medians, the machine's own rates, one JSON line.

On a busy machine absolute times mean little; the sides alternate, so whatever else runs slows all of them alike.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--short", action="store_true", help="a small shape and few repeats: does it work, roughly how fast"
    )
    parser.add_argument("--repeats", type=int, default=5, help="rounds; the median of each side is shown")
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; 0 leaves them as they are")
    return parser


def alternate(sides: Mapping[str, Callable[[], Any]], repeats: int, *, warm: int = 1) -> dict[str, list[float]]:
    """Seconds of every call, side by side: round after round, each side once a round.

    Args:
        sides: what to call, by name.
        repeats: rounds that count.
        warm: rounds before that do not.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(warm + repeats):
        for name, call in sides.items():
            synchronize()
            started = time.perf_counter()
            call()
            synchronize()
            if turn >= warm:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def synchronize() -> None:
    """Wait for a GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def medians(seconds: Mapping[str, list[float]], *, per: int = 1) -> dict[str, float]:
    """The median of each side, divided by the number of things that a call does."""
    return {name: round(statistics.median(values) / per, 5) for name, values in seconds.items()}


def compared(what: str, ours: float, against: str, theirs: float, *, target: float | None = None) -> dict[str, Any]:
    """A row of docs/performance.md: seconds of ours and of what a user would run instead.

    Args:
        what: is measured, with its unit ("encode, s an image").
        ours, theirs: seconds.
        against: the other side.
        target: how many times faster we mean to be, if we said so.
    """
    row = {"what": what, "ours": ours, "against": against, "theirs": theirs, "times": round(theirs / ours, 2)}
    return row if target is None else {**row, "target": target}


def machine_rates(*, side: int = 1536) -> dict[str, float]:
    """GFLOP/s of matrix products and GB/s of copying, measured: the best of a few."""
    rates = {}
    for name, dtype in (("float32_gflops", torch.float32), ("bfloat16_gflops", torch.bfloat16)):
        left, right = torch.randn(2, side, side).to(device(), dtype)
        rates[name] = round(2 * side**3 / _best(lambda: left @ right) / 1e9, 1)
    source = torch.empty(64 * 2**20, dtype=torch.uint8, device=device())
    target = torch.empty_like(source)
    rates["copy_gbytes"] = round(2 * source.nbytes / _best(lambda: target.copy_(source)) / 1e9, 1)
    return rates


def _best(call: Callable[[], Any]) -> float:
    return min(min(values) for values in alternate({"": call}, 8, warm=2).values())


def device() -> torch.device:
    """The GPU, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def report(name: str, options: argparse.Namespace, result: Mapping[str, Any]) -> None:
    """Print a benchmark's one line."""
    line = {
        "benchmark": name,
        "short": options.short,
        "repeats": options.repeats,
        **result,
        "machine": {
            "device": _device_name(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "load": round(os.getloadavg()[0], 1),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    say(line)


def _device_name() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        described = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.machine()
    names = [line.split(":", 1)[1].strip() for line in described.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def say(line: Mapping[str, Any]) -> None:
    """One JSON line on standard output, also inside `only_results`."""
    print(json.dumps(line), file=sys.__stdout__, flush=True)


def only_results() -> contextlib.AbstractContextManager:
    """Send what trainers print to standard error, so that standard output holds results alone."""
    return contextlib.redirect_stdout(sys.stderr)
