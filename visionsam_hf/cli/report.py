"""`visionsam report`: `report.html`, `report.json` and figures from result files alone, in seconds, without a model."""

import json

from visionsam_hf.cli.options import ReportSettings
from visionsam_hf.cli.stage import stage_run
from visionsam_hf.evaluation.report.page import Sources, make_report
from visionsam_hf.evaluation.result_files import is_detection, name_systems


def run(settings: ReportSettings) -> None:
    """Make the report; parts that were not given are left out, and the page says so."""
    with stage_run("report", settings, into_existing=True) as stage:
        prompted = [directory for directory in settings.directories if not is_detection(directory)]
        systems = settings.systems or name_systems(prompted)
        finders = [directory for directory in settings.directories + settings.finders if is_detection(directory)]
        sources = Sources(
            systems, settings.training, settings.candidates, settings.preferences, settings.dataset, finders
        )
        report = make_report(sources, title=settings.title, seed=settings.seed)
        text = json.dumps(report.found, indent=2, allow_nan=False)
        (stage.directory / "report.json").write_text(text + "\n", encoding="utf-8")
        (stage.directory / "report.html").write_text(report.page, encoding="utf-8")
        for name, picture in report.figures.items():
            (stage.directory / name).write_bytes(picture)
        for name, entry in report.found["systems"].items():
            stage.results[name] = {"iou": entry.get("iou"), "dice": entry.get("dice")}
        stage.achieved = ", ".join(
            f"{name} {of['iou']:.3f}" for name, of in stage.results.items() if isinstance(of["iou"], float)
        )
        stage.page = "report.html"
