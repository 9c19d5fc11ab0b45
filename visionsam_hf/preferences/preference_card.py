"""The card of a preference data set: who ranked, how far they agreed, what was dropped."""

from collections.abc import Mapping
from typing import Any

from visionsam_hf.data.data_card import data_card, markdown_table
from visionsam_hf.preferences.rubric import (
    BOUNDARY_TOLERANCES,
    CRITERIA_SHARE,
    RUBRIC_VERSION,
    SPURIOUS_TOLERANCE,
    TIE,
    USABLE,
)

# Of `Tally.summary`.
_MEANINGS = {
    "tasks": "tasks ranked",
    "pairs": "pairs written",
    "dropped_ties": "tasks dropped because their candidates tie from top to bottom",
    "none_usable": "of them, tasks whose every mask is useless",
    "mean_margin": "mean rank distance of chosen and rejected",
    "chosen_iou": "mean IoU of the chosen mask with the truth",
    "rejected_iou": "mean IoU of the rejected mask with the truth",
    "mean_iou_gap": "mean IoU with the truth, chosen minus rejected",
    "share_worse_chosen": "share of pairs whose chosen mask has the lower IoU",
    "tau_between_annotators": "Kendall's τ-b between two annotators, mean over pairs and tasks",
    "tau_with_score": "Kendall's τ-b of the mean ranks and the model's scores, mean over tasks",
}

# Of `store_statistics.describe`.
FIGURES = {
    "tasks": "tasks ranked",
    "rankings": "rankings",
    "annotators": "annotators",
    "pairs": "pairs",
    "dropped_ties": "tasks that tie from top to bottom, dropped",
    "alpha": "Krippendorff's α, ordinal, a unit a candidate",
    "alpha_95": "its bootstrap 95% interval, by task",
    "tau": "Kendall's τ-b, mean over pairs of annotators",
    "kappa_best": "Fleiss' κ on the best mask",
    "exact_order": "pairs of annotators with the same order (chance: 1/6)",
    "unanimous": "pairs that every annotator ranks that way",
    "tie_rate": "rankings with a tie",
    "unusable_rate": "rankings that call no mask usable",
    "skip_rate": "skipped",
    "flag_rate": "flagged",
    "surplus": "answers beyond the wanted number, kept aside",
    "repeats": "same order when a task came again (tasks)",
    "gold_tau": "τ-b with the truth on hidden gold",
    "position_p": "p that the best mask's pane is chance (χ²)",
    "median_seconds": "median seconds a task",
    "tau_score": "τ-b with the model's scores",
    "tau_truth": "τ-b with the ranking by the truth",
}

_TOLERANCES = ", ".join(f"{tolerance:g}" for tolerance in BOUNDARY_TOLERANCES)
RUBRIC = f"""Rubric version {RUBRIC_VERSION}. With the candidate P, the truth G and P* = P without components farther than
{SPURIOUS_TOLERANCE:g} px from G (pixels of an image of 512):

- coverage: |P∩G| / |G|
- boundary: share of the contours of P* and G within a tolerance of each other, mean over {_TOLERANCES} px
- over_under: |P*∩G| / |P*|
- noise: 1 − (|P∖P*| + holes of P inside G) / |P|, at least 0

Simulated annotators rank by worth, {1 - CRITERIA_SHARE:g} IoU + {CRITERIA_SHARE:g} the mean of the four; differences under
{TIE} are ties, and three masks worth less than {USABLE} are no choice. A task's rankings are aggregated by mean rank, equal
ones by regularised Plackett-Luce."""


def oracle_card(candidates: str, settings: Mapping[str, Any], tallies: Mapping[str, Mapping[str, Any]]) -> str:
    """The card of a data set that simulated annotators ranked.

    Args:
        candidates: where the candidate set came from.
        settings: what the oracle ran with.
        tallies: `Tally.summary` of each split; empty while rows are being written.
    """
    summary = (
        f"Candidate masks ranked by {settings['annotators']} simulated annotators, which compare each candidate with the "
        "true mask. No person ranked anything here: agreement below is that of the simulation."
    )
    sections = {"How it was ranked": RUBRIC + "\n\n" + _settings_table(candidates, settings)}
    if tallies:
        sections["Agreement and pairs"] = tally_table(tallies)
    return data_card("preference", title="Oracle mask preferences", summary=summary, sections=sections)


def human_card(candidates: str, figures: Mapping[str, Any], kind: str) -> str:
    """The card of a data set exported from an annotation store.

    Args:
        candidates: where the candidate set came from.
        figures: of `store_statistics.describe`.
        kind: whose rankings decided: "human" or "oracle".
    """
    of = figures[kind]
    who = "people" if kind == "human" else "simulated annotators"
    summary = (
        f"Candidate masks ranked by {of['annotators']} {who}, blind to scores and to each other, in an order drawn for each "
        f"task and annotator. {of['rankings']} rankings of {of['tasks']} tasks."
    )
    sections = {
        "How it was ranked": f"Candidate set: {_last_part(candidates)}.\n\n{RUBRIC}",
        "Agreement": statistics_table(figures),
        "Annotators": "Names are pseudonyms; who is behind them is not part of this data set.\n\n"
        + annotator_table(of["per_annotator"]),
    }
    creators = ("expert-generated",) if kind == "human" else ("machine-generated",)
    return data_card("preference", title="Mask preferences", summary=summary, creators=creators, sections=sections)


def statistics_table(figures: Mapping[str, Any]) -> str:
    """Markdown: every figure, people's and, apart from them, simulated annotators'."""
    kinds = [kind for kind in ("human", "oracle") if figures[kind]["rankings"]]
    rows = [[meaning, *(_figure(figures[kind], key) for kind in kinds)] for key, meaning in FIGURES.items()]
    return markdown_table(["figure", *kinds], rows)


def annotator_table(annotators: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: a line an annotator."""
    rows = []
    for name, of in annotators.items():
        figures = (of["tau_others"], of["gold_tau"], of["repeats"]["tau"], of["median_seconds"])
        rows.append([name, of["rankings"], *map(_cell, figures)])
    return markdown_table(
        ["annotator", "rankings", "τ with the others", "τ on gold", "τ with themselves", "median s"], rows
    )



def _figure(of: Mapping[str, Any], key: str) -> str:
    value = of[key]
    if key == "alpha_95":
        return " to ".join(_cell(end) for end in value)
    if key == "repeats":
        return f"{_cell(value['same_order'])} ({value['count']})"
    return _cell(value)


def _last_part(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]


def tally_table(tallies: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: a line a figure, a column a split."""
    rows = [[meaning, *(_cell(tally.get(key)) for tally in tallies.values())] for key, meaning in _MEANINGS.items()]
    return markdown_table(["figure", *tallies], rows)


def _settings_table(candidates: str, settings: Mapping[str, Any]) -> str:
    rows = [["candidate set", _last_part(candidates)]]
    rows += [[key, settings[key]] for key in ("annotators", "noise", "flip_rate", "seed")]
    return markdown_table(["setting", "value"], rows)


def _cell(value: Any) -> str:
    if value is None:
        return "—"
    return f"{value:.3f}" if isinstance(value, float) else f"{value:,}"
