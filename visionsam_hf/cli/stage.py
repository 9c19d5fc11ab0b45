"""The contract of a run: checked inputs, a directory beside the final one until all is done, `stage.json`, a lock.

A run that fails or is killed leaves the result before it as it was, and never stands in the way of its repetition.
"""

import atexit
import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from filelock import FileLock, Timeout

from visionsam_hf.data.errors import UserError, writing_error
from visionsam_hf.data.files import names_in, replace_directory
from visionsam_hf.data.records import (
    RECORD,
    as_plain,
    content_hash,
    fingerprint,
    inputs_of,
    pretrained_name,
    read_record,
    resolve_model,
    same_fingerprint,
)

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

_STARTED_AS = "started_as.json"  # in an unfinished directory only
_VERSIONED = (
    "visionsam_hf",
    "torch",
    "transformers",
    "datasets",
    "accelerate",
    "peft",
    "huggingface_hub",
    "evaluate",
    "numpy",
)
# Where an output goes, and on how many processes it is made, is not part of what it is.
_NOT_COMPARED = (
    *("output_dir", "logging_dir", "run_name", "project", "num_proc", "processes", "dataloader_num_workers", "disable_tqdm"),
    *("push_to_hub", "hub_model_id", "hub_private_repo", "hub_revision"),
)


@dataclasses.dataclass
class StageRun:
    """A stage at work: `directory` takes its files, `results` goes into `stage.json`.

    `achieved`, what came of it in a few words, is printed at the end with the path to look at, `page` of the output.
    """

    directory: Path
    results: dict[str, Any]
    achieved: str = ""
    page: str = ""


def counted(numbers: Mapping[str, int]) -> str:
    """ "12 train, 3 test" of {"train": 12, "test": 3}."""
    return ", ".join(f"{count:,} {name}" for name, count in numbers.items())


def is_done(stage: str, settings: Any) -> bool:
    """Whether the output directory already holds this stage's result for these settings and inputs."""
    directory = Path(settings.output_dir)
    if not (directory / RECORD).is_file():
        return False
    try:
        record = read_record(directory)
        inputs = _fingerprints(settings)
    except UserError:
        return False
    return (
        record.get("stage") == stage
        and _same_settings(_compared(record["settings"]), _compared(as_plain(settings)))
        and _same_inputs(record["inputs"], inputs)
        and record.get("versions", {}).get("visionsam_hf") == _versions()["visionsam_hf"]
    )


def _same_settings(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether settings agree; a key that came later, and is not set, is no difference."""
    return before.keys() <= now.keys() and all(before.get(key) == value for key, value in now.items())


def _compared(settings: dict[str, Any]) -> dict[str, Any]:
    # Through JSON, so that what was written and what is at hand compare alike.
    return json.loads(json.dumps({key: value for key, value in settings.items() if key not in _NOT_COMPARED}))


def is_main_process() -> bool:
    """Whether this process writes; true without `accelerate launch`."""
    return int(os.environ.get("RANK", "0")) == 0


def join_launched(*, wait: bool) -> None:
    """Meet the processes that `accelerate launch` started with this one, and wait until all are here; else nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    # Here, so that a process alone is spared torch where its command does not need it.
    import torch
    from accelerate import PartialState

    if not torch.cuda.is_available():
        # Else accelerate takes each process for the only one. The state is shared by whoever asks for it later.
        os.environ["ACCELERATE_USE_CPU"] = "true"
        PartialState(cpu=True)
    if wait:
        PartialState().wait_for_everyone()


def leave_launched(code: int) -> NoReturn:
    """End this process with an exit code, at once if `accelerate launch` started it with others.

    The threads of gloo stay once DDP has used them, and may still be freeing tensors while Python shuts down, which aborts
    the process, its work done (github.com/pytorch/pytorch/pull/179291): so only what was registered for the end is run.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def refuse_to_replace(stage: str, settings: Any) -> None:
    """Raise `UserError` where a stage's output directory holds what another stage or other settings made."""
    directory = Path(getattr(settings, "output_dir", None) or "")
    if not (directory / RECORD).is_file():
        return
    try:
        record = read_record(directory)
    except UserError:
        return  # a damaged record is no result
    before, now = _compared(record["settings"]), _compared(as_plain(settings))
    differing = [key for key in now if key in before and before[key] != now[key]]
    if record.get("stage") != stage:
        made = f"holds the result of '{record.get('stage')}'"
    elif differing:
        key, more = differing[0], f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        made = f"was made with {key} {before[key]}, not {now[key]}{more}"
    else:
        return
    raise UserError(f"{directory}: {made}; choose another output_dir, or add --replace to write over it")


def check_inputs(settings: Any) -> None:
    """Raise `UserError` for an input that is not there; learn whether the Hub answers before anything waits for it."""
    for name, kind in inputs_of(settings).items():
        if kind == "model" and pretrained_name(name):
            # Here, so that commands with other models are spared torch.
            from visionsam_hf.models.pretrained import find_pretrained

            find_pretrained(name)
        if not Path(resolve_model(name)).exists():
            fingerprint(name, kind)


def _fingerprints(settings: Any) -> dict[str, str]:
    return {name: fingerprint(name, kind) for name, kind in inputs_of(settings).items()}


def _same_inputs(recorded: dict[str, str], found: dict[str, str]) -> bool:
    return list(recorded) == list(found) and all(same_fingerprint(recorded[name], found[name]) for name in found)


@contextlib.contextmanager
def stage_run(stage: str, settings: Any, *, resumable: bool = False, into_existing: bool = False) -> Iterator[StageRun]:
    """Run a stage's body with a directory beside its final name, which it takes only when the body succeeds.

    Args:
        stage: the command's name.
        settings: its dataclass, with `output_dir`.
        resumable: a failed or killed run leaves its `.partial` directory for the next one to continue, if that has the
            same settings and inputs.
        into_existing: move the files into `output_dir` one by one instead of replacing it (it holds other stages).

    Raises:
        UserError: an input is missing, or `output_dir` holds something that is not a stage's output.
    """
    if not settings.output_dir:
        raise UserError(f"{stage}: missing key 'output_dir'; add it to the YAML, or pass --output_dir DIR")
    final = Path(settings.output_dir)
    inputs = _fingerprints(settings)
    if final.exists() and not final.is_dir():
        raise UserError(f"{final}: is a file; choose another output_dir")
    names = set() if into_existing else names_in(final)
    if names and RECORD not in names:
        raise UserError(f"{final}: holds files that no stage wrote; choose another output_dir, or empty it yourself")
    work = final / f".{stage}.partial" if into_existing else final.with_name(final.name + ".partial")
    started = time.perf_counter()
    with only_run(_lock(work), final) if is_main_process() else contextlib.nullcontext():
        if is_main_process():
            _make_ready(work, {"settings": _compared(as_plain(settings)), "inputs": inputs}, resumable)
        join_launched(wait=True)
        run = StageRun(work, {})
        try:
            yield run
            join_launched(wait=True)
            if is_main_process():
                (work / _STARTED_AS).unlink(missing_ok=True)
                record = _record(stage, settings, inputs, run, time.perf_counter() - started)
                (work / RECORD).write_text(json.dumps(record, indent=2, default=str) + "\n", encoding="utf-8")
        except BaseException as error:
            # Asked before the half-written files go and give their space back.
            told = writing_error(error, work)
            if is_main_process() and not resumable:
                shutil.rmtree(work, ignore_errors=True)
            if told is not None:
                raise told from error
            raise
        if is_main_process():
            if into_existing:
                _move_files(work, final)
            else:
                replace_directory(work, final)
            if run.achieved:
                print(f"{stage}: {run.achieved}; see {final / run.page}", flush=True)
        join_launched(wait=True)


def _lock(work: Path) -> Path:
    return work.with_name(work.name.removesuffix(".partial") + ".lock")


def _make_ready(work: Path, started_as: dict[str, Any], resumable: bool) -> None:
    try:
        if work.exists() and not (resumable and _continues(work, started_as)):
            shutil.rmtree(work)
        work.mkdir(parents=True, exist_ok=True)
        if resumable:
            (work / _STARTED_AS).write_text(json.dumps(started_as), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{work}: cannot be written ({error.strerror}); choose another output_dir") from None


def remove_leftovers(settings: Any) -> None:
    """Remove what a run leaves beside a finished output when it is killed in its very last moment.

    Raises:
        UserError: another run is writing the output right now.
    """
    final = Path(settings.output_dir)
    work = final.with_name(final.name + ".partial")
    old = final.with_name(final.name + ".old")
    if old.exists() or _lock(work).exists():
        with only_run(_lock(work), final):
            shutil.rmtree(old, ignore_errors=True)


def _record(stage: str, settings: Any, inputs: dict[str, str], run: StageRun, seconds: float) -> dict[str, Any]:
    """What `stage.json` says of a stage whose files are all written."""
    return {
        "stage": stage,
        "settings": as_plain(settings),
        "inputs": inputs,
        "fingerprint": content_hash(run.directory),
        "versions": _versions(),
        "seed": getattr(settings, "seed", None),
        "wall_seconds": round(seconds, 3),
        "peak_memory_mb": _peak_memory_mb(),
        "hardware": {"machine": platform.machine(), "system": platform.system(), "cores": os.cpu_count()},
        "finished": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "results": run.results,
    }


def _continues(work: Path, started_as: dict[str, Any]) -> bool:
    """Whether an unfinished directory was begun with the same settings and inputs, so that it may be continued."""
    try:
        before = json.loads((work / _STARTED_AS).read_text(encoding="utf-8"))
        return before["settings"] == started_as["settings"] and _same_inputs(before["inputs"], started_as["inputs"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _move_files(work: Path, final: Path) -> None:
    # Without a record while old and new files are mixed: killed now, the stage counts as not done.
    (final / RECORD).unlink(missing_ok=True)
    for file in sorted(work.iterdir(), key=lambda item: item.name == RECORD):
        os.replace(file, final / file.name)
    work.rmdir()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _VERSIONED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    found.setdefault("visionsam_hf", "0")
    return found


def _peak_memory_mb() -> int | None:
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024 if sys.platform != "darwin" else 1024**2))


@contextlib.contextmanager
def only_run(lock: Path, output: Path) -> Iterator[None]:
    """Hold `lock`, a file with this process's number, while the body writes `output`.

    The system lets go of it when the process dies. The file goes at the end; one that a killed run left is taken over.

    Raises:
        UserError: another process holds it (with its number), or the file cannot be written.
    """
    held = FileLock(lock)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{output}: another run{_holder(lock)} is writing it; wait for it or end it, or choose another output_dir"
        ) from None
    except OSError as error:
        raise UserError(f"{lock}: cannot be written ({error.strerror}); choose another output_dir") from None
    try:
        with contextlib.suppress(OSError):  # on Windows a held file cannot be written
            lock.write_text(f"{os.getpid()}\n")
        yield
    finally:
        with contextlib.suppress(OSError):  # nor removed
            lock.unlink()
        held.release()


def _holder(lock: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        return f" (process {int(lock.read_text())})"
    return ""
