"""What painted defects are worth on one's own parts: n real masks alone, painted ones alone, and both.

    python recipes/paint/study/study.py recipes/paint/study/study.yaml --background_dir GOOD --data_dir DEFECTS

Every class of DEFECTS is held out in turn: the figures are those of a class whose masks no training saw. All folds
share one cache of embeddings, every run leaves a small file, and a stopped study goes on where it was.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from visionsam_hf.cli import command_line as cli
from visionsam_hf.cli.run import is_done, stage_run
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.files import write_text, written_directory
from visionsam_hf.data.masks import mask_iou
from visionsam_hf.data.settings import build_settings, read_yaml, setting

BASELINES = {"Fill the box": "fill_box", "GrabCut in the box": "grabcut", "Otsu in the box": "otsu"}


@dataclass
class StudySettings:
    """Settings of the study."""

    background_dir: str = setting("", "folder of good photographs to paint on", required=True, input=True)
    data_dir: str = setting("", "folder of images and masks, by class (docs/data.md)", required=True, input=True)
    output_dir: str = setting("", "directory of the study", required=True)
    model_name_or_path: str = setting("visionsam-tiny", "model to start from", input=True)
    classes: list[str] = setting([], "classes to hold out in turn (default: every class with masks)")
    masks: list[int] = setting([10, 25, 50, 80], "numbers of images with real masks")
    seeds: list[int] = setting([0], "each run is repeated with each seed")
    build: dict[str, Any] = setting({}, "settings of `build masks`")
    paint: dict[str, Any] = setting({}, "settings of `build synthetic`")
    painted: dict[str, Any] = setting({}, "settings of the SFT on painted defects (fields of SamSFTConfig)")
    real: dict[str, Any] = setting({}, "settings of the SFT on real masks (fields of SamSFTConfig)")
    processes: int = setting(2, "runs at a time, each on one thread")


@dataclass(frozen=True)
class Run:
    """One model (or none) on one held-out class: `start` is "base", "painted" or a baseline; `masks` real images."""

    fold: str
    start: str
    masks: int = 0
    seed: int = 0

    @property
    def name(self) -> str:
        return f"{self.fold}-{self.start}-{self.masks}-{self.seed}"


def main(arguments: list[str]) -> int:
    """Run the study; returns the exit code."""
    if not sys.stderr.isatty():  # a log file gets a line of progress now and then
        os.environ.setdefault("TQDM_MININTERVAL", "30")
    try:
        wants_help = "--help" in arguments or "-h" in arguments
        words, options = ([], {}) if wants_help else cli.read_words(StudySettings, arguments, "study")
        if len(words) != 1:
            print(__doc__)
            print("\n".join(f"  --{f.name:<20} {f.metadata['help']}" for f in dataclasses.fields(StudySettings)))
            return 0 if wants_help else 2
        options.pop("replace", None)  # every result is a file of its own
        run_study(build_settings(StudySettings, read_yaml(words[0]), options, source=words[0]))
    except UserError as error:
        print(f"study: {error}", file=sys.stderr)
        return 2
    return 0


def run_study(settings: StudySettings) -> None:
    """Build, encode, train and evaluate whatever has no result yet; then write tables and figure."""
    from study_tables import figure, tables

    if settings.processes < 1 or not settings.masks or min(settings.masks) < 1 or not settings.seeds:
        raise UserError("processes, masks, seeds: give at least one of each, and masks from 1")
    output = Path(settings.output_dir)
    folds = _build_data(settings)
    runs = list(_runs(settings, folds))
    with _workers(settings.processes) as do:
        if any(not _result(settings, run).exists() for run in runs if run.start not in BASELINES):
            do([(_encode, settings, output / "painted"), (_encode, settings, output / "folds" / folds[0])])
        painted = [(_train_painted, settings, seed) for seed in settings.seeds]
        do(painted + [(_finish, settings, run) for run in runs if run.start != "painted"])
        do([(_finish, settings, run) for run in runs if run.start == "painted"])
    rows = [{**dataclasses.asdict(run), **json.loads(_result(settings, run).read_text())} for run in runs]
    with stage_run("study", settings, into_existing=True) as stage:
        text = tables(rows, masks=settings.masks)
        (stage.directory / "tables.md").write_text(text, encoding="utf-8")
        (stage.directory / "study.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        figure(rows, masks=settings.masks, path=stage.directory / "masks.png")
        stage.results["runs"] = len(rows)
    print(f"{text}\n{output / 'tables.md'}, {output / 'masks.png'}, {output / 'study.json'}")


def _runs(settings: StudySettings, folds: list[str]) -> Iterator[Run]:
    for fold in folds:
        yield Run(fold, "base")
        for start in BASELINES:
            yield Run(fold, start)
        for seed in settings.seeds:
            yield Run(fold, "painted", 0, seed)
            for masks in settings.masks:
                yield Run(fold, "base", masks, seed)
                yield Run(fold, "painted", masks, seed)


def _build_data(settings: StudySettings) -> list[str]:
    """The painted data set, and one data set a fold; returns the classes that are held out."""
    output = Path(settings.output_dir)
    paint = {"background_dir": settings.background_dir, "output_dir": str(output / "painted"), **settings.paint}
    _build("build synthetic", paint)
    build = {"data_dir": settings.data_dir, "keep_good": False, **settings.build}
    classes = settings.classes or _classes(settings.data_dir)
    if len(classes) < 2:
        raise UserError(f"{settings.data_dir}: one class cannot be held out and learnt from; give masks of two or more")
    for name in classes:
        _build("build masks", {**build, "heldout_categories": [name], "output_dir": str(output / "folds" / name)})
    return classes


def _build(command: str, values: dict[str, Any]) -> None:
    built = build_settings(cli.settings_class(command), values, source=f"the study's {command}")
    if not is_done("build", built):
        print(f"{command} -> {built.output_dir}", flush=True)
        cli.execute(command, built)


def _classes(data_dir: str) -> list[str]:
    """The class folders that have a mask of something; good parts have none, or empty ones."""
    from datasets_builders.masks import MaskFolder

    with tempfile.TemporaryDirectory() as cache:
        builder = MaskFolder(cache_dir=cache, data_dir=data_dir, keep_good=False, validation=0.0, test=0.0)
        names = builder.info.features["category"].names
        builder.download_and_prepare()
        return sorted({names[label] for label in builder.as_dataset("train")["category"]})


# What follows runs in worker processes.


def _do_here(tasks: list[tuple]) -> None:
    for work, *given in tasks:
        work(*given)


@contextlib.contextmanager
def _workers(processes: int) -> Iterator[Callable[[list[tuple]], None]]:
    """What does a list of (function, arguments ...), several at a time, and returns when all are done."""
    if processes == 1:
        yield _do_here
        return
    # A fresh process each, not a copy: forking after torch has started threads can hang.
    with ProcessPoolExecutor(processes, get_context("spawn"), initializer=_single_thread) as pool:

        def do(tasks: list[tuple]) -> None:
            for future in [pool.submit(work, *given) for work, *given in tasks]:
                future.result()

        yield do


def _single_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _key(*values: Any) -> str:
    """What a result depends on, so that other settings do not find it."""
    from visionsam_hf.data.records import fingerprint

    content = [fingerprint(value) if isinstance(value, Path) else value for value in values]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _encode(settings: StudySettings, directory: Path) -> None:
    """Fill the cache with every image of a data set, so that no two runs encode the same one."""
    from visionsam_hf.data.dataset_directory import load_split, split_names
    from visionsam_hf.embeddings.cache import EmbeddingCache
    from visionsam_hf.models.loading import load_model, load_processor

    model, processor = load_model(settings.model_name_or_path), load_processor(settings.model_name_or_path)
    cache = EmbeddingCache(Path(settings.output_dir) / "embeddings", model.eval(), processor)
    for split in split_names(directory):
        cache.add(load_split(directory, split, kind="segmentation"), batch_size=8)


def _painted_model(settings: StudySettings, seed: int) -> Path:
    output = Path(settings.output_dir)
    key = _key(settings.painted, seed, Path(settings.model_name_or_path), output / "painted")
    return output / "models" / f"painted-{key}"


def _train_painted(settings: StudySettings, seed: int) -> None:
    from visionsam_hf.data.dataset_directory import load_split
    from visionsam_hf.models.loading import load_processor, save_model

    directory = _painted_model(settings, seed)
    if (directory / "config.json").exists():
        return
    rows = load_split(Path(settings.output_dir) / "painted", "train", kind="segmentation")
    model = _tuned(settings, settings.model_name_or_path, rows, settings.painted, seed)
    with written_directory(directory) as unfinished:
        save_model(model, load_processor(settings.model_name_or_path), unfinished)
    print(f"painted, seed {seed}: trained on {len(rows)} images", flush=True)


def _tuned(settings: StudySettings, start: str, rows: Any, values: dict[str, Any], seed: int) -> Any:
    """A model after SFT on some rows."""
    from visionsam_hf.training.sft_trainer import SamSFTConfig, SamSFTTrainer

    cached = not (values.get("augment") or values.get("trainable") == "all")
    with tempfile.TemporaryDirectory() as scratch:
        own = {"output_dir": scratch, "seed": seed, "disable_tqdm": True, "logging_strategy": "no"}
        if cached:
            own["embeddings"] = str(Path(settings.output_dir) / "embeddings")
        args = build_settings(SamSFTConfig, {**own, **values}, source="the study's SFT")
        trainer = SamSFTTrainer(start, args, rows)
        trainer.train()
        return trainer.model


def _result(settings: StudySettings, run: Run) -> Path:
    output = Path(settings.output_dir)
    parts: list[Any] = [dataclasses.asdict(run), output / "folds" / run.fold]
    if run.start in ("base", "painted"):
        parts += [Path(settings.model_name_or_path), settings.real if run.masks else None]
        parts += [_painted_model(settings, run.seed).name] if run.start == "painted" else []
    return output / "runs" / f"{run.name}-{_key(*parts)}.json"


def _finish(settings: StudySettings, run: Run) -> None:
    """Train, if the run does, and evaluate on the held-out class and on the others' validation images."""
    import numpy as np

    from visionsam_hf.data.dataset_directory import load_split
    from visionsam_hf.embeddings.cache import EmbeddingCache
    from visionsam_hf.models.loading import load_model, load_processor

    path = _result(settings, run)
    if path.exists():
        return
    output = Path(settings.output_dir)
    fold = output / "folds" / run.fold
    splits = {name: load_split(fold, name, kind="segmentation") for name in ("heldout", "validation")}
    if run.start in BASELINES:
        found = {name: _box_ious(BASELINES[run.start], rows) for name, rows in splits.items()}
    else:
        start = str(_painted_model(settings, run.seed)) if run.start == "painted" else settings.model_name_or_path
        if run.masks:
            train = load_split(fold, "train", kind="segmentation")
            if len(train) < run.masks:
                raise UserError(f"masks: {run.fold} held out leaves {len(train)} images to train on, not {run.masks}")
            # The first n of one draw, so that more masks always include the fewer.
            order = np.random.default_rng([run.seed, 3]).permutation(len(train))[: run.masks]
            model = _tuned(settings, start, train.select(sorted(order.tolist())), settings.real, run.seed)
        else:
            model = load_model(start)
        processor = load_processor(settings.model_name_or_path)
        cache = EmbeddingCache(output / "embeddings", model, processor)
        found = {name: _model_ious(model.eval(), processor, rows, cache) for name, rows in splits.items()}
    write_text(path, json.dumps({**found["heldout"], "validation": found["validation"]["iou"]}))
    means = {name: sum(found[name]["iou"]) / len(found[name]["iou"]) for name in splits}
    print(f"{run.name}: held-out {means['heldout']:.3f}, validation {means['validation']:.3f}", flush=True)


def _model_ious(model: Any, processor: Any, rows: Any, cache: Any) -> dict[str, list]:
    """IoU of each box prompt's single mask at the photograph's size, and its image."""
    from visionsam_hf.inference.prediction import iterate_predictions

    results = iterate_predictions(model, processor, rows, prompt="box", cache=cache)
    scored = [(mask_iou(result.masks[0], result.truth), result.image_id) for result in results]
    return {"iou": [iou for iou, _ in scored], "image": [image for _, image in scored]}


def _box_ious(baseline: str, rows: Any) -> dict[str, list]:
    from visionsam_hf.inference.baselines import iterate_baseline

    scored = [(mask_iou(result.masks[0], result.truth), result.image_id) for result in iterate_baseline(baseline, rows)]
    return {"iou": [iou for iou, _ in scored], "image": [image for _, image in scored]}


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
