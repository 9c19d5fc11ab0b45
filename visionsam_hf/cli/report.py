"""`visionsam report`: `report.html`, `report.json` and figures from result files alone, in seconds, without a model."""

from dataclasses import dataclass

from visionsam_hf.cli.run import stage_run
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.settings import setting


@dataclass
class ReportSettings:
    systems: dict[str, list[str]] = setting(
        {}, "name -> directories of evaluate, one a split (several of one split: seeds)", required=True, input=True
    )
    output_dir: str = setting("", "where report.html and report.json go; may hold the other stages", required=True)
    title: str = setting("Defect segmentation report", "the page's heading")
    training: dict[str, str] = setting({}, "label -> directory of sft or dpo, for the loss curves", input=True)
    candidates: str = setting("", "candidate set directory", input=True)
    preferences: str = setting("", "preference data set directory", input=True)
    dataset: str = setting("", "segmentation data set directory, for its summary and the photographs", input=True)
    seed: int = setting(0, "of the bootstrap and of the examples drawn by lot")

    def __post_init__(self) -> None:
        for name, directories in self.systems.items():
            if not directories:
                raise UserError(f"systems: '{name}' has no directory; name at least one output of evaluate")


def run(settings: ReportSettings) -> None:
    """Make the report; parts that were not given are left out, and the page says so."""
    with stage_run("report", settings, into_existing=True) as stage:
        import json

        from visionsam_hf.evaluation.report.page import Sources, make_report

        sources = Sources(
            settings.systems, settings.training, settings.candidates, settings.preferences, settings.dataset
        )
        report = make_report(sources, title=settings.title, seed=settings.seed)
        text = json.dumps(report.found, indent=2, allow_nan=False)
        (stage.directory / "report.json").write_text(text + "\n", encoding="utf-8")
        (stage.directory / "report.html").write_text(report.page, encoding="utf-8")
        for name, picture in report.figures.items():
            (stage.directory / name).write_bytes(picture)
        for name, entry in report.found["systems"].items():
            stage.results[name] = {"iou": entry.get("iou"), "dice": entry.get("dice")}
