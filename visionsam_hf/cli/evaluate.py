"""`visionsam evaluate`: one system on one split, to `metrics.json` and `per_sample.parquet`."""

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any

from accelerate import PartialState
from tqdm.auto import tqdm

from visionsam_hf.cli.evaluate_found import run_found
from visionsam_hf.cli.options import EvaluateSettings
from visionsam_hf.cli.stage import is_main_process, stage_run
from visionsam_hf.data.dataset_directory import load_split, split_to_judge_by
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.windows import choose_rule
from visionsam_hf.embeddings.cache import EmbeddingCache, open_cache
from visionsam_hf.evaluation.comparison import FEW
from visionsam_hf.evaluation.evaluator import Predictor, model_predictor, score_dataset, summarise
from visionsam_hf.evaluation.per_sample import FILE, CaseThresholds, join_parts, read_columns, write_groups
from visionsam_hf.inference.baselines import find_baseline, iterate_baseline
from visionsam_hf.inference.other_sams import load_promptable, model_family
from visionsam_hf.models.loading import load_model, load_processor


def run(settings: EvaluateSettings) -> None:
    """Evaluate, on one process or several: each takes pieces of the data set, the first puts them together."""
    if settings.finder:
        run_found(settings)
        return
    with stage_run("evaluate", settings) as stage:
        processes = PartialState()
        split = settings.split or split_to_judge_by(settings.dataset, settings.dataset_config)
        dataset = load_split(
            settings.dataset, split, kind="segmentation", config=settings.dataset_config, streaming=settings.streaming
        )
        predict, cache = _predictor(settings, processes.device)
        groups = score_dataset(
            predict,
            dataset,
            max_prompts=settings.max_prompts or None,
            process=processes.process_index,
            processes=processes.num_processes,
        )
        parts = [stage.directory / f"part-{index}.parquet" for index in range(processes.num_processes)]
        filling = contextlib.nullcontext() if cache is None else cache.filling()
        with filling, tqdm(desc="evaluate", unit="prompt", mininterval=0.2 if sys.stderr.isatty() else 30) as bar:
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
                "split": split,
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
            stage.achieved = _told(metrics)


def _told(metrics: dict[str, Any]) -> str:
    interval = metrics["intervals"]["iou"]
    between = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
    few = ", too few to conclude from" if metrics["n"] < FEW else ""
    prompts = f"{metrics['n']} prompts of split '{metrics['split']}'{few}"
    return f"{metrics['model']}: IoU {metrics['overall']['iou']:.3f}{between} on {prompts}"


def _predictor(settings: EvaluateSettings, device: Any) -> tuple[Predictor, EmbeddingCache | None]:
    name = settings.model_name_or_path
    if not settings.model_input:
        baseline = find_baseline(name, settings.prompt)
        return lambda chunk, max_prompts: iterate_baseline(baseline, chunk, max_prompts=max_prompts), None

    asked: dict[str, Any] = {"prompt": settings.prompt, "batch_size": settings.batch_size}
    if model_family(name) != "sam":
        if settings.embeddings:
            raise UserError(f"embeddings: a cache holds SAM's embeddings, and {name} is another model; remove the key")
        if settings.window not in (None, "whole"):
            raise UserError(f"window: {name} is no SAM, and is shown whole photographs only; remove the key")
        return model_predictor(load_promptable(name).to(device), **asked)[0], None
    model, processor = load_model(name).to(device), load_processor(name)
    cache = open_cache(settings, model, processor)
    rule = choose_rule(settings, processor)
    return model_predictor(model, processor=processor, cache=cache, rule=rule, **asked)[0], cache


def _counted(groups: Iterator[list[dict]], bar: Any) -> Iterator[list[dict]]:
    for group in groups:
        bar.update(len(group))
        yield group
