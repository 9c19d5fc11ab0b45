"""The card of a preference data set: who ranked, how far they agreed, what was dropped."""

from collections.abc import Mapping
from typing import Any

from visionsam_hf.annotation.rubric import BOUNDARY_TOLERANCES, RUBRIC_VERSION, SPURIOUS_TOLERANCE, TIE
from visionsam_hf.cards import data_card, markdown_table

_MEANINGS = {
    "tasks": "tasks ranked",
    "pairs": "pairs written",
    "dropped_ties": "tasks dropped because their candidates tie from top to bottom",
    "mean_margin": "mean rank distance of chosen and rejected",
    "mean_iou_gap": "mean IoU with the truth, chosen minus rejected",
    "share_worse_chosen": "share of pairs whose chosen mask has the lower IoU",
    "tau_between_annotators": "Kendall's τ-b between two annotators, mean over pairs and tasks",
    "tau_with_score": "Kendall's τ-b of the mean ranks and the model's scores, mean over tasks",
}

RUBRIC = f"""Rubric version {RUBRIC_VERSION}. With the candidate P, the truth G and P* = P without components farther than
{SPURIOUS_TOLERANCE:g} px from G (pixels of an image of 512):

- coverage: |P∩G| / |G|
- boundary: share of the contours of P* and G within a tolerance of each other, mean over {", ".join(f"{tolerance:g}" for tolerance in BOUNDARY_TOLERANCES)} px
- over_under: |P*∩G| / |P*|
- noise: 1 − (|P∖P*| + holes of P inside G) / |P|, at least 0

Rankings go by their mean; differences under {TIE} are ties. A task's rankings are aggregated by mean rank, equal ones by
regularised Plackett-Luce."""


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


def tally_table(tallies: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: a line a figure, a column a split."""
    rows = [[meaning, *(_cell(tally.get(key)) for tally in tallies.values())] for key, meaning in _MEANINGS.items()]
    return markdown_table(["figure", *tallies], rows)


def _settings_table(candidates: str, settings: Mapping[str, Any]) -> str:
    rows = [["candidate set", candidates.rstrip("/").rsplit("/", 1)[-1]]]
    rows += [[key, settings[key]] for key in ("annotators", "noise", "flip_rate", "seed")]
    return markdown_table(["setting", "value"], rows)


def _cell(value: Any) -> str:
    if value is None:
        return "—"
    return f"{value:.3f}" if isinstance(value, float) else f"{value:,}"
