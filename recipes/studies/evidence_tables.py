"""`evidence.json` as Markdown tables, each with a name by which a page asks for it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from studies.design import PAINTED, REAL, SAM, SFT, UNTRAINED

SPLITS = {
    "heldout": "held-out categories",
    "test": "new images of the trained categories",
    "ranked": "the ranked images",
    "validation": "validation images of the trained categories",
}
Evidence = Mapping[str, Any]


def all_tables(evidence: Evidence) -> dict[str, str]:
    """Every table that the study has data for, by its name."""
    of_demonstrations: dict[str, Callable[[Evidence], str]] = {
        "demonstrations": demonstrations_table,
        "classes": classes_table,
    }
    of_objectives: dict[str, Callable[[Evidence], str]] = {
        "systems": systems_table,
        "objectives": objectives_table,
        "rounds": rounds_table,
        "seeds": seeds_table,
        "candidates": candidates_table,
        "confidence": confidence_table,
        "budget": budget_table,
        "flips": flips_table,
    }
    makers = of_demonstrations if "demonstrations" in evidence else of_objectives
    return {name: text for name, make in makers.items() if (text := make(evidence))}


def title_of(split: str) -> str:
    """What a split is called in tables and figures."""
    return SPLITS.get(split, split)


def systems_table(evidence: Evidence) -> str:
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
        parts.append(markdown_table([title_of(split), "IoU", "Dice", "against SAM", "against SFT-SAM"], rows))
    return "\n\n".join(parts)


def objectives_table(evidence: Evidence) -> str:
    """Every objective on every split: IoU and paired differences."""
    others, parts = [SFT, *evidence["compare_with"]], []
    for split, systems in evidence["objectives"].items():
        rows = [
            [name, _mean(entry), *(gain_words(entry["difference"].get(other)) for other in others)]
            + [f"{entry['cost']['rankings']:.0f}"]
            for name, entry in systems.items()
        ]
        parts.append(markdown_table([title_of(split), "IoU", *(f"against {other}" for other in others), "rankings"], rows))
    return "\n\n".join(parts)


def rounds_table(evidence: Evidence) -> str:
    """The gain over SFT-SAM after every round, at the labelling cost of that round."""
    parts = []
    for split, systems in evidence["objectives"].items():
        tuned = {name: entry["rounds"] for name, entry in systems.items() if len(entry["rounds"]) > 1}
        most = max(map(len, tuned.values()), default=0)
        rows = []
        for name, rounds in tuned.items():
            gains = [gain_words(record["difference"].get(SFT)) for record in rounds]
            rows.append([name, *gains, *[""] * (most - len(gains))])
        if rows:
            parts.append(markdown_table([title_of(split), *(f"round {number + 1}" for number in range(most))], rows))
    return "\n\n".join(parts)


def seeds_table(evidence: Evidence) -> str:
    """The recommended objective's gain over SFT-SAM, each seed and each fold apart."""
    parts = []
    for place, title in (("by_seed", "seed"), ("by_fold", "held out")):
        names: list[str] = []
        rows = []
        for split, systems in evidence["objectives"].items():
            found = (systems[evidence["recommended"]]["difference"].get(SFT) or {}).get(place, {})
            names = list(found) or names
            rows.append([title_of(split), *(_points(value) for value in found.values())])
        if len(names) > 1 or place == "by_seed":
            parts.append(markdown_table([f"gain by {title}", *names], rows))
    return "\n\n".join(parts)


def candidates_table(evidence: Evidence) -> str:
    """What the objectives were given in their first round."""
    columns = {
        "mean_iou_gap": "IoU gap of a pair",
        "share_worse_chosen": "worse chosen",
        "mean_pairwise_iou": "pairwise IoU",
        "share_distinct": "distinct",
        "best_of_three_minus_single": "best minus single",
    }
    rows = []
    for name, entry in next(iter(evidence["objectives"].values())).items():
        first = entry["rounds"][0]
        if found := first.get("candidates"):
            pairs = f"{found['pairs']:.0f} of {first['cost']['rankings']:.0f}"
            rows.append([name, pairs, *(_number(found[key]) for key in columns)])
    return markdown_table(["objective", "pairs of rankings", *columns.values()], rows) if rows else ""


def confidence_table(evidence: Evidence) -> str:
    """Agreement of the scores with the truth, calibration, and what choosing by score gives."""
    header = ["top-1 agreement", "against SFT-SAM", "ECE", "IoU by score", "against SFT-SAM"]
    parts = []
    for split, systems in evidence["confidence"].items():
        rows = [
            [name, _number(entry["top1_agreement"]), gain_words(entry["difference"].get("top1_agreement"))]
            + [_number(entry["ece"]), _number(entry["score_iou"]), gain_words(entry["difference"].get("score_iou"))]
            + [_number(entry["single_iou"]), _number(entry["oracle_iou"])]
            for name, entry in systems.items()
            if entry
        ]
        parts.append(markdown_table([title_of(split), *header, "IoU, token 0", "IoU, best of three"], rows))
    return "\n\n".join(parts)


def budget_table(evidence: Evidence) -> str:
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
        header = [f"images with masks, {title_of(split)}", "system", "rankings", "minutes", "IoU", "against SFT-SAM"]
        parts.append(markdown_table(header, rows))
    return "\n\n".join(parts)


def flips_table(evidence: Evidence) -> str:
    """The gain over SFT-SAM at every share of flipped rankings."""
    parts = []
    for split, systems in evidence["flips"].items():
        rates = sorted({point["rate"] for points in systems.values() for point in points})
        rows = []
        for name, points in systems.items():
            gains = {point["rate"]: gain_words(point["difference"]) for point in points}
            rows.append([name, *(gains.get(rate, "") for rate in rates)])
        parts.append(markdown_table([title_of(split), *(f"{rate:.0%} flipped" for rate in rates)], rows))
    return "\n\n".join(parts)


def demonstrations_table(evidence: Evidence) -> str:
    """The mean over the held-out classes at every number of real masks, and what painting adds in IoU points."""
    return "\n\n".join(
        markdown_table(
            [f"real masks, {title_of(split)}", REAL, PAINTED, "gain"],
            [[point["masks"], _mean(point[REAL]), _mean(point[PAINTED]), gain_words(point["gain"])] for point in points],
        )
        for split, points in evidence["demonstrations"].items()
    )


def classes_table(evidence: Evidence) -> str:
    """Every system with each class held out: no training saw a mask of it."""
    parts = []
    for split, points in evidence["demonstrations"].items():
        first, last = points[0], points[-1]
        systems = {
            "SAM, as it comes": first[REAL],
            "SFT, painted only": first[PAINTED],
            f"SFT, {last['masks']} real masks of other classes": last[REAL],
            f"SFT, painted, then {last['masks']} real masks of other classes": last[PAINTED],
            **evidence["untrained"][split],
        }
        rows = [[name, *map(_number, entry["by_fold"].values()), _mean(entry)] for name, entry in systems.items()]
        prompts = first[REAL]["prompts"]
        rows.append(["*prompts*", *prompts.values(), sum(prompts.values())])
        parts.append(markdown_table([title_of(split), *prompts, "mean"], rows))
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


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table of a page."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
