"""The figure of docs/objectives.md: what each loss makes of a margin, and how hard it pulls.

    python -m studies.loss_figure docs/objectives/losses.png
"""

import sys
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure

from studies.evidence_figures import DPI, STYLE
from visionsam_hf.evaluation.report.plotting import MUTED, SERIES
from visionsam_hf.training.losses import preference_loss

# Pixels of a usual pair: 65,536 on the grid of sam-vit-base, a hundred of which differ.
_VALID, _DIFFERENT = 65_536, 100
_CURVES: dict[str, tuple[float, dict[str, Any]]] = {
    "paper": (_DIFFERENT / _VALID, dict(loss_type="sigmoid")),
    "region": (1.0, dict(loss_type="sigmoid")),
    "region, ε = 0.2": (1.0, dict(loss_type="sigmoid", label_smoothing=0.2)),
    "robust, ε = 0.2": (1.0, dict(loss_type="robust", label_smoothing=0.2)),
    "ipo, β = 0.5": (1.0, dict(loss_type="ipo", beta=0.5)),
    "hinge": (1.0, dict(loss_type="hinge")),
}


def loss_figure() -> Figure:
    """Loss and pull against the mean logit difference over D, for a pair that differs in 100 of 65,536 pixels."""
    figure = Figure(figsize=(9.6, 3.2), layout="constrained", facecolor="white")
    values, pulls = figure.subplots(1, 2)
    for index, (name, (scale, settings)) in enumerate(_CURVES.items()):
        margin = torch.linspace(-4, 4, 401, requires_grad=True)
        loss = preference_loss(margin * scale, **settings)
        (slope,) = torch.autograd.grad(loss.sum(), margin)
        at, color = margin.detach().numpy(), SERIES[index % len(SERIES)]
        values.plot(at, loss.detach().numpy(), color=color, label=name)
        pulls.plot(at, -slope.numpy(), color=color)
    values.set_ylim(-0.6, 5)
    pulls.set_ylim(-0.3, 2)
    values.set_ylabel("loss")
    pulls.set_ylabel("pull towards the chosen mask")
    for axes in (values, pulls):
        axes.axvline(0, color=MUTED, linewidth=0.8)
        axes.set_xlabel("mean of s (z − z_ref) where the masks differ")
    figure.legend(*values.get_legend_handles_labels(), loc="outside right upper")
    return figure


if __name__ == "__main__":
    with matplotlib.rc_context(STYLE):
        loss_figure().savefig(Path(sys.argv[1]), dpi=DPI, metadata={"Software": None})
