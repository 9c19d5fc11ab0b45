"""The HTML page about agreement: one self-contained file."""

import datetime
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any
from xml.sax.saxutils import escape

from jinja2 import Environment
from markupsafe import Markup

_WIDTH = 560


def scale_plot(lines: Sequence[tuple[str, float | None, Sequence[float | None] | None]], low: float = -0.2) -> str:
    """One line a figure on a common axis from `low` to 1, with an interval where there is one."""
    left, step = 210, 30
    height = step * len(lines) + 30

    def x(value: float) -> float:
        return left + (min(max(value, low), 1) - low) / (1 - low) * (_WIDTH - left - 46)

    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="6" y2="{height - 22}"/>')
        parts.append(f'<text class="quiet" x="{x(tick):.1f}" y="{height - 6}" text-anchor="middle">{tick:g}</text>')
    for row, (label, value, interval) in enumerate(lines):
        y = 20 + row * step
        parts.append(f'<text x="{left - 12}" y="{y + 4}" text-anchor="end">{escape(label)}</text>')
        if value is None:
            parts.append(f'<text class="quiet" x="{x(0) + 6:.1f}" y="{y + 4}">no data</text>')
            continue
        first, last = interval or (None, None)
        if first is not None and last is not None:
            parts.append(f'<line class="range" x1="{x(first):.1f}" x2="{x(last):.1f}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="dot" cx="{x(value):.1f}" cy="{y}" r="5"/>')
        parts.append(f'<text class="value" x="{_WIDTH - 4}" y="{y + 4}" text-anchor="end">{value:.2f}</text>')
    alt = "; ".join(f"{label} {'no data' if value is None else format(value, '.2f')}" for label, value, _ in lines)
    return _svg(parts, height, alt)


def bar_plot(bars: Sequence[tuple[str, float]], *, expected: float | None = None, unit: str = "") -> str:
    """Upright bars; `expected` is a dashed line across them."""
    height, base, top = 224, 178, 10
    most = max([value for _, value in bars] + [expected or 0, 1e-9])
    step = (_WIDTH - 40) / max(len(bars), 1)
    parts = []
    for index, (label, value) in enumerate(bars):
        tall = (base - top) * value / most
        x = 20 + index * step
        parts.append(
            f'<rect class="bar" x="{x + step * 0.12:.1f}" y="{base - tall:.1f}"'
            f' width="{step * 0.76:.1f}" height="{tall:.1f}" rx="2"/>'
        )
        if len(bars) <= 10:
            parts.append(
                f'<text class="value inside" x="{x + step / 2:.1f}" y="{base - 10}" text-anchor="middle">{value:g}</text>'
            )
        if label:
            parts.append(
                f'<text class="quiet" x="{x + step / 2:.1f}" y="{base + 18}" text-anchor="middle">{escape(label)}</text>'
            )
    if expected is not None:
        y = base - (base - top) * expected / most
        parts.append(f'<line class="expected" x1="14" x2="{_WIDTH - 14}" y1="{y:.1f}" y2="{y:.1f}"/>')
    parts.append(f'<line class="axis" x1="14" x2="{_WIDTH - 14}" y1="{base}" y2="{base}"/>')
    if unit:
        parts.append(f'<text class="quiet" x="{_WIDTH - 14}" y="{height - 2}" text-anchor="end">{escape(unit)}</text>')
    return _svg(parts, height, ", ".join(f"{label or '·'}: {value:g}" for label, value in bars))


def seconds_histogram(seconds: Sequence[float]) -> str:
    """How many rankings took how long; the slowest share a last bar."""
    if not seconds:
        return ""
    cut = max(sorted(seconds)[int(0.95 * (len(seconds) - 1))], 1.0)
    bins = 16
    counts = [0] * (bins + 1)
    for value in seconds:
        counts[min(int(value / cut * bins), bins)] += 1
    labels = [f"{cut * index / bins:.0f}" if index % 4 == 0 else "" for index in range(bins)] + ["more"]
    return bar_plot(list(zip(labels, counts, strict=True)), unit="seconds a task")


def agreement_lines(figures: Mapping[str, Any]) -> list[tuple[str, float | None, Sequence[float | None] | None]]:
    """The lines of `scale_plot` for one kind of annotators."""
    return [
        ("Krippendorff's α (95%)", figures["alpha"], figures["alpha_95"]),
        ("Kendall's τ-b", figures["tau"], None),
        ("Fleiss' κ, best mask", figures["kappa_best"], None),
        ("with the model's scores", figures["tau_score"], None),
        ("with the truth", figures["tau_truth"], None),
        ("on hidden gold", figures["gold_tau"], None),
        ("with themselves, again", figures["repeats"]["tau"], None),
    ]


def _svg(parts: Sequence[str], height: float, alt: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(alt, {chr(34): "&quot;"})}">'
        f'{"".join(parts)}</svg>'
    )


def render(figures: Mapping[str, Any], *, candidates: str, overlap: int, when: datetime.datetime) -> str:
    """The page for `statistics.describe`'s figures."""
    source = resources.files("visionsam_hf.annotation") / "static" / "agreement.html.jinja"
    template = Environment(autoescape=True, trim_blocks=True).from_string(source.read_text(encoding="utf-8"))
    plots = {kind: _plots(of) for kind, of in figures.items()}
    return template.render(
        figures=figures,
        plots=plots,
        candidates=candidates.rstrip("/").rsplit("/", 1)[-1],
        overlap=overlap,
        when=when.strftime("%Y-%m-%d %H:%M"),
        percent=lambda value: "—" if value is None else f"{100 * value:.0f}%",
        number=lambda value: "—" if value is None else f"{value:.2f}",
    )


def _plots(of: Mapping[str, Any]) -> dict[str, Markup]:
    panes = of["best_by_pane"]
    bars = [(f"pane {number}", count) for number, count in enumerate(panes, 1)]
    return {
        "agreement": Markup(scale_plot(agreement_lines(of))),
        "position": Markup(bar_plot(bars, expected=sum(panes) / 3)),
        "seconds": Markup(seconds_histogram(of["seconds"])),
    }
