"""Run a study: what is missing of its plan, on several processes, each task once."""

import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import SamModel, SamProcessor

from studies.cell import CellWork
from studies.materials import RANKED, Fold, load_fold, share_labels
from studies.plan import SAM, SFT, UNTRAINED, Cell, Objective, chain, key_of
from studies.results import result_path, write_result
from studies.scoring import score_baseline, score_model
from visionsam_hf.data.records import fingerprint
from visionsam_hf.embeddings.cache import EmbeddingCache, open_cache
from visionsam_hf.models.loading import load_model, load_processor, to_best_device

if TYPE_CHECKING:
    from visionsam_hf.cli.options import EvidenceSettings

# What no model draws, kept while the process lives: `generate_candidates`.
_drawn: dict[tuple, dict[str, Any]] = {}

# What one process takes at a time: a cell with the systems that it still lacks, or the untrained systems of all folds.
Task = tuple[Cell | None, tuple[str, ...]]


class Study:
    """The runs of a study and where their results lie.

    Args:
        settings: of the stage.
        objectives: by name, as `read_objectives` gives them.
        cells: the plan, as `plan_cells` gives it.
    """

    def __init__(
        self, settings: "EvidenceSettings", objectives: dict[str, Objective], cells: dict[Cell, list[str]]
    ) -> None:
        self.settings, self.objectives, self.cells = settings, objectives, cells
        self._common = {
            "model": fingerprint(settings.model_name_or_path, "model"),
            "dtype": settings.embedding_dtype,
            "measured": [settings.splits, settings.max_prompts],
        }
        self._data = {name: fingerprint(directory) for name, directory in settings.folds.items()}

    def path(self, system: str, fold: str, cell: Cell | None = None) -> Path:
        """The result file of a run; its name holds a hash of all that it depends on."""
        described: dict[str, Any] = {**self._common, "data": self._data[fold], "system": system}
        if cell is not None:
            described |= {"cell": asdict(cell), "sft": self.settings.sft, "max_ranked": self.settings.max_ranked}
        if cell is not None and system != SFT:
            steps = [asdict(step) for step in chain(self.objectives, system)]
            # What an objective is called changes nothing.
            described |= {"system": [{**step, "name": "", "start": ""} for step in steps], "start": steps[0]["start"]}
            described["noise"] = self.settings.noise
        return result_path(Path(self.settings.runs), fold, system, key_of(**described), cell)

    def files(self) -> tuple[dict[Cell, dict[str, Path]], dict[str, dict[str, Path]]]:
        """Every result file: by cell and system, and by fold and untrained system."""
        cells = {cell: {name: self.path(name, cell.fold, cell) for name in of} for cell, of in self.cells.items()}
        folds = {fold: {name: self.path(name, fold) for name in UNTRAINED} for fold in self._data}
        return cells, folds

    def missing(self) -> list[Task]:
        """What is still to be done."""
        cells, folds = self.files()
        untrained = tuple(name for name in UNTRAINED if not all(paths[name].is_file() for paths in folds.values()))
        tasks: list[Task] = [(None, untrained)]
        for cell, paths in cells.items():
            tasks.append((cell, tuple(name for name, path in paths.items() if not path.is_file())))
        return [task for task in tasks if task[1]]

    def run(self, say: Callable[[str], None]) -> float:
        """Do what is missing; returns the seconds it took. `say` is told of every task that is done."""
        started = time.perf_counter()
        tasks = self.missing()
        if tasks:
            self._encode()
        for number, (task, seconds) in enumerate(self._done(tasks), 1):
            cell, systems = task
            place = "untrained" if cell is None else f"{cell.fold}, seed {cell.seed}, {cell.masks} masks"
            if cell is not None and cell.flip_rate:
                place += f", {cell.flip_rate:.0%} flipped"
            say(f"[{number}/{len(tasks)}] {place}: {', '.join(systems)}: {seconds:.0f} s")
        return time.perf_counter() - started

    def _done(self, tasks: list[Task]) -> Iterator[tuple[Task, float]]:
        processes = min(self.settings.processes, len(tasks))
        if processes <= 1:
            for task in tasks:
                yield task, self.work(task)
            return
        # Processes of their own: a fork would share torch's threads.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context, initializer=_start_worker) as pool:
            running = {pool.submit(self.work, task): task for task in tasks}
            try:
                for future in as_completed(running):
                    yield running[future], future.result()
            except BaseException:
                # The pool would do all the other tasks first. A result is written whole or not at all.
                pool.shutdown(wait=False, cancel_futures=True)
                for worker in multiprocessing.active_children():
                    worker.kill()
                raise

    def work(self, task: Task) -> float:
        """Do one task and write its results, each as soon as it is there; returns the seconds it took."""
        cell, systems = task
        settings = self.settings
        started = time.perf_counter()
        model, processor, cache = self._model()
        if cell is None:
            known: dict[tuple, float] = {}
            for name in settings.folds:
                fold = self._fold(name)
                for system in systems:
                    if not self.path(system, name).is_file():
                        write_result(
                            self.path(system, name), [_untrained(system, fold, model, processor, cache, known)]
                        )
            return time.perf_counter() - started
        fold = self._fold(cell.fold)
        with tempfile.TemporaryDirectory() as scratch:
            work = CellWork(
                cell,
                fold,
                base=model,
                processor=processor,
                cache=cache,
                embeddings=settings.embeddings,
                sft=settings.sft,
                objectives=self.objectives,
                max_ranked=settings.max_ranked,
                noise=settings.noise,
                scratch=Path(scratch),
                drawn=_drawn,
            )
            for system in systems:
                write_result(self.path(system, cell.fold, cell), work.run(system))
            work.close()
        return time.perf_counter() - started

    def _encode(self) -> None:
        """Every image of every fold once, before several processes want the same ones."""
        folds = {name: self._fold(name) for name in self.settings.folds}
        for cell in self.cells:
            # Refused here, before an hour of other cells.
            share_labels(folds[cell.fold].train, seed=cell.seed, masks=cell.masks, max_ranked=self.settings.max_ranked)
        _, _, cache = self._model()
        for fold in folds.values():
            for rows in (fold.train, *fold.measured.values()):
                cache.add(rows)

    def _model(self) -> tuple[SamModel, SamProcessor, EmbeddingCache]:
        name = self.settings.model_name_or_path
        model, processor = to_best_device(load_model(name)), load_processor(name)
        return model, processor, open_cache(self.settings, model, processor)

    def _fold(self, name: str) -> Fold:
        return load_fold(name, self.settings.folds[name], self.settings.splits, self.settings.max_prompts)


def _untrained(
    system: str,
    fold: Fold,
    model: SamModel,
    processor: SamProcessor,
    cache: EmbeddingCache,
    known: dict[tuple, float],
) -> dict[str, Any]:
    started = time.perf_counter()
    splits = {}
    for split, rows in {**fold.measured, RANKED: fold.train}.items():
        if system == SAM:
            splits[split] = score_model(model, processor, rows, cache).as_json()
        else:
            splits[split] = score_baseline(UNTRAINED[system], rows, known).as_json()
    cost = {"images": 0, "masks": 0, "rankings": 0}
    return {"cost": cost, "splits": splits, "seconds": round(time.perf_counter() - started, 2)}


def _start_worker() -> None:
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed can tell nobody, and its workers would go on for hours."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
