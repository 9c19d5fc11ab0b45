"""`annotate serve --online`: rounds of training in the background, while people rank.

A round is the commands `annotate export`, `dpo` and `candidates`, each a process of its own, in a new directory beside the
store. Only when all three are done are the new masks taken into the store, in one transaction: whatever is killed, and
whenever, rankings and tasks are as they were, and the round begins again.
"""

import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from visionsam_hf.annotation.rounds import begin_rounds, count_rankings, load_rounds, propose
from visionsam_hf.annotation.tasks import order_tasks
from visionsam_hf.cli.annotation_options import ServeSettings
from visionsam_hf.cli.candidates import load_candidates
from visionsam_hf.cli.stage import only_run
from visionsam_hf.data.dataset_directory import split_names
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.records import RECORD, fingerprint, read_record, same_fingerprint
from visionsam_hf.embeddings.cache_settings import CacheSettings

_LOOK_SECONDS = 1.0
_PATIENCE_SECONDS = 10.0  # for a command to put away what it has half-written
# People's clicks and keys come first.
_GENTLY = ["nice"] if os.name == "posix" else []


@contextlib.contextmanager
def training_online(settings: ServeSettings, engine: Any, rows: Mapping[str, Any]) -> Iterator[None]:
    """Train in the background while the body serves the page.

    Args:
        settings: of the page; `online_every`, `model` and the cache's are read.
        engine: of the filled store.
        rows: `rounds.rows_of_rounds` of its candidate set.

    Raises:
        UserError: nothing says how the candidates were made, their data set is gone or changed, or another server trains.
    """
    proposing = _proposing(settings)
    root = Path(f"{engine.url.database}.rounds").absolute()
    begin_rounds(engine, model=proposing["model_name_or_path"], candidates=settings.candidates)
    with only_run(root / "online.lock", root):
        known = [Path(one.candidates).parent for one in load_rounds(engine)]
        for left in root.glob("round-*"):
            if left not in known:  # by a server that was killed
                shutil.rmtree(left, ignore_errors=True)
        trainer = _Trainer(settings, engine, rows, root, proposing)
        trainer.start()
        try:
            yield
        finally:
            trainer.stop()


def _proposing(settings: ServeSettings) -> dict[str, Any]:
    """The settings that made the candidates, checked; with the page's own of the cache where it has some."""
    has_record = (Path(settings.candidates) / RECORD).is_file()
    record = read_record(settings.candidates) if has_record else {}
    if record.get("stage") != "candidates":
        raise UserError(f"{settings.candidates}: has no {RECORD} of 'visionsam candidates', whose work online repeats; give one")
    made = record["settings"]
    if not same_fingerprint(record["inputs"][made["dataset"]], fingerprint(made["dataset"])):
        raise UserError(f"{made['dataset']}: has changed since it gave {settings.candidates}; make the candidates again")
    own = {field.name: getattr(settings, field.name) for field in dataclasses.fields(CacheSettings)}
    return made | {key: value for key, value in own.items() if value is not None}


class _Failed(Exception):
    """A command of a round; one line says why."""


class _Trainer(threading.Thread):
    """Looks every second whether a round is due, and makes it."""

    def __init__(
        self, settings: ServeSettings, engine: Any, rows: Mapping[str, Any], root: Path, proposing: dict[str, Any]
    ) -> None:
        super().__init__(name="online", daemon=True)
        self._settings, self._engine, self._rows, self._root = settings, engine, rows, root
        self._proposing = {"embeddings": str(root / "embeddings")} | {k: v for k, v in proposing.items() if v is not None}
        self._stopped = threading.Event()
        self._running: subprocess.Popen | None = None

    def stop(self) -> None:
        """End the command that runs, and wait until it is gone."""
        self._stopped.set()
        if self._running is not None:
            self._running.terminate()
        self.join(_PATIENCE_SECONDS)

    def run(self) -> None:
        tried = 0
        while not self._stopped.wait(_LOOK_SECONDS):
            newest, rankings = load_rounds(self._engine)[-1], count_rankings(self._engine)
            if rankings - max(newest.rankings, tried) < self._settings.online_every:
                continue
            tried = rankings
            try:
                self._make_round(newest.number + 1, rankings)
            except Exception as error:  # people go on ranking, whatever it was
                if not self._stopped.is_set():
                    reason = " ".join(str(error).split()) or type(error).__name__
                    again = f"ranking goes on, the next try comes after {self._settings.online_every} more"
                    print(f"visionsam: round {newest.number + 1} failed ({reason}); {again}", file=sys.stderr, flush=True)

    def _make_round(self, number: int, rankings: int) -> None:
        # A command that a killed server left running writes into another directory.
        directory = self._root / f"round-{number}-{rankings}-{os.getpid()}"
        preferences, model, candidates = (str(directory / name) for name in ("preferences", "model", "candidates"))
        directory.mkdir(parents=True)
        export = {"store": self._settings.store, "candidates": self._settings.candidates, "output_dir": preferences}
        self._run(directory, "annotate export", export)
        training = {field.name: self._proposing.get(field.name) for field in dataclasses.fields(CacheSettings)}
        training |= {"model_name_or_path": self._settings.model, "dataset": preferences, "output_dir": model}
        judge = "validation" if "validation" in split_names(preferences) else None
        self._run(directory, "dpo", training | {"eval_split": judge})
        self._run(directory, "candidates", self._proposing | {"model_name_or_path": model, "output_dir": candidates})
        found = load_candidates(candidates)
        tasks = propose(self._engine, found, model=model, candidates=candidates, rankings=rankings)
        order_tasks(self._engine, self._rows, self._settings.order)
        print(f"Round {number}: {tasks} tasks have masks of {model}, which learnt from {rankings} rankings.", flush=True)

    def _run(self, directory: Path, command: str, values: Mapping[str, Any]) -> None:
        words = [*_GENTLY, sys.executable, "-m", "visionsam_hf", *command.split()]
        for key, value in values.items():
            if value not in (None, "", []):
                words += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
        log = directory / "log.txt"
        with log.open("a+", encoding="utf-8") as file:
            # A session of its own: Ctrl-C is for the server, which ends the command itself.
            self._running = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
            if self._stopped.is_set():
                self._running.terminate()
            code = self._running.wait()
        if code:
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            reason = lines[-1].removeprefix("visionsam: ") if code > 0 and lines else f"killed by signal {-code}"
            raise _Failed(f"{command}: {reason}; see {log}")
