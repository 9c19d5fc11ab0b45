"""Which panels the report shows, from the numbers of `report.json`."""

from collections.abc import Mapping, Sequence
from typing import Any

from visionsam_hf.evaluation.comparison import HEADLINE
from visionsam_hf.evaluation.per_sample import BINS, CASES
from visionsam_hf.evaluation.report import plotting
from visionsam_hf.evaluation.report.plotting import Panel
from visionsam_hf.evaluation.result_files import curve

_NAMES = {"iou": "IoU", "dice": "Dice"}
APPEARANCE = {
    "size": "Small defects: by area",
    "thickness": "Thin defects: by their thickest place",
    "contrast": "Faint defects: by contrast to the surroundings",
}
CASE_COLORS = dict(zip(CASES, (plotting.GOOD, plotting.FAIR, plotting.POOR, plotting.BAD)))


def split_words(split: str) -> str:
    """What a split's name means to a reader."""
    return {
        "heldout": "categories that were never trained on",
        "test": "unseen images of the training categories",
        "validation": "validation images",
        "train": "the training images themselves",
    }.get(split, f"split '{split}'")


def all_charts(
    report: Mapping[str, Any], shown: Sequence[str], logs: Mapping[str, Sequence[Mapping[str, float]]]
) -> dict[str, list[Panel]]:
    """Panels by section; a section without data has none."""
    entries = {name: report["systems"][name]["splits"][report["split"]] for name in shown}
    paper = {name: report["systems"][name]["paper"] or {} for name in shown}
    return {
        "headline": _headline(entries, paper) + _differences(entries) if shown else [],
        "outcomes": _outcomes(entries),
        "training": _training(logs, shown),
        "categories": _categories(entries),
        "appearance": _appearance(entries),
        "calibration": _calibration(entries),
        "cases": _cases(entries),
        "finders": [plotting.roc_panel("ROC of the images", report["finders"])] if report["finders"] else [],
    }


def _headline(entries: Mapping[str, Any], paper: Mapping[str, Mapping[str, float]]) -> list[Panel]:
    names = list(entries)
    return [
        plotting.interval_panel(
            f"{_NAMES[metric]}, mean over prompts",
            names,
            [entries[name][metric] for name in names],
            [entries[name]["intervals"][metric] for name in names],
            [paper[name].get(metric) for name in names],
            [[seed[metric] for seed in entries[name]["seeds"]] for name in names],
        )
        for metric in HEADLINE
    ]


def _compared(entries: Mapping[str, Any]) -> list[str]:
    return [name for name in entries if entries[name]["difference"] and entries[name]["difference"]["iou"]]


def _differences(entries: Mapping[str, Any]) -> list[Panel]:
    names = _compared(entries)
    if not names:
        return []
    reference = entries[names[0]]["difference"]["reference"]
    return [
        plotting.difference_panel(
            f"{_NAMES[metric]}, difference to {reference} on the same prompts",
            names,
            [entries[name]["difference"][metric] for name in names],
            [list(entries).index(name) for name in names],
        )
        for metric in HEADLINE
    ]


def _outcomes(entries: Mapping[str, Any]) -> list[Panel]:
    names = _compared(entries)
    if not names:
        return []
    reference = entries[names[0]]["difference"]["reference"]
    parts = [
        (word, color, [entries[name]["difference"]["iou"][key] for name in names])
        for word, key, color in (
            ("better", "win", plotting.GOOD), ("within 0.01", "tie", plotting.MUTED), ("worse", "loss", plotting.BAD)
        )
    ]  # fmt: skip
    told = "; ".join(f"{name}: {parts[0][2][i]} better, {parts[2][2][i]} worse" for i, name in enumerate(names))
    return [plotting.stacked_panel(f"Prompts better, even and worse than {reference}", names, parts, told=told)]


def _training(logs: Mapping[str, Sequence[Mapping[str, float]]], systems: Sequence[str]) -> list[Panel]:
    panels = []
    for index, (label, log) in enumerate(logs.items()):
        # A training has the colour of the system that is called like it, else the next one's: SAM had none.
        style = systems.index(label) if label in systems else index + 1
        quantities = (
            ("loss", "eval_loss", "loss"),
            ("rewards/accuracies", "eval_rewards/accuracies", "pairs ordered rightly"),
        )
        for train, held, words in quantities:
            values = curve(log, train), curve(log, held)
            if any(values):
                panels.append(plotting.curve_panel(f"{label}: {words}", words, *values, style=style))
    return panels


def _categories(entries: Mapping[str, Any]) -> list[Panel]:
    categories = sorted({category for entry in entries.values() for category in entry["per_category"]})
    if len(categories) < 2:
        return []
    missing = {"iou": float("nan"), "dice": float("nan")}
    return [
        plotting.category_panel(
            f"{_NAMES[metric]} by category",
            categories,
            [
                [entry["per_category"].get(category, missing)[metric] for category in categories]
                for entry in entries.values()
            ],
        )
        for metric in HEADLINE
    ]


def _appearance(entries: Mapping[str, Any]) -> list[Panel]:
    panels = []
    curves = [entry["size_curve"] for entry in entries.values()]
    if any(curves):
        panels.append(plotting.size_panel("IoU over the defect's size, running mean", curves))
    for name, title in APPEARANCE.items():
        tables = [{row["label"]: row for row in entry["by_appearance"][name]} for entry in entries.values()]
        labels = [label for label in BINS[name][1] if any(label in table for table in tables)]
        if labels:
            counts = [max(table[label]["n"] for table in tables if label in table) for label in labels]
            missing = {"iou": float("nan"), "interval": None}
            rows = [[table.get(label, missing) for label in labels] for table in tables]
            panels.append(
                plotting.appearance_panel(
                    title,
                    labels,
                    counts,
                    [[row["iou"] for row in of_system] for of_system in rows],
                    [[row["interval"] for row in of_system] for of_system in rows],
                )
            )
    return panels


def _calibration(entries: Mapping[str, Any]) -> list[Panel]:
    return [
        plotting.calibration_panel(name, entry["calibration"]["bins"], style)
        for style, (name, entry) in enumerate(entries.items())
        if entry["calibration"]["bins"]
    ]


def scored(entries: Mapping[str, Any]) -> list[str]:
    """The systems that score their masks: without scores, none is the best-scored."""
    return [name for name in entries if entries[name]["calibration"]["mae"] is not None]


def _cases(entries: Mapping[str, Any]) -> list[Panel]:
    names = scored(entries)
    if not names:
        return []
    parts = [(case, CASE_COLORS[case], [entries[name]["cases"]["counts"][case] for name in names]) for case in CASES]
    told = "; ".join(
        f"{name}: " + ", ".join(f"{entries[name]['cases']['counts'][case]} {case}" for case in CASES) for name in names
    )
    return [plotting.stacked_panel("How prompts end", names, parts, told=told)]
