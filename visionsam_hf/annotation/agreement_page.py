"""The HTML page about agreement: one self-contained file, whose plots follow the page's colours, light or dark."""

import datetime
import html
import io
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import matplotlib
import numpy as np
from jinja2 import Environment
from markupsafe import Markup
from matplotlib.figure import Figure

# Stand-ins while drawing -> the page's variables.
_INK, _QUIET, _LINE, _ACCENT, _WARM, _PANEL = "#1c2430", "#5b6573", "#d9dde3", "#0072b2", "#b34a00", "#f5f6f8"
_VARIABLES = {_INK: "ink", _QUIET: "quiet", _LINE: "line", _ACCENT: "accent", _WARM: "warm", _PANEL: "panel"}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "visionsam_hf",  # the same answers give the same page
    "font.family": "DejaVu Sans",
    "font.size": 9.75,
    "text.color": _INK,
    "axes.edgecolor": _QUIET,
    "axes.labelcolor": _QUIET,
    "axes.axisbelow": True,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": _LINE,
    "xtick.color": _QUIET,
    "ytick.color": _INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}


def _draw(paint: Any, *, told: str, height: float) -> Markup:
    """A figure of the panel's width and `height` inches as an SVG element; `told` is for people who cannot see it."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.85, height), layout="constrained")
        paint(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    # Inside a page no name spaces are declared, and the panel gives the size.
    svg = re.sub(r' (xmlns(:xlink)?|version|width|height)="[^"]*"', "", svg[: svg.index(">")]) + svg[svg.index(">") :]
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    svg = svg.replace("'DejaVu Sans'", "var(--sans)")
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(told)}"', 1))


Line = tuple[str, float | None, Sequence[float | None] | None]


def scale_plot(lines: Sequence[Line], low: float = -0.2) -> Markup:
    """One line a figure on a common axis from `low` to 1, with an interval where there is one."""

    def paint(axes: Any) -> None:
        for place, (_, value, interval) in enumerate(lines):
            if value is None:
                axes.text(0.02, place, "no data", color=_QUIET, va="center")
                continue
            if interval is not None and None not in interval:
                ends = np.clip(np.array(interval, float), low, 1)
                axes.plot(ends, [place, place], color=_ACCENT, alpha=0.45, linewidth=3.5, solid_capstyle="round")
            axes.plot(np.clip(value, low, 1), place, "o", color=_ACCENT, markersize=7)
            axes.annotate(
                f"{value:.2f}", (1, place), (30, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
                ha="right", va="center", weight="bold",
            )  # fmt: skip
        axes.set_yticks(range(len(lines)), [label for label, _, _ in lines])
        axes.set_ylim(len(lines) - 0.5, -0.5)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
        axes.set_xlim(low, 1.02)
        axes.spines.bottom.set_visible(False)
        axes.grid(axis="x")

    told = "; ".join(f"{label} {'no data' if value is None else format(value, '.2f')}" for label, value, _ in lines)
    return _draw(paint, told=told, height=0.3 * len(lines) + 0.35)


def position_plot(panes: Sequence[int]) -> Markup:
    """How often each pane held the best mask; a dashed line shows what chance expects."""

    def paint(axes: Any) -> None:
        bars = axes.bar([f"pane {number}" for number in range(1, len(panes) + 1)], panes, color=_ACCENT, width=0.76)
        axes.bar_label(bars, label_type="center", color=_PANEL, weight="bold")
        axes.axhline(sum(panes) / len(panes), color=_WARM, linestyle=(0, (5, 4)), linewidth=1.2)
        axes.set_yticks([])

    told = ", ".join(f"pane {number}: {count}" for number, count in enumerate(panes, 1))
    return _draw(paint, told=told, height=2.3)


def seconds_histogram(seconds: Sequence[float]) -> Markup:
    """How many rankings took how long; the slowest share a last bar. Empty without any."""
    if not seconds:
        return Markup("")
    cut = max(sorted(seconds)[int(0.95 * (len(seconds) - 1))], 1.0)
    bins = 16
    places = [min(int(value / cut * bins), bins) for value in seconds]
    counts = np.bincount(places, minlength=bins + 1)

    def paint(axes: Any) -> None:
        axes.bar(range(bins + 1), counts, color=_ACCENT, width=0.76)
        ticks = [*range(0, bins, 4), bins]
        axes.set_xticks(ticks, [f"{cut * place / bins:.0f}" for place in ticks[:-1]] + ["more"])
        axes.set_xlabel("seconds a task", loc="right")
        axes.set_yticks([])

    told = f"{len(seconds)} rankings; half took {np.median(seconds):.1f} seconds or less"
    return _draw(paint, told=told, height=2.3)


def agreement_lines(figures: Mapping[str, Any]) -> list[Line]:
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


def render(figures: Mapping[str, Any], *, candidates: str, overlap: int, when: datetime.datetime) -> str:
    """The page for `store_statistics.describe`'s figures."""
    source = resources.files("visionsam_hf.annotation") / "static" / "agreement.html.jinja"
    template = Environment(autoescape=True, trim_blocks=True).from_string(source.read_text(encoding="utf-8"))
    plots = {
        kind: {
            "agreement": scale_plot(agreement_lines(of)),
            "position": position_plot(of["best_by_pane"]),
            "seconds": seconds_histogram(of["seconds"]),
        }
        for kind, of in figures.items()
        if of["rankings"]
    }
    return template.render(
        figures=figures,
        plots=plots,
        candidates=candidates.rstrip("/").rsplit("/", 1)[-1],
        overlap=overlap,
        when=when.strftime("%Y-%m-%d %H:%M"),
        percent=lambda value: "—" if value is None else f"{100 * value:.0f}%",
        number=lambda value: "—" if value is None else f"{value:.2f}",
    )
