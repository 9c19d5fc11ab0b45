"""What a study can be told (`visionsam evidence`)."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from visionsam_hf.data.errors import UserError
from visionsam_hf.data.settings import Count, setting
from visionsam_hf.embeddings.cache_settings import CacheSettings


@dataclass
class EvidenceSettings(CacheSettings):
    """Systems x seeds x folds, with intervals, tables and figures.

    Every run leaves a small file in `runs`; what is there already is not run again. `kind` says what the systems differ
    in: the objective of stage 2, or the demonstrations that SFT learns from.
    """

    kind: Literal["objectives", "demonstrations"] = setting("objectives", "what the systems differ in")
    model_name_or_path: str = setting("", "model that everything starts from", required=True, input="model")
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
    seeds: Annotated[list[int], Field(min_length=1)] = setting([0, 1, 2, 3, 4], "seeds of the main experiment")
    masks: Count = setting(50, "training images with masks, for stage 1; the others are ranked")
    max_ranked: int | None = setting(150, "prompts ranked in a round")
    annotators: Count = setting(3, "simulated annotators a prompt")
    noise: float = setting(0.05, "standard deviation of their noise on each criterion")
    sft: dict[str, Any] = setting({}, "stage 1: fields of SamSFTConfig")
    preference: dict[str, Any] = setting({}, "fields of SamDPOConfig that all objectives share")
    objectives: dict[str, dict[str, Any]] = setting(
        {}, "name -> start (sft, sam or an objective), sources, rounds, and fields of SamDPOConfig"
    )
    recommended: str = setting("", "the objective that is called VisionSAM")
    rlhf: str = setting("", "the objective that is called RLHF-SAM; empty for none")
    compare_with: list[str] = setting([], "objectives that every other is compared with, beside SAM and SFT-SAM")
    label_budgets: list[Count] = setting([], "numbers of images with masks: the budget experiment, or real masks")
    budget_objectives: list[str] = setting([], "objectives of the budget experiment")
    budget_seeds: list[int] = setting([0], "seeds of the budget experiment")
    seconds_per_mask: float = setting(60.0, "assumed time to draw a mask, for the cost of labelling")
    seconds_per_ranking: float = setting(5.0, "assumed time to rank three masks")
    flip_rates: list[Annotated[float, Field(ge=0, lt=0.5)]] = setting(
        [], "shares of rankings turned upside down, for the flip experiment"
    )
    flip_objectives: list[str] = setting([], "objectives of the flip experiment")
    flip_seeds: list[int] = setting([0], "seeds of the flip experiment")
    flip_annotators: Count = setting(1, "annotators a prompt there: several outvote a flip")
    confidence: str = setting("", "the objective whose scores are shown before and after; empty for none")
    background_dir: str = setting("", "demonstrations: folder of good photographs to paint on", input=True)
    data_dir: str = setting("", "demonstrations: folder of images and masks, by class (docs/data.md)", input=True)
    classes: list[str] = setting([], "classes to hold out in turn (default: every class of data_dir with masks)")
    build: dict[str, Any] = setting({}, "demonstrations: settings of `build masks`")
    paint: dict[str, Any] = setting({}, "demonstrations: settings of `build synthetic`")
    painted: dict[str, Any] = setting({}, "SFT on painted demonstrations (`sft` is on real masks)")
    processes: Count = setting(1, "processes that share the runs, one thread each; 1 runs in this one")
    # Never left open: results' names hold it.
    embedding_dtype: Literal["float16", "bfloat16", "float32"] = setting("float16", "dtype of the cache")
    resamples: Count = setting(2000, "bootstrap resamples of every interval")
    seed: int = setting(0, "of the bootstrap")

    def __post_init__(self) -> None:
        needed = ("background_dir", "data_dir", "label_budgets")
        for key in ("folds", "objectives", "recommended") if self.kind == "objectives" else needed:
            if not getattr(self, key):
                raise UserError(f"a study of {self.kind}: missing key '{key}'; add it, or pass --{key}")
        for key in ("recommended", "rlhf", "confidence", "compare_with", "budget_objectives", "flip_objectives"):
            named = getattr(self, key)
            for name in [named] if isinstance(named, str) else named:
                if name and name not in self.objectives:
                    raise UserError(f"{key}: there is no objective '{name}'; it has {', '.join(self.objectives)}")
        if "ranked" in self.splits:
            raise UserError("splits: 'ranked' is measured anyway; leave it out")

    @property
    def measured(self) -> list[str]:
        """The splits of every table, the ranked images last."""
        return [*self.splits, "ranked"]
