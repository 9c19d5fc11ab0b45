"""The report: what the result files say, as `report.json`, as one page that needs nothing else, and as `cases.png`."""

import base64
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from visionsam_hf.evaluation.comparison import (
    FEW,
    HEADLINE,
    PAPER,
    Systems,
    headline_split,
    reference_system,
    system_entry,
    system_roles,
)
from visionsam_hf.evaluation.metrics import METRICS
from visionsam_hf.evaluation.per_sample import TITLES
from visionsam_hf.evaluation.report import charts, galleries
from visionsam_hf.evaluation.report.galleries import PictureRow
from visionsam_hf.evaluation.report.plotting import signed
from visionsam_hf.evaluation.result_files import (
    curve,
    dataset_table,
    read_detection,
    read_log,
    read_systems,
    stage_record,
)
from visionsam_hf.inference import BASELINE_PREFIX

RESAMPLES = 2000
_CELL = 1.75  # inches of a picture on a plate
_PLATE_STYLE = {"font.family": "DejaVu Sans", "font.size": 8}
_STAGES = ("SAM", "SFT-SAM", "VisionSAM")  # the roles of the paper's figure 5


@dataclasses.dataclass(frozen=True)
class Sources:
    """The directories that a report is made from; an empty one is left out, with a sentence.

    Args:
        systems: name to directories of evaluate: one a split, or several a split for several seeds.
        training: label to a training's directory.
        candidates, preferences, dataset: of those stages.
        finders: directories of `evaluate --finder`.
    """

    systems: Mapping[str, Sequence[str]]
    training: Mapping[str, str] = dataclasses.field(default_factory=dict)
    candidates: str = ""
    preferences: str = ""
    dataset: str = ""
    finders: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Report:
    """`found` is what `report.json` holds, `page` the text of `report.html`, `figures` file names to PNGs beside it."""

    found: dict[str, Any]
    page: str
    figures: dict[str, bytes]


def make_report(sources: Sources, *, title: str, seed: int = 0) -> Report:
    """The report, from result files alone.

    Raises:
        UserError: a directory is not what it is given as, or is damaged.
    """
    left_out: list[str] = []
    systems = read_systems(sources.systems)
    split = headline_split(systems)
    roles = system_roles(systems)
    drawn: dict[str, Any] = {"roles": roles, "resamples": RESAMPLES, "seed": seed}
    entries = {name: system_entry(systems, name, split, **drawn) for name in systems}
    logs = _logs(sources.training, left_out)
    data = _dataset(sources.dataset, left_out)
    found: dict[str, Any] = {
        "title": title,
        "split": split,
        "systems": entries,
        "paper": PAPER if any(entry["paper"] for entry in entries.values()) else {},
        "training": {label: _training_summary(log) for label, log in logs.items()},
        "candidates": _results(sources.candidates, "candidate set", left_out),
        "preferences": _results(sources.preferences, "preference set", left_out),
        "dataset": data,
        "stages": _stages(sources),
    }
    found["finders"] = {directory: read_detection(directory) for directory in sources.finders}
    found_cases = {name: galleries.detection_gallery(of.pop("cases")) for name, of in found["finders"].items()}
    pictures = _pictures(sources, systems, roles, split, left_out, seed)
    found["left_out"] = left_out
    found = _finite(found)
    shown = [name for name in entries if split in entries[name]["splits"]]
    case_system, reference = _case_system(systems, split), reference_system(systems, roles, split)
    page = _environment().get_template("report.html.jinja").render(
        report=found,
        shown=shown,
        case_system=case_system,
        prompts=sorted({str(entries[name]["splits"][split]["prompt"]) for name in shown}),
        best=max(shown, key=lambda name: entries[name]["iou"], default=None),
        found_cases=found_cases,
        reference=reference,
        several_seeds=any(len(entries[name]["seeds"]) > 1 for name in shown),
        split_words=charts.split_words(split),
        verdict=_verdict(found, shown),
        charts=charts.all_charts(found, shown, logs),
        scored=charts.scored({name: entries[name]["splits"][split] for name in shown}),
        case_titles=TITLES,
        appearance=charts.APPEARANCE,
        pictures=pictures,
        metrics=METRICS,
        versions=_versions(found["stages"]),
    )
    of_cases = f"How the prompts of {case_system} end, on {charts.split_words(split)}: the median prompt of each case"
    return Report(found, page, {"cases.png": plate(of_cases, pictures["cases"])} if pictures["cases"] else {})


def _case_system(systems: Systems, split: str) -> str | None:
    """Whose failure cases are shown: the first system that scores its masks."""
    present = {name: results[split].runs[0].metrics for name, results in systems.items() if split in results}
    return next((name for name, metrics in present.items() if metrics["calibration"]["mae"] is not None), None)


def _logs(training: Mapping[str, str], left_out: list[str]) -> dict[str, list[dict[str, float]]]:
    logs = {}
    for label, directory in training.items():
        log = read_log(directory)
        if log:
            logs[label] = log
        else:
            left_out.append(f"The training of {label} left no log in its directory, so its curves are missing.")
    if not training:
        left_out.append("No training was given, so there are no loss curves.")
    return logs


def _training_summary(log: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    train, held = curve(log, "loss"), curve(log, "eval_loss")
    return {
        "steps": max(entry["step"] for entry in log),
        "first_loss": train[0][1] if train else None,
        "last_loss": train[-1][1] if train else None,
        "last_eval_loss": held[-1][1] if held else None,
    }


def _dataset(directory: str, left_out: list[str]) -> list[dict[str, Any]]:
    if directory and Path(directory).is_dir():
        return dataset_table(directory)
    left_out.append(
        "The data set is not a directory here, so it is not summarised."
        if directory
        else "No data set was given, so it is not summarised."
    )
    return []


def _results(directory: str, what: str, left_out: list[str]) -> dict[str, Any] | None:
    if not directory:
        left_out.append(f"No {what} was given, so it is not shown.")
        return None
    record = stage_record(directory)
    if record is None:
        left_out.append(f"The {what} has no stage.json, so its figures are missing.")
        return None
    return record.get("results", {})


def _stages(sources: Sources) -> list[dict[str, Any]]:
    """The record of every stage whose output was read, in the order of the work."""
    named = [("Data set", sources.dataset)]
    named += [(f"Training of {label}", directory) for label, directory in sources.training.items()]
    named += [("Candidates", sources.candidates), ("Preferences", sources.preferences)]
    named += [("Evaluation without boxes", directory) for directory in sources.finders]
    for name, directories in sources.systems.items():
        named += [(f"Evaluation of {name}", directory) for directory in directories]
    stages = []
    for label, directory in named:
        record = stage_record(directory) if directory else None
        if record is not None:
            kept = ("stage", "settings", "versions", "seed", "wall_seconds", "peak_memory_mb", "hardware", "finished")
            stages.append({"label": label, "directory": directory} | {key: record.get(key) for key in kept})
    return stages


def _pictures(
    sources: Sources,
    systems: Systems,
    roles: Mapping[str, str | None],
    split: str,
    left_out: list[str],
    seed: int,
) -> dict[str, list[galleries.PictureRow]]:
    here = {name: results[split] for name, results in systems.items() if split in results}
    firsts = {roles[name]: name for name in reversed(here)}
    staged = {firsts[role]: here[firsts[role]] for role in _STAGES if role in firsts}
    # Without the paper's systems: the first three.
    staged = staged if len(staged) > 1 else dict(list(here.items())[:3])
    case_system = _case_system(systems, split)
    found = {
        "stages": galleries.stage_comparison(staged, sources.dataset, seed=seed) if len(staged) > 1 else [],
        "cases": galleries.case_gallery(here[case_system], sources.dataset) if case_system else [],
        "candidates": galleries.candidate_gallery(sources.candidates) if sources.candidates else [],
        "preferences": galleries.preference_gallery(sources.preferences) if sources.preferences else [],
    }
    if systems and not found["stages"] and not found["cases"]:
        left_out.append("The photographs are not in a directory here, so the systems' masks are not shown on them.")
    return found


def plate(title: str, rows: Sequence[PictureRow], *, dpi: int = 150) -> bytes:
    """A PNG of at least one row of pictures with their captions, one row under the other, below a title."""
    columns = max(len(row.cells) for row in rows)
    with rc_context(_PLATE_STYLE):
        figure = Figure(figsize=(_CELL * columns, (_CELL + 0.62) * len(rows) + 0.35), layout="constrained")
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
        for part, row in zip(np.atleast_1d(figure.subfigures(len(rows), 1)), rows):
            part.suptitle(f"{row.title} ({row.note})", x=0.01, ha="left", fontsize=9.5, fontweight="bold")
            for axes, cell in zip(part.subplots(1, columns, squeeze=False)[0], row.cells):
                axes.imshow(_picture(cell.picture))
                axes.set_title(cell.title, fontsize=8.5, pad=3)
                axes.set_xlabel(cell.note, labelpad=3)
            for axes in part.axes:
                axes.set_xticks([])
                axes.set_yticks([])
                axes.spines[:].set_visible(False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def _picture(uri: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        return np.asarray(image.convert("RGB"))


def _verdict(report: Mapping[str, Any], shown: Sequence[str]) -> list[str]:
    """What the numbers say, in sentences that follow from them by rule."""
    entries = report["systems"]
    if not shown:
        return []
    learnt_nothing = [
        name for name in shown if entries[name]["splits"][report["split"]]["model"].startswith(BASELINE_PREFIX)
    ]
    models = [name for name in shown if name not in learnt_nothing] or list(shown)
    best = max(models, key=lambda name: entries[name]["iou"])
    praise = f"{best} does best" if len(models) == len(shown) else f"Of the models, {best} does best"
    sentences = [
        f"{praise}: its masks share {entries[best]['iou']:.1%} of their area with the true defect "
        f"(IoU, mean over {entries[best]['n']:,} prompts on {entries[best]['images']:,} images)."
    ]
    if entries[best]["n"] < FEW:
        sentences.append("So few prompts say little of the next ones: look at the intervals, and give more photographs.")
    untouched = next((name for name in shown if entries[name]["role"] == "SAM"), best)
    if untouched != best:
        sentences.append(f"{untouched}, untouched, reaches {entries[untouched]['iou']:.1%}.")
    for name in shown:
        if entries[name]["role"] == "VisionSAM" and (entries[name]["difference"] or {}).get("iou"):
            sentences.append(_preferences_paid(name, entries[name]["difference"], entries))
    better = [name for name in learnt_nothing if entries[name]["iou"] > entries[best]["iou"]]
    if better:
        better.sort(key=lambda name: -entries[name]["iou"])
        reached = " and ".join(f"{name} ({entries[name]['iou']:.1%})" for name in better)
        sentences.append(f"Beware: better than every model here, without having learnt anything: {reached}.")
    return sentences


def _preferences_paid(name: str, difference: Mapping[str, Any], entries: Mapping[str, Any]) -> str:
    """What a system that was tuned on preferences gained over the reference."""
    reference, (low, high) = difference["reference"], difference["iou"]["interval"]
    gap = f"{_signed(difference['iou']['difference'])} IoU, 95% interval {_signed(low)} to {_signed(high)}"
    if low <= 0 <= high:
        return f"{name} and {reference} cannot be told apart on these prompts ({gap})."
    found = f"{name} is {'above' if low > 0 else 'below'} {reference} ({gap})."
    # Only next to the demonstrations alone is it the preferences that made the difference.
    verdict = f"Preferences {'pay' if low > 0 else 'cost'}: "
    return verdict + found if entries[reference]["role"] == "SFT-SAM" else found


def _versions(stages: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Package to version, with every version where stages differ."""
    found: dict[str, list[str]] = {}
    for stage in stages:
        for package, version in (stage.get("versions") or {}).items():
            if version not in found.setdefault(package, []):
                found[package].append(version)
    return {package: ", ".join(versions) for package, versions in found.items()}


def _finite(value: Any) -> Any:
    """JSON has no NaN: what is not defined is null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    environment.filters["signed"] = _signed
    environment.filters["svg"] = markupsafe.Markup
    environment.filters["seconds"] = _seconds
    environment.globals["headline"] = HEADLINE
    return environment


def _number(value: Any) -> str:
    """A figure for a table: three decimals for shares, whole numbers as they are, a dash for none."""
    if value is None:
        return "–"
    if isinstance(value, bool) or isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"


def _signed(value: float | None) -> str:
    """A difference for a table: `signed`, or a dash for none."""
    return "–" if value is None else signed(value)


def _seconds(value: float | None) -> str:
    if value is None:
        return "–"
    if value < 60:
        return f"{value:.1f} s"
    return f"{int(value // 60)} min {int(value % 60)} s"
