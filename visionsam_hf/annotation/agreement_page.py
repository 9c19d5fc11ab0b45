"""The HTML page about agreement: one self-contained file."""

import datetime
from collections.abc import Mapping
from importlib import resources
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from visionsam_hf.annotation.plots import agreement_lines, bar_plot, scale_plot, seconds_histogram


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
