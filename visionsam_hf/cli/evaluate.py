"""`visionsam evaluate`: one system on one split, to `metrics.json` and `per_sample.parquet`."""

import dataclasses
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from visionsam_hf.cli.run import is_main_process, stage_run
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.settings import setting
from visionsam_hf.evaluation import SELECTIONS
from visionsam_hf.inference import BASELINE_PREFIX

if TYPE_CHECKING:
    from visionsam_hf.evaluation.evaluator import Predictor

PROMPTS = ("box", "point", "point_pm")


@dataclass
class EvaluateSettings:
    model_name_or_path: str = setting(
        "",
        "directory or Hub id of a SAM, SAM-HQ, SAM 2, EdgeTAM; visionsam-tiny; "
        "baseline:fill_box | fill_ellipse | otsu | grabcut",
        required=True,
    )
    dataset: str = setting("", "segmentation data set: a directory or a Hub id", required=True, input=True)
    output_dir: str = setting("", "where metrics.json and per_sample.parquet go", required=True)
    split: str = setting("heldout", "train | validation | test | heldout")
    prompt: str = setting("box", "box | point (most interior pixel) | point_pm (and a negative beside the defect)")
    selection: str = setting(
        "single", "the headline's mask: single | score (best-scored of three) | oracle (best of three)"
    )
    embeddings: str = setting("", "embedding cache to read and fill (SAM only)")
    streaming: bool = setting(False, "read the data set as a stream, without a copy in the cache")
    batch_size: int = setting(8, "prompts of one image at once")
    max_prompts: int = setting(0, "stop after so many prompts; 0: all")
    correct_iou: float = setting(0.7, "failure cases: from this IoU on a mask is correct")
    aligned_gap: float = setting(0.05, "failure cases: IoU that the best-scored mask may lack to the best one")
    partial_coverage: float = setting(0.8, "failure cases: over-segmentation covers this share of the defect ...")
    partial_precision: float = setting(0.5, "... at a precision below this")
    seed: int = setting(0, "of the bootstrap")
    # The model as an input of the stage; a baseline is none.
    model_input: str = dataclasses.field(default="", init=False, metadata={"input": True})

    def __post_init__(self) -> None:
        self.model_input = "" if self.model_name_or_path.startswith(BASELINE_PREFIX) else self.model_name_or_path
        for key, known in (("prompt", PROMPTS), ("selection", SELECTIONS)):
            if getattr(self, key) not in known:
                raise UserError(f"{key}: '{getattr(self, key)}' is not known; use one of {', '.join(known)}")
        if self.batch_size < 1 or self.max_prompts < 0:
            raise UserError("batch_size must be at least 1 and max_prompts at least 0; mend the settings")


def run(settings: EvaluateSettings) -> None:
    """Evaluate, on one process or several: each takes pieces of the data set, the first puts them together."""
    with stage_run("evaluate", settings) as stage:
        from accelerate import PartialState
        from tqdm.auto import tqdm

        from visionsam_hf.data.dataset_directory import load_split
        from visionsam_hf.evaluation.evaluator import score_dataset, summarise
        from visionsam_hf.evaluation.per_sample import FILE, CaseThresholds, join_parts, read_columns, write_groups

        processes = PartialState()
        dataset = load_split(settings.dataset, settings.split, kind="segmentation", streaming=settings.streaming)
        groups = score_dataset(
            _predictor(settings, processes.device),
            dataset,
            max_prompts=settings.max_prompts or None,
            process=processes.process_index,
            processes=processes.num_processes,
        )
        parts = [stage.directory / f"part-{index}.parquet" for index in range(processes.num_processes)]
        with tqdm(desc="evaluate", unit="prompt", mininterval=0.2 if sys.stderr.isatty() else 30) as bar:
            write_groups(parts[processes.process_index], _counted(groups, bar))
        processes.wait_for_everyone()
        if is_main_process():
            join_parts(stage.directory / FILE, parts)
            thresholds = CaseThresholds(
                settings.correct_iou, settings.aligned_gap, settings.partial_coverage, settings.partial_precision
            )
            metrics = {
                "model": settings.model_name_or_path,
                "dataset": settings.dataset,
                "split": settings.split,
                "prompt": settings.prompt,
                **summarise(
                    read_columns(stage.directory / FILE),
                    selection=settings.selection,
                    thresholds=thresholds,
                    seed=settings.seed,
                ),
            }
            text = json.dumps(metrics, indent=2, allow_nan=False)
            (stage.directory / "metrics.json").write_text(text + "\n", encoding="utf-8")
            stage.results.update({"n": metrics["n"], **metrics["overall"]})


def _predictor(settings: EvaluateSettings, device: Any) -> "Predictor":
    from visionsam_hf.evaluation.evaluator import model_predictor
    from visionsam_hf.inference.baselines import find_baseline, iterate_baseline

    name = settings.model_name_or_path
    if not settings.model_input:
        baseline = find_baseline(name, settings.prompt)
        return lambda chunk, max_prompts: iterate_baseline(baseline, chunk, max_prompts=max_prompts)
    from visionsam_hf.embeddings.cache import EmbeddingCache
    from visionsam_hf.inference.other_sams import load_promptable, model_family
    from visionsam_hf.models.loading import load_model, load_processor

    asked: dict[str, Any] = {"prompt": settings.prompt, "batch_size": settings.batch_size}
    if model_family(name) != "sam":
        if settings.embeddings:
            raise UserError(f"embeddings: a cache holds SAM's embeddings, and {name} is another model; remove the key")
        return model_predictor(load_promptable(name).to(device), **asked)[0]
    model, processor = load_model(name).to(device), load_processor(name)
    cache = EmbeddingCache(settings.embeddings, model, processor) if settings.embeddings else None
    return model_predictor(model, processor=processor, cache=cache, **asked)[0]


def _counted(groups: "Iterator[list[dict]]", bar: Any) -> "Iterator[list[dict]]":
    for group in groups:
        bar.update(len(group))
        yield group
