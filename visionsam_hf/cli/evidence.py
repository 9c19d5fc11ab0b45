"""`visionsam evidence CONFIG`: systems x seeds x folds on one embedding cache, to evidence.json and figures."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visionsam_hf.data.errors import UserError
from visionsam_hf.data.settings import setting

_NEEDED = {
    "objectives": ("folds", "objectives", "recommended"),
    "demonstrations": ("background_dir", "data_dir", "label_budgets"),
}


@dataclass
class EvidenceSettings:
    """A study. Every run leaves a small file in `runs`; what is there already is not run again.

    Its `kind` says what the systems differ in: the objective of stage 2, or the demonstrations that SFT learns from.
    """

    kind: str = setting("objectives", "what the systems differ in: objectives, or demonstrations (painted, real)")
    model_name_or_path: str = setting("", "model that everything starts from", required=True, input=True)
    folds: dict[str, str] = setting(
        {},
        "objectives: name -> segmentation data set with train and the splits to measure on; one a held-out class",
        input=True,
    )
    runs: str = setting("", "directory of the runs' results, which studies can share", required=True)
    embeddings: str = setting("", "directory of the embedding cache", required=True)
    output_dir: str = setting("", "directory of evidence.json, tables.md and the figures", required=True)
    name: str = setting("evidence", "what the study is called in tables and figures")
    splits: list[str] = setting(["heldout", "test"], "splits to measure on; the ranked images are measured besides")
    max_prompts: int | None = setting(None, "about so many prompts a split, drawn by image (default: all)")
    seeds: list[int] = setting([0, 1, 2, 3, 4], "seeds of the main experiment")
    masks: int = setting(50, "training images with masks, for stage 1; the others are ranked")
    max_ranked: int | None = setting(150, "prompts ranked in a round")
    annotators: int = setting(3, "simulated annotators a prompt")
    noise: float = setting(0.05, "standard deviation of their noise on each criterion")
    sft: dict[str, Any] = setting({}, "stage 1: fields of SamSFTConfig")
    preference: dict[str, Any] = setting({}, "fields of SamDPOConfig that all objectives share")
    objectives: dict[str, dict[str, Any]] = setting(
        {}, "name -> start (sft, sam or an objective), sources, rounds, and fields of SamDPOConfig"
    )
    recommended: str = setting("", "the objective that is called VisionSAM")
    rlhf: str = setting("", "the objective that is called RLHF-SAM; empty for none")
    compare_with: list[str] = setting([], "objectives that every other is compared with, beside SAM and SFT-SAM")
    label_budgets: list[int] = setting([], "numbers of images with masks: the budget experiment, or real masks")
    budget_objectives: list[str] = setting([], "objectives of the budget experiment")
    budget_seeds: list[int] = setting([0], "seeds of the budget experiment")
    seconds_per_mask: float = setting(60.0, "assumed time to draw a mask, for the cost of labelling")
    seconds_per_ranking: float = setting(5.0, "assumed time to rank three masks")
    flip_rates: list[float] = setting([], "shares of rankings turned upside down, for the flip experiment")
    flip_objectives: list[str] = setting([], "objectives of the flip experiment")
    flip_seeds: list[int] = setting([0], "seeds of the flip experiment")
    flip_annotators: int = setting(1, "annotators a prompt there: several outvote a flip")
    confidence: str = setting("", "the objective whose scores are shown before and after; empty for none")
    background_dir: str = setting("", "demonstrations: folder of good photographs to paint on", input=True)
    data_dir: str = setting("", "demonstrations: folder of images and masks, by class (docs/data.md)", input=True)
    classes: list[str] = setting([], "classes to hold out in turn (default: every class of data_dir with masks)")
    build: dict[str, Any] = setting({}, "demonstrations: settings of `build masks`")
    paint: dict[str, Any] = setting({}, "demonstrations: settings of `build synthetic`")
    painted: dict[str, Any] = setting({}, "SFT on painted demonstrations (`sft` is on real masks)")
    processes: int = setting(1, "processes that share the runs, one thread each; 1 runs in this one")
    embedding_dtype: str = setting("float16", "dtype of the cache: float16 or float32")
    resamples: int = setting(2000, "bootstrap resamples of every interval")
    seed: int = setting(0, "of the bootstrap")

    def __post_init__(self) -> None:
        needed = _NEEDED.get(self.kind)
        if needed is None:
            raise UserError(f"kind: {self.kind!r} is not a choice; choose {', '.join(_NEEDED)}")
        for key in needed:
            if not getattr(self, key):
                raise UserError(f"a study of {self.kind}: missing key '{key}'; add it, or pass --{key}")
        for key in ("compare_with", "budget_objectives", "flip_objectives"):
            for name in getattr(self, key):
                self._check_known(key, name)
        for key in ("recommended", "rlhf", "confidence"):
            if getattr(self, key):
                self._check_known(key, getattr(self, key))
        if "ranked" in self.splits:
            raise UserError("splits: 'ranked' is measured anyway; leave it out")
        for key in ("masks", "annotators", "flip_annotators", "processes", "resamples"):
            if getattr(self, key) < 1:
                raise UserError(f"{key}: {getattr(self, key)} is too few; give 1 or more")
        if not self.seeds or any(masks < 1 for masks in self.label_budgets):
            raise UserError("seeds, label_budgets: give at least one seed, and numbers of images from 1")
        if not all(0 <= rate < 0.5 for rate in self.flip_rates):
            raise UserError(f"flip_rates: {self.flip_rates} must lie in [0, 0.5)")

    def _check_known(self, key: str, name: str) -> None:
        if name not in self.objectives:
            raise UserError(f"{key}: there is no objective '{name}'; it has {', '.join(self.objectives)}")

    @property
    def measured(self) -> list[str]:
        """The splits of every table, the ranked images last."""
        return [*self.splits, "ranked"]


def run(settings: EvidenceSettings) -> None:
    """Run what is missing, then write evidence.json, tables.md and the figures."""
    _find_studies()
    from studies.runner import run_study

    from visionsam_hf.cli.run import stage_run

    with stage_run("evidence", settings) as stage:
        stage.results.update(run_study(settings, stage.directory, _build))


def _build(command: str, values: dict[str, Any]) -> None:
    """A data set of a study of demonstrations, unless it is there already."""
    from visionsam_hf.cli import command_line
    from visionsam_hf.cli.run import is_done
    from visionsam_hf.data.settings import build_settings

    built: Any = build_settings(command_line.settings_class(command), values, source=f"the study's {command}")
    if not is_done("build", built):
        print(f"{command} -> {built.output_dir}", flush=True)
        command_line.execute(command, built)


def _find_studies() -> None:
    """The studies lie beside the recipes, in a clone of the repository; they are not installed."""
    recipes = Path(__file__).resolve().parents[2] / "recipes"
    if not (recipes / "studies").is_dir():
        raise UserError(f"{recipes / 'studies'}: not there; run evidence from a clone of the repository")
    if str(recipes) not in sys.path:
        sys.path.append(str(recipes))
