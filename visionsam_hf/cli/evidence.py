"""`visionsam evidence CONFIG`: objectives x seeds x folds on one embedding cache, to evidence.json and figures."""

import functools
import json
import sys
from pathlib import Path
from typing import Any

from visionsam_hf.cli.options import EvidenceSettings
from visionsam_hf.cli.run import stage_run
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.settings import build_settings
from visionsam_hf.preferences.candidates import SOURCES
from visionsam_hf.training.dpo_trainer import SamDPOConfig
from visionsam_hf.training.sft_trainer import SamSFTConfig

# The studies lie beside the recipes, in a clone of the repository; they are not installed.
_RECIPES = Path(__file__).resolve().parents[2] / "recipes"
if not (_RECIPES / "studies").is_dir():
    raise UserError(f"{_RECIPES / 'studies'}: not there; run evidence from a clone of the repository")
if str(_RECIPES) not in sys.path:
    sys.path.append(str(_RECIPES))

from studies.plan import plan_cells, read_objectives  # noqa: E402
from studies.plots import write_figures  # noqa: E402
from studies.results import Results  # noqa: E402
from studies.study import Study  # noqa: E402
from studies.summary import summarise  # noqa: E402
from studies.tables import all_tables  # noqa: E402


def run(settings: EvidenceSettings) -> None:
    """Run what is missing, then write evidence.json, tables.md and the figures."""


    with stage_run("evidence", settings) as stage:
        objectives = read_objectives(settings.objectives, settings.preference)
        _check_fields(settings, objectives)
        cells = plan_cells(
            folds=list(settings.folds),
            seeds=settings.seeds,
            masks=settings.masks,
            annotators=settings.annotators,
            objectives=list(objectives),
            label_budgets=settings.label_budgets,
            budget_objectives=settings.budget_objectives,
            budget_seeds=settings.budget_seeds,
            flip_rates=settings.flip_rates,
            flip_objectives=settings.flip_objectives,
            flip_seeds=settings.flip_seeds,
            flip_annotators=settings.flip_annotators,
        )
        study = Study(settings, objectives, cells)
        missing, total = sum(len(systems) for _, systems in study.missing()), sum(map(len, cells.values()))
        say = functools.partial(print, flush=True)
        say(f"{total} systems in {len(cells)} cells, {len(settings.folds)} folds; {missing} results to make")
        seconds = study.run(say)
        evidence = summarise(Results(*study.files()), settings)
        text = json.dumps(evidence, indent=1, allow_nan=False)
        (stage.directory / "evidence.json").write_text(text + "\n", encoding="utf-8")
        blocks = all_tables(evidence)
        (stage.directory / "tables.md").write_text("\n\n".join(blocks.values()) + "\n", encoding="utf-8")
        write_figures(evidence, stage.directory)
        best = evidence["objectives"][settings.measured[0]][settings.recommended]
        stage.results.update(runs=total, seconds=round(seconds, 1), iou=best["iou"], difference=best["difference"])


def _check_fields(settings: EvidenceSettings, objectives: dict[str, Any]) -> None:
    """Unknown or wrong training settings end the study before its first run."""
    build_settings(SamSFTConfig, settings.sft, source="sft")
    for objective in objectives.values():
        build_settings(SamDPOConfig, dict(objective.settings), source=f"objectives: {objective.name}")
        for source in objective.sources:
            if source not in SOURCES:
                raise UserError(f"objectives: {objective.name} has the source '{source}'; choose {', '.join(SOURCES)}")
