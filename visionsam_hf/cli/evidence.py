"""`visionsam evidence CONFIG`: systems x seeds x folds on one embedding cache, to evidence.json and figures."""

import sys
from pathlib import Path
from typing import Any

from visionsam_hf.cli import command_line
from visionsam_hf.cli.stage import is_done, stage_run
from visionsam_hf.cli.study_options import EvidenceSettings
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.settings import build_settings

# The studies lie beside the recipes, in a clone of the repository; they are not installed.
_RECIPES = Path(__file__).resolve().parents[2] / "recipes"
if not (_RECIPES / "studies").is_dir():
    raise UserError(f"{_RECIPES / 'studies'}: not there; run evidence from a clone of the repository")
if str(_RECIPES) not in sys.path:
    sys.path.append(str(_RECIPES))

from studies.runner import run_study  # noqa: E402


def run(settings: EvidenceSettings) -> None:
    """Run what is missing, then write evidence.json, tables.md and the figures."""
    with stage_run("evidence", settings) as stage:
        stage.results.update(run_study(settings, stage.directory, _build))


def _build(command: str, values: dict[str, Any]) -> None:
    """A data set of a study of demonstrations, unless it is there already."""
    built = build_settings(command_line.settings_class(command), values, source=f"the study's {command}")
    if not is_done("build", built):
        print(f"{command} -> {built.output_dir}", flush=True)
        command_line.execute(command, built)
