"""Every stage is killed at random moments, repeated, and ends with the bytes of an undisturbed run."""

import os
import shutil
import signal
from pathlib import Path

import pytest
from datasets.utils.tqdm import tqdm as bars_of_datasets

from tests.reliability.counts import is_long, record
from tests.reliability.fixtures import project  # noqa: F401
from tests.reliability.forked import fork, moments
from tests.reliability.tiny_project import Project, cached_embeddings, snapshot, strays
from visionsam_hf.cli import command_line as cli

KILLS = 20 if is_long("soak") else 1
STAGES = list(Project(Path()).commands(Path()))
counted: dict[str, dict[str, int]] = {}


def run(command, log, **moment):
    return fork(lambda: cli.main([str(word) for word in command]), log=log, **moment)


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_stage_repeated_ends_with_the_same_bytes(stage, project, tmp_path):  # noqa: F811
    log, out = tmp_path / "log", tmp_path / "out"
    undisturbed = run(project.commands(out)[stage], log)
    assert undisturbed.code == 0, undisturbed.text
    wanted = snapshot(out)
    cache = cached_embeddings(out / "cache", project) if stage == "embed" else None
    killed = 0
    for moment in moments(KILLS, seconds=undisturbed.seconds, changes=undisturbed.changes, seed=len(stage)):
        shutil.rmtree(out)
        ending = run(project.commands(out)[stage], log, **moment)
        assert ending.code in (-9, 0), ending.text  # 0: it was done by then
        killed += ending.code == -9
        repeated = run(project.commands(out)[stage], log)
        assert repeated.code == 0, (moment, repeated.text)
        found = snapshot(out)
        assert sorted(found) == sorted(wanted), moment
        assert [name for name in wanted if found[name] != wanted[name]] == [], moment
        assert list(strays(out)) == [], moment
        if cache is not None:
            assert cached_embeddings(out / "cache", project) == cache, moment
    size = sum(len(value) for value in wanted.values() if isinstance(value, bytes))
    counted[stage] = {"kills": killed, "files": len(wanted), "bytes": size, "repeats": KILLS}
    record("kills", counted)


def test_a_fork_killed_while_it_drew_a_bar_holds_up_no_other(tmp_path):
    bars_of_datasets(total=1, disable=False).close()  # drawn here first, in a class with a lock of its own

    def die_drawing() -> int:
        with bars_of_datasets.get_lock():
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    def draw() -> int:
        bars_of_datasets(total=1, disable=False).close()
        return 0

    assert fork(die_drawing, log=tmp_path / "log").code == -9
    assert fork(draw, log=tmp_path / "log", hang_after=60).code == 0
