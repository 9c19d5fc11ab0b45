"""Run a command in a fork of this process, which has imported everything already, and kill it when told to."""

import faulthandler
import logging
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

# What Python tells an audit hook before it changes something on disk.
_CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
HANG_SECONDS = 300


@dataclass(frozen=True)
class Ending:
    """How a fork ended: its exit code (negative: the signal that killed it), what it printed, how long it took."""

    code: int
    text: str
    seconds: float
    changes: int = 0


def fork(
    body: Callable[[], int],
    *,
    log: Path,
    kill_after: float | None = None,
    die_at: int | None = None,
    signal_after: tuple[float, int] | None = None,
    hang_after: float = HANG_SECONDS,
) -> Ending:
    """Run `body` in a fork.

    Args:
        body: returns the exit code; a traceback counts as exit code 1.
        log: takes stdout and stderr.
        kill_after: SIGKILL after so many seconds, if it still runs.
        die_at: SIGKILL itself just before its `die_at`-th change to the disk (files opened for writing, moves, removals).
        signal_after: another signal after so many seconds.
        hang_after: longer than this is a hang: it is killed and an AssertionError raised.
    """
    changes = log.with_suffix(".changes")
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        os._exit(_in_child(body, log, changes, die_at))
    try:
        code = _wait(child, started, kill_after, signal_after, hang_after)
    except TimeoutError as error:
        os.kill(child, signal.SIGUSR1)  # it prints where it is
        time.sleep(0.5)
        _kill(child)
        raise AssertionError(f"{error}\n{log.read_text(errors='replace')[-4000:]}") from None
    except BaseException:
        _kill(child)
        raise
    seen = int(changes.read_text()) if changes.is_file() else 0
    return Ending(code, log.read_text(errors="replace"), time.monotonic() - started, seen)


def _wait(child, started, kill_after, signal_after, hang_after) -> int:
    waiting = [(kill_after, signal.SIGKILL)] if kill_after is not None else []
    waiting += [signal_after] if signal_after is not None else []
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        elapsed = time.monotonic() - started
        for moment, number in list(waiting):
            if elapsed >= moment:
                os.kill(child, number)
                waiting.remove((moment, number))
        if elapsed > hang_after:
            raise TimeoutError(f"still running after {hang_after} s")
        time.sleep(0.002)


def _kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _in_child(body: Callable[[], int], log: Path, changes: Path, die_at: int | None) -> int:
    code = 1
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        faulthandler.register(signal.SIGUSR1, file=2)
        _own_locks_of_bars()
        logging.getLogger().handlers.clear()  # pytest's, which keep what the log should show
        count = _count_changes(die_at)
        code = body()
        changes.write_text(str(count[0]))
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _own_locks_of_bars() -> None:
    """The lock of progress bars is shared with all forks, and would stay with one that was killed while it held it.

    A class of bars has a lock of its own where it drew one before tqdm's own class did.
    """
    lock, classes = threading.RLock(), [tqdm]
    for bars in classes:
        bars.set_lock(lock)
        classes += bars.__subclasses__()


def _count_changes(die_at: int | None) -> list[int]:
    count = [0]

    def hook(event: str, arguments: tuple) -> None:
        # open(path, mode, flags)
        if event in _CHANGES or (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        ):
            count[0] += 1
            if count[0] == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return count


def moments(number: int, *, seconds: float, changes: int, seed: int) -> list[dict]:
    """`number` random moments to die at: in turn by the clock and by the count of changes to the disk."""
    rng = random.Random(seed)
    drawn = []
    for place in range(number):
        if place % 2 and changes:
            drawn.append({"die_at": rng.randint(1, changes)})
        else:
            drawn.append({"kill_after": rng.uniform(0, seconds)})
    return drawn
