"""The tables and the figure of the study, from its results alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Rows = Sequence[dict[str, Any]]
_RESAMPLES = 2000


def tables(rows: Rows, *, masks: Sequence[int]) -> str:
    """Markdown: IoU against the number of real masks, then every system on every held-out class.

    Args:
        rows: one a run: `fold` (the held-out class), `start`, `masks`, `seed`, and `iou` and `image`, a value a prompt.
        masks: the numbers of real masks, in the order of the table.
    """
    lines = ["Mean IoU over the held-out classes, box prompts, with 95% intervals over images.", ""]
    lines += ["| real masks | real alone | painted, then real | gain |", "|---|---|---|---|"]
    for count in (0, *masks):
        alone, both = _runs(rows, "base", count), _runs(rows, "painted", count)
        lines.append(f"| {count} | {_cell(alone)} | {_cell(both)} | {_cell(both, minus=alone)} |")
    folds = sorted({row["fold"] for row in rows})
    lines += ["", "Each class as held out: no training saw a mask of it.", ""]
    lines += [f"| system | {' | '.join(folds)} | mean |", "|---" * (len(folds) + 2) + "|"]
    for label, found in systems(rows, max(masks)).items():
        values = [_mean(_of_fold(found, fold)) for fold in folds]
        lines.append(f"| {label} | {' | '.join(f'{value:.3f}' for value in values)} | {_cell(found)} |")
    prompts = [len(next(row["iou"] for row in rows if row["fold"] == fold)) for fold in folds]
    lines.append(f"| *prompts* | {' | '.join(map(str, prompts))} | {sum(prompts)} |")
    return "\n".join(lines) + "\n"


def systems(rows: Rows, most: int) -> dict[str, list[dict[str, Any]]]:
    """The runs of each system of the second table, by its name."""
    found = {
        "SAM, as it comes": _runs(rows, "base", 0),
        "SFT, painted only": _runs(rows, "painted", 0),
        f"SFT, {most} real masks of other classes": _runs(rows, "base", most),
        f"SFT, painted, then {most} real masks of other classes": _runs(rows, "painted", most),
    }
    for start in dict.fromkeys(row["start"] for row in rows if row["start"] not in ("base", "painted")):
        found[start] = _runs(rows, start, 0)
    return found


def class_mean(runs: Rows, *, minus: Rows = (), seed: int = 0) -> tuple[float, float, float]:
    """The mean over classes of the mean over prompts, with its bootstrap interval.

    Images are drawn with replacement within each class; the seeds of a run are averaged prompt by prompt first.

    Args:
        runs: of one system. minus: of another, on the same prompts, to be taken off prompt by prompt.

    Returns:
        (mean, low, high) of the 95% interval.
    """
    rng = np.random.default_rng([seed, 1])
    centre, draws = [], []
    for fold in sorted({row["fold"] for row in runs}):
        values = _average(_of_fold(runs, fold))
        if minus:
            values = values - _average(_of_fold(minus, fold))
        _, member = np.unique(_of_fold(runs, fold)[0]["image"], return_inverse=True)
        count = np.bincount(member).astype(float)
        total = np.bincount(member, weights=values)
        drawn = rng.multinomial(len(count), np.full(len(count), 1 / len(count)), size=_RESAMPLES)
        centre.append(values.mean())
        draws.append((drawn @ total) / (drawn @ count))
    low, high = np.quantile(np.mean(draws, 0), [0.025, 0.975])
    return float(np.mean(centre)), float(low), float(high)


def figure(rows: Rows, *, masks: Sequence[int], path: Path) -> None:
    """IoU against the number of real masks, with and without painted ones first, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    picture = Figure(figsize=(6.4, 4), dpi=150, layout="constrained")
    FigureCanvasAgg(picture)
    axes = picture.add_subplot()
    places = range(len(masks) + 1)
    for start, label, colour in (("painted", "painted, then real", "#0072b2"), ("base", "real alone", "#d55e00")):
        means, low, high = zip(*(class_mean(_runs(rows, start, count)) for count in (0, *masks)))
        axes.plot(places, means, "o-", color=colour, label=label)
        axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
    for name, style in zip(list(systems(rows, max(masks)))[4:], ("--", ":", "-.")):
        axes.axhline(class_mean(_runs(rows, name, 0))[0], color="0.4", linestyle=style, linewidth=1.2, label=name)
    axes.set_xticks(places, ["none", *map(str, masks)])
    axes.set(xlabel="real masks, none of the class that is measured", ylabel="IoU of box prompts")
    axes.spines[["top", "right"]].set_visible(False)
    picture.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=9)  # over the lines it would hide one
    picture.savefig(path)


def _runs(rows: Rows, start: str, masks: int) -> list[dict[str, Any]]:
    return [row for row in rows if row["start"] == start and row["masks"] == masks]


def _of_fold(runs: Rows, fold: str) -> list[dict[str, Any]]:
    return [row for row in runs if row["fold"] == fold]


def _average(runs: Rows) -> np.ndarray:
    return np.mean([row["iou"] for row in runs], axis=0)


def _mean(runs: Rows) -> float:
    return float(_average(runs).mean())


def _cell(runs: Rows, *, minus: Rows = ()) -> str:
    mean, low, high = class_mean(runs, minus=minus)
    sign = "+" if minus else ""
    return f"{mean:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"
