"""`visionsam evidence CONFIG`: objectives x seeds x folds on one embedding cache, to evidence.json and figures."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from visionsam_hf.data.errors import UserError
from visionsam_hf.data.settings import setting
from visionsam_hf.embeddings.cache_settings import CacheSettings


@dataclass
class EvidenceSettings(CacheSettings):
    """A study of objectives. Every run leaves a small file in `runs`; what is there already is not run again."""

    model_name_or_path: str = setting("", "model that everything starts from", required=True, input=True)
    folds: dict[str, str] = setting(
        {},
        "name -> segmentation data set with train and the splits to measure on; one a held-out class",
        required=True,
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
        {}, "name -> start (sft, sam or an objective), sources, rounds, and fields of SamDPOConfig", required=True
    )
    recommended: str = setting("", "the objective that is called VisionSAM", required=True)
    rlhf: str = setting("", "the objective that is called RLHF-SAM; empty for none")
    compare_with: list[str] = setting([], "objectives that every other is compared with, beside SAM and SFT-SAM")
    label_budgets: list[int] = setting([], "numbers of images with masks, for the budget experiment")
    budget_objectives: list[str] = setting([], "objectives of the budget experiment")
    budget_seeds: list[int] = setting([0], "seeds of the budget experiment")
    seconds_per_mask: float = setting(60.0, "assumed time to draw a mask, for the cost of labelling")
    seconds_per_ranking: float = setting(5.0, "assumed time to rank three masks")
    flip_rates: list[float] = setting([], "shares of rankings turned upside down, for the flip experiment")
    flip_objectives: list[str] = setting([], "objectives of the flip experiment")
    flip_seeds: list[int] = setting([0], "seeds of the flip experiment")
    flip_annotators: int = setting(1, "annotators a prompt there: several outvote a flip")
    confidence: str = setting("", "the objective whose scores are shown before and after; empty for none")
    processes: int = setting(1, "processes that share the runs, one thread each; 1 runs in this one")
    # Never left open: results' names hold it.
    embedding_dtype: Literal["float16", "bfloat16", "float32"] = setting("float16", "dtype of the cache")
    resamples: int = setting(2000, "bootstrap resamples of every interval")
    seed: int = setting(0, "of the bootstrap")

    def __post_init__(self) -> None:
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
    import functools
    import json

    _find_studies()
    from studies.plan import plan_cells, read_objectives
    from studies.plots import write_figures
    from studies.results import Results
    from studies.study import Study
    from studies.summary import summarise
    from studies.tables import all_tables

    from visionsam_hf.cli.run import stage_run

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


def _find_studies() -> None:
    """The studies lie beside the recipes, in a clone of the repository; they are not installed."""
    recipes = Path(__file__).resolve().parents[2] / "recipes"
    if not (recipes / "studies").is_dir():
        raise UserError(f"{recipes / 'studies'}: not there; run evidence from a clone of the repository")
    if str(recipes) not in sys.path:
        sys.path.append(str(recipes))


def _check_fields(settings: EvidenceSettings, objectives: dict[str, Any]) -> None:
    """Unknown or wrong training settings end the study before its first run."""
    from visionsam_hf.data.settings import build_settings
    from visionsam_hf.preferences.candidates import SOURCES
    from visionsam_hf.training.dpo_trainer import SamDPOConfig
    from visionsam_hf.training.sft_trainer import SamSFTConfig

    build_settings(SamSFTConfig, settings.sft, source="sft")
    for objective in objectives.values():
        build_settings(SamDPOConfig, dict(objective.settings), source=f"objectives: {objective.name}")
        for source in objective.sources:
            if source not in SOURCES:
                raise UserError(f"objectives: {objective.name} has the source '{source}'; choose {', '.join(SOURCES)}")
