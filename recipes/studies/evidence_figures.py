"""The figures of a study, as PNG files: gains, rounds, minutes, label budget, flipped rankings, calibration, real masks."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies.design import PAINTED, REAL, SFT, UNTRAINED
from studies.evidence_tables import title_of
from visionsam_hf.evaluation.report.plotting import INK, LINE, MUTED, series_style

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "lines.linewidth": 1.7,
}
DPI = 150


def write_figures(evidence: Mapping[str, Any], directory: Path) -> list[Path]:
    """Write every figure that the study has data for; returns the files."""
    makers: dict[str, tuple[str, Callable[[Mapping[str, Any]], Figure | None]]] = {
        "gains": ("objectives", gains_figure),
        "rounds": ("objectives", rounds_figure),
        "minutes": ("objectives", minutes_figure),
        "budget": ("budget", budget_figure),
        "flips": ("flips", flips_figure),
        "calibration": ("confidence", calibration_figure),
        "masks": ("demonstrations", masks_figure),
    }
    written = []
    with matplotlib.rc_context(STYLE):
        for name, (experiment, make) in makers.items():
            figure = make(evidence) if evidence.get(experiment) else None
            if figure is not None:
                path = directory / f"{name}.png"
                figure.savefig(path, dpi=DPI, metadata={"Software": None})
                written.append(path)
    return written


def gains_figure(evidence: Mapping[str, Any]) -> Figure | None:
    """Each objective's gain over SFT-SAM with its interval and its seeds, a panel a split."""
    splits = evidence["objectives"]
    first = next(iter(splits.values()))
    # What needs no model is in the tables; its distance would squeeze the objectives'.
    names = [name for name, entry in first.items() if entry["difference"].get(SFT) and not UNTRAINED.get(name)]
    if not names:
        return None
    figure, panels = _panels(splits, height=0.9 + 0.36 * len(names), label="IoU points against SFT-SAM", sharey=True)
    for axes, systems in zip(panels, splits.values()):
        axes.axvline(0, color=MUTED, linewidth=1)
        for index, name in enumerate(names):
            gain, place = systems[name]["difference"].get(SFT), len(names) - 1 - index
            if gain:
                style = series_style(index)
                ends = [100 * value for value in gain["interval"]]
                axes.plot(ends, [place, place], color=style["color"], linewidth=3, alpha=0.55, solid_capstyle="butt")
                axes.plot(100 * gain["difference"], place, **style, markersize=6)
                seeds = [100 * value for value in gain["by_seed"].values()]
                if len(seeds) > 1:
                    axes.plot(seeds, [place - 0.27] * len(seeds), "|", color=style["color"], markersize=5)
        axes.set_yticks(range(len(names)), list(reversed(names)), color=INK)
        axes.set_ylim(-0.6, len(names) - 0.4)
        axes.grid(axis="y", visible=False)
    return figure


def rounds_figure(evidence: Mapping[str, Any]) -> Figure | None:
    """The gain over SFT-SAM against what was ranked until then."""
    splits = evidence["objectives"]
    names = [name for name, entry in next(iter(splits.values())).items() if len(entry["rounds"]) > 1]
    if not names:
        return None

    def draw(axes: Axes, systems: Mapping[str, Any]) -> None:
        for index, name in enumerate(names):
            rounds = systems[name]["rounds"]
            at = [record["cost"]["rankings"] for record in rounds]
            _line(axes, at, [record["difference"].get(SFT) for record in rounds], index, name, start=0)

    return _gain_figure(splits, "rankings", draw)


def minutes_figure(evidence: Mapping[str, Any]) -> Figure | None:
    """The gain over SFT-SAM against people's minutes; objectives of one name up to its last comma are one line, if several."""
    splits = evidence["objectives"]
    lines: dict[str, list[str]] = {}
    for name in next(iter(splits.values())):
        family, comma, _ = name.rpartition(", ")
        if comma and name.endswith(" min"):
            lines.setdefault(family, []).append(name)
    lines = {family: names for family, names in lines.items() if len(names) > 1}
    if not lines:
        return None

    def draw(axes: Axes, systems: Mapping[str, Any]) -> None:
        for index, (family, names) in enumerate(lines.items()):
            entries = sorted((systems[name] for name in names), key=lambda entry: entry["cost"]["people_seconds"])
            at = [entry["cost"]["people_seconds"] / 60 for entry in entries]
            _line(axes, at, [entry["difference"].get(SFT) for entry in entries], index, family, start=0)

    return _gain_figure(splits, "minutes of a person", draw)


def flips_figure(evidence: Mapping[str, Any]) -> Figure:
    """The gain over SFT-SAM against the share of flipped rankings."""

    def draw(axes: Axes, systems: Mapping[str, Any]) -> None:
        for index, (name, points) in enumerate(systems.items()):
            rates = [100 * point["rate"] for point in points]
            _line(axes, rates, [point["difference"] for point in points], index, name)

    return _gain_figure(evidence["flips"], "rankings flipped, %", draw)


def _gain_figure(splits: Mapping[str, Any], label: str, draw: Callable[[Axes, Mapping[str, Any]], None]) -> Figure:
    """A panel a split of gains over SFT-SAM, drawn by `draw`."""
    figure, panels = _panels(splits, height=3.4, label=label)
    for axes, systems in zip(panels, splits.values()):
        axes.axhline(0, color=MUTED, linewidth=1)
        draw(axes, systems)
    panels[0].set_ylabel("IoU points against SFT-SAM")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    return figure


def budget_figure(evidence: Mapping[str, Any]) -> Figure:
    """IoU against the number of images with masks, with and without rankings of the others."""
    splits = evidence["budget"]
    figure, panels = _panels(splits, height=3.0, label="images with masks; the others are ranked")
    for axes, systems in zip(panels, splits.values()):
        for index, (name, points) in enumerate(systems.items()):
            _band(axes, [point["masks"] for point in points], points, index, name)
        axes.set_xscale("log")
        ticks = sorted({point["masks"] for points in systems.values() for point in points})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
    panels[0].set_ylabel("IoU")
    panels[0].legend(fontsize=8)
    return figure


def masks_figure(evidence: Mapping[str, Any]) -> Figure:
    """IoU against the number of real masks, with and without painted ones first; what needs no model as a line."""
    splits = evidence["demonstrations"]
    figure, panels = _panels(splits, height=3.6, label="real masks, none of the held-out class")
    for axes, (split, points) in zip(panels, splits.items()):
        places = list(range(len(points)))
        for index, name in enumerate((PAINTED, REAL)):
            _band(axes, places, [point[name] for point in points], index, name)
        for (name, entry), style in zip(evidence["untrained"][split].items(), ("--", ":", "-.")):
            axes.axhline(entry["iou"], color=MUTED, linestyle=style, linewidth=1.2, label=name)
        axes.set_xticks(places, ["none", *(str(point["masks"]) for point in points[1:])])
    panels[0].set_ylabel("IoU, mean over classes")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8)
    return figure


def calibration_figure(evidence: Mapping[str, Any]) -> Figure | None:
    """Predicted against true IoU of the best-scored mask: SFT-SAM and the objective that tunes its scores."""
    split, systems = next(iter(evidence["confidence"].items()))
    names = [SFT, *([evidence["confidence_objective"]] if evidence.get("confidence_objective") else [])]
    names = [name for name in names if systems.get(name)]
    if len(names) < 2:
        return None
    figure, panels = _panels(names, height=3.3, label="predicted IoU of the best-scored mask")
    for index, (axes, name) in enumerate(zip(panels, names)):
        entry, color = systems[name], series_style(index)["color"]
        bins = entry["bins"]
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for one in bins:
            axes.bar(one["low"], one["iou"], width=one["high"] - one["low"], align="edge", color=color, alpha=0.25)
        total = sum(one["n"] for one in bins)
        sizes = [20 + 400 * one["n"] / total for one in bins]
        axes.scatter([one["score"] for one in bins], [one["iou"] for one in bins], s=sizes, color=color)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_aspect("equal")
        axes.set_title(f"{name}: ECE {entry['ece']:.3f}, agreement {entry['top1_agreement']:.2f}")
    panels[0].set_ylabel(f"its IoU, {title_of(split)}")
    return figure


def _line(
    axes: Axes,
    at: Sequence[float],
    gains: Sequence[Mapping[str, Any] | None],
    index: int,
    name: str,
    start: float | None = None,
) -> None:
    """Paired differences in points with whiskers, moved aside a little so that whiskers do not cover each other."""
    known = [(place, gain) for place, gain in zip(at, gains) if gain]
    if not known:
        return
    aside = (index - 1) * 0.006 * max(at[-1], 1)
    places = [place + aside for place, _ in known]
    middle = [100 * gain["difference"] for _, gain in known]
    low = [100 * (gain["difference"] - gain["interval"][0]) for _, gain in known]
    high = [100 * (gain["interval"][1] - gain["difference"]) for _, gain in known]
    style = series_style(index)
    axes.errorbar(places, middle, [low, high], **style, markersize=5, label=name, elinewidth=1)
    if start is not None:
        axes.plot([start, places[0]], [0, middle[0]], color=style["color"], linestyle=":", linewidth=1.2)


def _band(axes: Axes, at: Sequence[float], entries: Sequence[Mapping[str, Any]], index: int, name: str) -> None:
    """Mean IoU with its interval as a band."""
    style = series_style(index)
    axes.plot(at, [entry["iou"] for entry in entries], **style, label=name, markersize=5)
    ends = np.array([entry["interval"] or [np.nan, np.nan] for entry in entries])
    axes.fill_between(at, *ends.T, color=style["color"], alpha=0.1, linewidth=0)


def _panels(of: Iterable[str], *, height: float, label: str, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure with a panel each, titled as splits are called."""
    titles = [title_of(name) for name in of]
    figure = Figure(figsize=(3.6 * len(titles) + 0.6, height), layout="constrained", facecolor="white")
    panels = list(np.atleast_1d(figure.subplots(1, len(titles), sharey=sharey)))
    for axes, title in zip(panels, titles):
        axes.set_title(title)
        axes.set_xlabel(label)
    return figure, panels
