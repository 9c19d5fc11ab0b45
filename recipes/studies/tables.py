"""`evidence.json` as Markdown tables, each with a name by which a page asks for it."""

from collections.abc import Mapping, Sequence
from typing import Any

from studies.plan import SAM, SFT, UNTRAINED

SPLITS = {
    "heldout": "held-out categories",
    "test": "new images of the trained categories",
    "ranked": "the ranked images",
    "validation": "validation images of the trained categories",
}


def all_tables(evidence: Mapping[str, Any]) -> dict[str, str]:
    """Every table: `systems`, `objectives`, `rounds`, `seeds`, `candidates`, `confidence`, `budget`, `flips`."""
    makers = {
        "systems": systems_table,
        "objectives": objectives_table,
        "rounds": rounds_table,
        "seeds": seeds_table,
        "candidates": candidates_table,
        "confidence": confidence_table,
        "budget": budget_table,
        "flips": flips_table,
    }
    return {name: text for name, make in makers.items() if (text := make(evidence))}


def systems_table(evidence: Mapping[str, Any]) -> str:
    """The paper's four systems and the two that need no model, on every split."""
    called = {SAM: SAM, SFT: SFT, "VisionSAM": evidence["recommended"], "RLHF-SAM": evidence["rlhf"]}
    called |= {name: name for name in UNTRAINED if name != SAM}
    parts = []
    for split, systems in evidence["objectives"].items():
        rows = [
            [title if title == name else f"{title} ({name})", _mean(systems[name]), _number(systems[name]["dice"])]
            + [gain_words(systems[name]["difference"].get(other)) for other in (SAM, SFT)]
            for title, name in called.items()
            if name in systems
        ]
        parts.append(_table([SPLITS.get(split, split), "IoU", "Dice", "against SAM", "against SFT-SAM"], rows))
    return "\n\n".join(parts)


def objectives_table(evidence: Mapping[str, Any]) -> str:
    """Every objective on every split: IoU and paired differences."""
    parts = []
    for split, systems in evidence["objectives"].items():
        others = [SFT, *evidence["compare_with"]]
        rows = [
            [name, _mean(entry), *(gain_words(entry["difference"].get(other)) for other in others)]
            + [f"{entry['cost']['rankings']:.0f}"]
            for name, entry in systems.items()
        ]
        header = [SPLITS.get(split, split), "IoU", *(f"against {other}" for other in others), "rankings"]
        parts.append(_table(header, rows))
    return "\n\n".join(parts)


def rounds_table(evidence: Mapping[str, Any]) -> str:
    """The gain over SFT-SAM after every round, at the labelling cost of that round."""
    parts = []
    for split, systems in evidence["objectives"].items():
        tuned = {name: entry for name, entry in systems.items() if len(entry["rounds"]) > 1}
        most = max((len(entry["rounds"]) for entry in tuned.values()), default=0)
        if tuned:
            rows = []
            for name, entry in tuned.items():
                gains = [gain_words(record["difference"].get(SFT)) for record in entry["rounds"]]
                rows.append([name, *gains, *[""] * (most - len(gains))])
            parts.append(_table([SPLITS.get(split, split), *(f"round {number + 1}" for number in range(most))], rows))
    return "\n\n".join(parts)


def seeds_table(evidence: Mapping[str, Any]) -> str:
    """The recommended objective's gain over SFT-SAM, each seed and each fold apart."""
    parts = []
    for place, title in (("by_seed", "seed"), ("by_fold", "held out")):
        names: list[str] = []
        rows = []
        for split, systems in evidence["objectives"].items():
            found = (systems[evidence["recommended"]]["difference"].get(SFT) or {}).get(place, {})
            names = list(found) or names
            rows.append([SPLITS.get(split, split), *(_points(value) for value in found.values())])
        if len(names) > 1 or place == "by_seed":
            parts.append(_table([f"gain by {title}", *names], rows))
    return "\n\n".join(parts)


def candidates_table(evidence: Mapping[str, Any]) -> str:
    """What the objectives were given in their first round."""
    systems = next(iter(evidence["objectives"].values()))
    rows = []
    for name, entry in systems.items():
        found = entry["rounds"][0].get("candidates")
        if found:
            rows.append(
                [
                    name,
                    f"{found['pairs']:.0f} of {entry['rounds'][0]['cost']['rankings']:.0f}",
                    _number(found["mean_iou_gap"]),
                    _number(found["share_worse_chosen"]),
                    _number(found["mean_pairwise_iou"]),
                    _number(found["share_distinct"]),
                    _number(found["best_of_three_minus_single"]),
                ]
            )
    header = ["objective", "pairs of rankings", "IoU gap of a pair", "worse chosen", "pairwise IoU", "distinct"]
    return _table([*header, "best minus single"], rows) if rows else ""


def confidence_table(evidence: Mapping[str, Any]) -> str:
    """Agreement of the scores with the truth, calibration, and what choosing by score gives."""
    parts = []
    for split, systems in evidence["confidence"].items():
        rows = [
            [
                name,
                _number(entry["top1_agreement"]),
                gain_words(entry["difference"].get("top1_agreement")),
                _number(entry["ece"]),
                _number(entry["score_iou"]),
                gain_words(entry["difference"].get("score_iou")),
                _number(entry["single_iou"]),
                _number(entry["oracle_iou"]),
            ]
            for name, entry in systems.items()
            if entry
        ]
        header = [SPLITS.get(split, split), "top-1 agreement", "against SFT-SAM", "ECE"]
        header += ["IoU by score", "against SFT-SAM", "IoU, token 0", "IoU, best of three"]
        parts.append(_table(header, rows))
    return "\n\n".join(parts)


def budget_table(evidence: Mapping[str, Any]) -> str:
    """IoU at every number of masks, and the gain over a stage 1 on the same masks."""
    parts = []
    for split, systems in evidence["budget"].items():
        rows = [
            [str(point["masks"]), name, f"{point['cost']['rankings']:.0f}", f"{point['minutes']:.0f}", _mean(point)]
            + [gain_words(point["difference"])]
            for name, points in systems.items()
            for point in points
        ]
        rows.sort(key=lambda row: int(row[0]))
        header = [f"images with masks, {SPLITS.get(split, split)}", "system", "rankings", "minutes", "IoU"]
        parts.append(_table([*header, "against SFT-SAM"], rows))
    return "\n\n".join(parts)


def flips_table(evidence: Mapping[str, Any]) -> str:
    """The gain over SFT-SAM at every share of flipped rankings."""
    parts = []
    for split, systems in evidence["flips"].items():
        rates = sorted({point["rate"] for points in systems.values() for point in points})
        rows = []
        for name, points in systems.items():
            at = {point["rate"]: point for point in points}
            rows.append([name, *(gain_words(at[rate]["difference"]) if rate in at else "" for rate in rates)])
        parts.append(_table([SPLITS.get(split, split), *(f"{rate:.0%} flipped" for rate in rates)], rows))
    return "\n\n".join(parts)


def _points(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")


def gain_words(comparison: Mapping[str, Any] | None) -> str:
    """A paired difference in points with its interval; an interval that leaves 0 out is bold."""
    if not comparison:
        return ""
    low, high = comparison["interval"]
    text = f"{_points(comparison['difference'])} [{_points(low)}, {_points(high)}]"
    return f"**{text}**" if low > 0 or high < 0 else text


def _mean(entry: Mapping[str, Any]) -> str:
    interval = entry["interval"]
    return f"{entry['iou']:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
