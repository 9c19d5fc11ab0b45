"""Run a study: what is missing of its plan, on several processes, each task once; then its tables and figures."""

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from studies.demonstrations import DemonstrationStudy
from studies.design import SAM, Cell, StudySettings, Task, key_of
from studies.evidence_tables import all_tables
from studies.fitting import Base, load_base
from studies.folds import Fold, load_fold
from studies.objectives import ObjectiveStudy
from studies.run_files import Results, result_path, score_baseline, score_model, write_result
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.records import fingerprint
from visionsam_hf.data.windows import row_windows, rule_of

_SECONDS_TO_STOP = 10.0  # a worker in the middle of a batch may take a moment


def run_study(settings: StudySettings, directory: Path, build: Callable[[str, Mapping[str, Any]], None]) -> dict:
    """Run what is missing, then write evidence.json, tables.md and the figures.

    Args:
        settings: of `visionsam evidence`.
        directory: where the files go.
        build: see `DemonstrationStudy`.

    Returns:
        what `stage.json` tells of it.
    """
    demonstrations = settings.kind == "demonstrations"
    kind = DemonstrationStudy(settings, build) if demonstrations else ObjectiveStudy(settings)
    runner = Runner(settings, kind)
    say = partial(print, flush=True)
    missing, total = sum(len(systems) for _, systems in runner.missing()), sum(map(len, kind.cells.values()))
    say(f"{total} systems in {len(kind.cells)} cells, {len(kind.folds)} folds; {missing} results to make")
    seconds = runner.run(say)
    evidence = kind.report(Results(*runner.files()), directory)
    (directory / "evidence.json").write_text(json.dumps(evidence, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    text = "\n\n".join(all_tables(evidence).values()) + "\n"
    (directory / "tables.md").write_text(text, encoding="utf-8")
    if demonstrations:
        return {"runs": total, "seconds": round(seconds, 1)}
    best = evidence["objectives"][settings.measured[0]][settings.recommended]
    return {"runs": total, "seconds": round(seconds, 1), "iou": best["iou"], "difference": best["difference"]}


class Runner:
    """The runs of a study and where their results lie.

    Args:
        settings: of the stage.
        kind: what is trained in each cell, and on what a result depends.
    """

    def __init__(self, settings: StudySettings, kind: ObjectiveStudy | DemonstrationStudy) -> None:
        self.settings, self.kind = settings, kind
        self._common = {
            "model": fingerprint(settings.model_name_or_path, "model"),
            "dtype": settings.embedding_dtype,
            "measured": [settings.splits, settings.max_prompts],
            "window": [settings.window, settings.window_multiple, settings.window_side],
        }
        self._data = {name: fingerprint(directory) for name, directory in kind.folds.items()}

    def path(self, system: str, fold: str, cell: Cell | None = None) -> Path:
        """The result file of a run; its name holds a hash of all that it depends on."""
        described = {"system": system} if cell is None else self.kind.describe(system, cell)
        key = key_of(**self._common, data=self._data[fold], **described)
        return result_path(Path(self.settings.runs), fold, system, key, cell)

    def files(self) -> tuple[dict[Cell, dict[str, Path]], dict[str, dict[str, Path]]]:
        """Every result file: by cell and system, and by fold and untrained system."""
        cells = {cell: {name: self.path(name, cell.fold, cell) for name in of} for cell, of in self.kind.cells.items()}
        folds = {fold: {name: self.path(name, fold) for name in self.kind.untrained} for fold in self.kind.folds}
        return cells, folds

    def missing(self) -> list[Task]:
        """What is still to be done."""
        cells, folds = self.files()
        of_all = {name for name in self.kind.untrained if not all(paths[name].is_file() for paths in folds.values())}
        tasks: list[Task] = [(None, tuple(name for name in self.kind.untrained if name in of_all))]
        for cell, paths in cells.items():
            tasks.append((cell, tuple(name for name, path in paths.items() if not path.is_file())))
        return self.kind.in_order([task for task in tasks if task[1]])

    def run(self, say: Callable[[str], None]) -> float:
        """Do what is missing; returns the seconds it took. `say` is told of every task that is done."""
        started = time.perf_counter()
        tasks = self.missing()
        if tasks:
            self._encode()
        for number, ((cell, systems), seconds) in enumerate(done(tasks, self.work, self.settings.processes), 1):
            place = "untrained" if cell is None else f"{cell.fold}, seed {cell.seed}, {cell.masks} masks"
            if cell is not None and cell.flip_rate:
                place += f", {cell.flip_rate:.0%} flipped"
            say(f"[{number}/{len(tasks)}] {place}: {', '.join(systems)}: {seconds:.0f} s")
        return time.perf_counter() - started

    def work(self, task: Task) -> float:
        """Do one task and write its results, each as soon as it is there; returns the seconds it took."""
        cell, systems = task
        started = time.perf_counter()
        base = load_base(self.settings)
        if cell is None:
            known: dict[tuple, float] = {}
            for name in self.kind.folds:
                fold = self._fold(name)
                for system in systems:
                    if not self.path(system, name).is_file():
                        write_result(self.path(system, name), [self._untrained(system, fold, base, known)])
        else:
            for system, rounds in self.kind.train(cell, self._fold(cell.fold), systems, base):
                write_result(self.path(system, cell.fold, cell), rounds)
        return time.perf_counter() - started

    def _encode(self) -> None:
        """Every window of every fold once, before several processes want the same ones."""
        folds = {name: self._fold(name) for name in self.kind.folds}
        for cell in self.kind.cells:
            self.kind.check(cell, folds[cell.fold])
        base = load_base(self.settings)
        rule = rule_of(base.processor)
        for fold in folds.values():
            for rows in (fold.train, *fold.measured.values()):
                base.cache.add(rows, windows=row_windows(rows.select_columns(["objects"]), rule))

    def _fold(self, name: str) -> Fold:
        return load_fold(name, self.kind.folds[name], self.settings.splits, self.settings.max_prompts)

    def _untrained(self, system: str, fold: Fold, base: Base, known: dict[tuple, float]) -> dict[str, Any]:
        started = time.perf_counter()
        splits = {}
        for split, rows in self.kind.untrained_rows(fold).items():
            if system == SAM:
                splits[split] = score_model(base.model, base.processor, rows, base.cache).as_json()
            else:
                splits[split] = score_baseline(self.kind.untrained[system], rows, known).as_json()
        cost = {"images": 0, "masks": 0, "rankings": 0}
        return {"cost": cost, "splits": splits, "seconds": round(time.perf_counter() - started, 2)}


def done(tasks: list[Task], work: Callable[[Task], float], processes: int) -> Iterator[tuple[Task, float]]:
    """Do every task once, on so many processes of one thread each (1: in this one); yields what `work` returns.

    Raises:
        UserError: as a task raised it. RuntimeError: with the traceback of anything else, or a worker was killed.
    """
    if min(processes, len(tasks)) <= 1:
        for task in tasks:
            yield task, work(task)
        return
    waiting = tasks[::-1]
    with _workers(min(processes, len(tasks)), work) as workers:
        busy: dict[Connection, Task] = {}
        for pipe in workers:
            busy[pipe] = waiting.pop()
            pipe.send(busy[pipe])
        while busy:
            for pipe in wait(list(busy)):
                task = busy.pop(pipe)
                try:
                    answer = pipe.recv()
                except EOFError:
                    code = workers[pipe].exitcode
                    raise RuntimeError(f"a worker ended with code {code} in {task}; is there memory enough?") from None
                if isinstance(answer, Exception):
                    raise answer
                if waiting:
                    busy[pipe] = waiting.pop()
                    pipe.send(busy[pipe])
                yield task, answer


@contextmanager
def _workers(count: int, work: Callable[[Task], float]) -> Iterator[dict[Connection, BaseProcess]]:
    """Worker processes by the pipe that reaches them; they end with the block, however it ends."""
    # Processes of their own: a fork would share torch's threads. Pipes and no queues, whose semaphores a killed
    # process would leave behind.
    context = multiprocessing.get_context("spawn")
    workers: dict[Connection, BaseProcess] = {}
    try:
        with _ctrl_c_ignored():  # a worker inherits it: Ctrl-C reaches them all, and the parent alone answers
            for _ in range(count):
                pipe, other = context.Pipe()
                workers[pipe] = context.Process(target=_serve, args=(other, work))
                workers[pipe].start()
                other.close()
        yield workers
    finally:
        for worker in workers.values():
            worker.terminate()
        end = time.monotonic() + _SECONDS_TO_STOP
        for worker in workers.values():
            worker.join(max(0.0, end - time.monotonic()))
            worker.kill()  # a result is written whole or not at all
            worker.join()


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what a signal does
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(pipe: Connection, work: Callable[[Task], float]) -> None:
    """A worker: one task after the other until the parent ends it."""
    # Unwinding, where dying would leave scratch directories and the semaphores of progress bars behind.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        task = pipe.recv()
        try:
            pipe.send(work(task))
        except UserError as error:
            pipe.send(error)
        except Exception:
            pipe.send(RuntimeError(traceback.format_exc()))


def _end_with_parent() -> None:
    """A parent that was killed can tell nobody, and its workers would go on for hours."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
