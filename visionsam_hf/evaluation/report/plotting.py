"""How the report draws, as inline SVG: small panels that stand beside each other, or under each other on a phone.

Colours become CSS variables of the page and text stays text, so that one figure is right on light, dark and paper.
"""

import dataclasses
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

# Stand-ins while drawing -> the page's variables.
INK, MUTED, LINE, SURFACE = "#101418", "#5a6570", "#d3d9e0", "#fcfcfd"
SERIES = ("#6b7281", "#0072b3", "#d55e01", "#a83277", "#00805e", "#8a6d02", "#5b4bb8", "#a32a2b")
GOOD, FAIR, POOR, BAD = "#1a7f5a", "#c9a226", "#d9822c", "#b3393f"
_VARIABLES = {
    INK: "--ink", MUTED: "--muted", LINE: "--line", SURFACE: "--surface",
    GOOD: "--good", FAIR: "--fair", POOR: "--poor", BAD: "--bad",
    **{color: f"--series-{index}" for index, color in enumerate(SERIES)},
}  # fmt: skip
MARKERS = ("s", "o", "D", "^", "v", "P", "X", "h")
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "visionsam_hf",  # the same numbers give the same file
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9.5,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
}
WIDTH = 4.4  # inches: 317 units, about a phone's width


@dataclasses.dataclass(frozen=True)
class Panel:
    """A chart of the page: its title, which the page sets and wraps, and its SVG element."""

    title: str
    svg: str


def draw(
    title: str, paint: Callable[[Axes], None], *, told: str, height: float = 3.0, width: float = WIDTH
) -> Panel:
    """One panel.

    Args:
        title: stands above it.
        paint: draws on the axes, in the colours of this module.
        told: what a person who cannot see it is told after the title.
        height, width: inches.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        paint(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return Panel(title, _for_page(buffer.getvalue(), f"{title}: {told}"))


def _for_page(svg: str, label: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    svg = svg.replace("'DejaVu Sans'", "var(--sans)").replace("DejaVu Sans", "var(--sans)")
    title = label.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)


def series_style(index: int) -> dict[str, Any]:
    """The colour and the marker that a system keeps in every panel."""
    return {"color": SERIES[index % len(SERIES)], "marker": MARKERS[index % len(MARKERS)]}


def _share_limits(axes: Axes, low: float, high: float, axis: str = "x") -> None:
    """Limits round values in [0, 1], with air, on tenths."""
    bottom, top = max(0.0, math.floor((low - 0.03) * 10) / 10), min(1.0, math.ceil((high + 0.03) * 10) / 10)
    (axes.set_xlim if axis == "x" else axes.set_ylim)(bottom, max(top, bottom + 0.1))


def signed(value: float) -> str:
    """A difference with three decimals and always its sign; nothing is not negative."""
    return f"{round(value, 3) + 0.0:+.3f}".replace("-", "−")


def interval_panel(
    title: str,
    names: Sequence[str],
    values: Sequence[float],
    intervals: Sequence[Sequence[float] | None],
    paper: Sequence[float | None],
    seeds: Sequence[Sequence[float]],
) -> Panel:
    """Each system's mean with its interval, its seeds as ticks, and the paper's number as a ring."""

    def paint(axes: Axes) -> None:
        shown = list(values)
        for index, place in enumerate(_name_rows(axes, names)):
            _mark_mean(axes, place, values[index], intervals[index], index, f"{values[index]:.3f}")
            shown += intervals[index] or []
            if len(seeds[index]) > 1:
                color = series_style(index)["color"]
                axes.plot(seeds[index], [place - 0.22] * len(seeds[index]), "|", color=color, markersize=7)
            if (published := paper[index]) is not None:
                axes.plot(published, place, "o", markerfacecolor="none", markeredgecolor=MUTED, markersize=8)
                shown.append(published)
        _share_limits(axes, min(shown), max(shown))

    told = "; ".join(f"{name} {value:.3f}" for name, value in zip(names, values))
    return draw(title, paint, told=told, height=0.5 + 0.46 * len(names))


def _name_rows(axes: Axes, names: Sequence[str], above: float = 0.75) -> np.ndarray:
    """A line a name, the first on top, with room `above` it; their heights."""
    places = np.arange(len(names))[::-1]
    axes.set_yticks(places, names, color=INK)
    axes.set_ylim(-0.6, len(names) - 1 + above)
    axes.grid(axis="y", visible=False)
    return places


def _mark_mean(
    axes: Axes, place: float, value: float, interval: Sequence[float] | None, index: int, told: str
) -> None:
    """A system's mean with its number above it and its interval as a thick line."""
    style = series_style(index)
    if interval:
        axes.plot(interval, [place, place], color=style["color"], linewidth=3, alpha=0.55)
    axes.plot(value, place, **style, markersize=7, linestyle="")
    axes.annotate(told, (value, place), (0, 7), textcoords="offset points", ha="center", fontsize=9)


def difference_panel(title: str, names: Sequence[str], comparisons: Sequence[Mapping], styles: Sequence[int]) -> Panel:
    """Paired mean differences to the reference with their intervals; left of zero is worse."""

    def paint(axes: Axes) -> None:
        axes.axvline(0, color=MUTED, linewidth=1)
        for place, comparison, style in zip(_name_rows(axes, names), comparisons, styles):
            difference = comparison["difference"]
            _mark_mean(axes, place, difference, comparison["interval"], style, signed(difference))
        axes.margins(x=0.12)

    told = "; ".join(f"{name} {comparison['difference']:+.3f}" for name, comparison in zip(names, comparisons))
    return draw(title, paint, told=told, height=0.5 + 0.46 * len(names))


def stacked_panel(
    title: str, names: Sequence[str], parts: Sequence[tuple[str, str, Sequence[int]]], *, told: str
) -> Panel:
    """Shares of prompts as one bar a system.

    Args:
        parts: (name, colour, a count per system) from left to right.
        told: the numbers in words.
    """

    def paint(axes: Axes) -> None:
        places = np.arange(len(names))[::-1]
        counts = np.array([part[2] for part in parts], float)
        shares = counts / np.maximum(counts.sum(0), 1)
        left = np.zeros(len(names))
        for (_, color, _), share in zip(parts, shares):
            axes.barh(places, share, left=left, height=0.62, color=color, edgecolor=SURFACE, linewidth=1)
            for place, start, width in zip(places, left, share):
                if width >= 0.09:
                    axes.text(
                        start + width / 2, place, f"{width:.0%}", ha="center", va="center", fontsize=9, color=SURFACE
                    )
            left += share
        axes.set_yticks(places, names, color=INK)
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"])
        axes.grid(axis="y", visible=False)

    return draw(title, paint, told=told, height=0.45 + 0.42 * len(names))


def curve_panel(
    title: str, ylabel: str, train: Sequence[tuple[float, float]], held: Sequence[tuple[float, float]], style: int
) -> Panel:
    """A training curve: each logged value, their running mean, and the values on validation rows.

    Args:
        train, held: (step, value) pairs.
    """

    def paint(axes: Axes) -> None:
        color = SERIES[style % len(SERIES)]
        if train:
            steps, values = np.array(train, float).T
            window = max(1, len(values) // 15)
            weights = np.full(2 * window + 1, 1 / (2 * window + 1))
            smooth = np.convolve(np.pad(values, window, mode="edge"), weights, "valid")
            axes.plot(steps, values, color=color, alpha=0.35, linewidth=1)
            axes.plot(steps, smooth, color=color)
        if held:
            steps, values = np.array(held, float).T
            axes.plot(steps, values, color=INK, marker="o", markersize=4, linewidth=1.2, linestyle="--")
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        axes.set_xlabel("step")
        axes.set_ylabel(ylabel)

    last = f", last training value {train[-1][1]:.4g}" if train else ""
    return draw(title, paint, told=f"{ylabel} over steps{last}", height=2.7)


def category_panel(title: str, categories: Sequence[str], series: Sequence[Sequence[float]]) -> Panel:
    """One line a category, one mark a system.

    Args:
        series: per system, a value per category (NaN for none).
    """

    def paint(axes: Axes) -> None:
        places = _name_rows(axes, categories, above=0.6)
        table = np.array(series, float)
        for place, low, high in zip(places, np.nanmin(table, 0), np.nanmax(table, 0)):
            axes.plot([low, high], [place, place], color=LINE, linewidth=3, zorder=1)
        for index, values in enumerate(table):
            axes.plot(values, places, **series_style(index), linestyle="", markersize=6.5)
        _share_limits(axes, np.nanmin(table), np.nanmax(table))

    return draw(title, paint, told="the numbers are in the table", height=0.5 + 0.34 * len(categories))


def appearance_panel(
    title: str,
    labels: Sequence[str],
    counts: Sequence[int],
    series: Sequence[Sequence[float]],
    intervals: Sequence[Sequence[Sequence[float] | None]],
) -> Panel:
    """Mean IoU per class of a defect's appearance, hardest first, with 95% intervals.

    Args:
        labels, counts: the classes and their prompts.
        series: per system, a value per class (NaN for none). intervals: per system and class, (low, high) or None.
    """

    def paint(axes: Axes) -> None:
        places = np.arange(len(labels))
        # Side by side, so that intervals can be told apart.
        aside = (np.arange(len(series)) - (len(series) - 1) / 2) * min(0.09, 0.6 / len(series))
        for index, (values, of_system) in enumerate(zip(series, intervals)):
            style = series_style(index)
            for place, interval in zip(places + aside[index], of_system):
                if interval:
                    axes.plot([place, place], interval, color=style["color"], linewidth=2, alpha=0.55)
            axes.plot(places + aside[index], values, **style, markersize=5.5, linewidth=0.8, alpha=0.95, clip_on=False)
        shown = [label.replace(" of the ", "\nof the ") for label in labels]  # room beside its neighbours
        axes.set_xticks(places, [f"{label}\n(n = {count})" for label, count in zip(shown, counts)], fontsize=8.5)
        axes.set_xlim(-0.5, len(labels) - 0.5)
        axes.set_ylim(0, 1)
        axes.set_ylabel("IoU")
        axes.grid(axis="x", visible=False)

    told = f"mean IoU of {', '.join(labels)}; the numbers are in the table"
    return draw(title, paint, told=told, height=2.9, width=5.0)


def size_panel(title: str, series: Sequence[Sequence[Sequence[float]]]) -> Panel:
    """Running mean of IoU over the defect's size, on a logarithmic axis.

    Args:
        series: per system, (share of the image, mean IoU) from the smallest; empty for a system with few prompts.
    """

    def paint(axes: Axes) -> None:
        for index, points in enumerate(series):
            if points:
                style = series_style(index)
                axes.plot(*np.array(points).T, **style, markersize=4, markevery=0.12, linewidth=1.4, clip_on=False)
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        # Within few decades the powers of ten are too few to read a size from.
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 500 * low else (1,)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
        axes.xaxis.set_minor_formatter("")
        axes.set_ylim(0, 1)
        axes.set_xlabel("share of the image that the defect takes")
        axes.set_ylabel("IoU")

    told = "running mean of IoU from the smallest to the largest defects"
    return draw(title, paint, told=told, height=2.9, width=5.0)


def roc_panel(title: str, finders: Mapping[str, Mapping[str, Any]]) -> Panel:
    """The ROC of each finder's image scores; chance lies on the diagonal."""

    def paint(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--")
        for index, of in enumerate(finders.values()):
            if of["roc"]:
                axes.plot(*np.array(of["roc"]).T, color=SERIES[index % len(SERIES)], clip_on=False)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_xlabel("good images that are called defective")
        axes.set_ylabel("defective images that are found")

    told = "; ".join(f"{name}: AUROC {of['image']['auroc'] or 0:.3f}" for name, of in finders.items())
    return draw(title, paint, told=told, height=3.2, width=3.6)


def calibration_panel(title: str, bins: Sequence[Mapping[str, float]], style: int) -> Panel:
    """Predicted against reached IoU; a system that can be trusted lies on the diagonal."""

    def paint(axes: Axes) -> None:
        color = SERIES[style % len(SERIES)]
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--")
        total = sum(entry["n"] for entry in bins)
        for entry in bins:
            axes.plot([entry["score"]] * 2, [entry["score"], entry["iou"]], color=color, alpha=0.35, linewidth=2)
        axes.scatter(
            [entry["score"] for entry in bins], [entry["iou"] for entry in bins],
            s=[25 + 260 * entry["n"] / total for entry in bins], color=color, edgecolor=SURFACE, zorder=3,
        )  # fmt: skip
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("IoU that the model predicts")
        axes.set_ylabel("IoU reached")

    told = "; ".join(f"predicted {entry['score']:.2f}, reached {entry['iou']:.2f}" for entry in bins)
    return draw(title, paint, told=told, height=2.8, width=3.0)
