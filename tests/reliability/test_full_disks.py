"""Full disks, read-only and forbidden directories: one line, exit code 2, and the repeat with space succeeds."""

import os
import random
import shutil
from pathlib import Path

import datasets
import pytest

from tests.reliability.counts import is_long, record
from tests.reliability.fixtures import project  # noqa: F401
from tests.reliability.forked import fork
from tests.reliability.small_disk import drop_rights, mount
from tests.reliability.tiny_project import Project, snapshot, strays
from visionsam_hf.cli import command_line as cli

STAGES = list(Project(Path()).commands(Path()))
SIZES = 6 if is_long("soak") else 1
counted: dict[str, dict[str, int]] = {}


def one_line(ending, *words):
    """The command ended as the user's mistake: one line that holds the words, and no traceback."""
    assert ending.code == 2, ending.text[-3000:]
    assert "Traceback" not in ending.text, ending.text
    told = [line for line in ending.text.splitlines() if line.startswith("visionsam: ")]
    assert len(told) == 1 and any(word in told[0] for word in words), ending.text
    return told[0]


@pytest.fixture(scope="module")
def mountable(tmp_path_factory):
    directory = tmp_path_factory.mktemp("mount")

    def body():
        mount(directory / "disk", 64)
        return 0

    if fork(body, log=directory / "log").code:
        pytest.skip("this user may not mount a small disk")


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_is_one_line_and_the_repeat_succeeds(stage, project, mountable, tmp_path):  # noqa: F811
    rng = random.Random(stage)
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    command = project.commands(disk / "out")[stage]
    full = 0
    for _ in range(SIZES):
        kilobytes = rng.choice([8, 16, 24, 40, 80, 120])

        def fill():
            mount(disk, kilobytes)
            code = cli.main(command)
            shutil.copytree(disk, kept, dirs_exist_ok=True)
            return code

        shutil.rmtree(kept, ignore_errors=True)
        ending = fork(fill, log=tmp_path / "log")
        if ending.code == 0:
            continue  # it all fitted
        full += 1
        one_line(ending, "No space left", "disk is full")
        assert not list((kept / "out" / "result").glob("*")), "half a result under the final name"
        if stage not in ("sft", "dpo", "distil"):  # what a training has learnt is kept for the repeat
            assert list(strays(kept)) == []

        def with_space():
            mount(disk, 100_000)
            shutil.copytree(kept, disk, dirs_exist_ok=True)
            code = cli.main(command)
            assert list(strays(disk)) == []
            assert snapshot(disk / "out").keys() & {"result/stage.json", "result/coco.json"}
            return code

        repeated = fork(with_space, log=tmp_path / "log")
        assert repeated.code == 0, repeated.text
    counted[stage] = {"full disks": full}
    record("full_disks", counted)


@pytest.mark.parametrize("stage", STAGES)
def test_a_directory_that_may_not_be_written_is_one_line(stage, project, tmp_path):  # noqa: F811
    out = tmp_path / "out"
    out.mkdir(mode=0o555)
    _open_for_all(project.root)
    _open_for_all(tmp_path)
    out.chmod(0o555)

    (tmp_path / "home").mkdir()
    (tmp_path / "home").chmod(0o777)

    for command in cli.COMMANDS.values():
        # Without rights, the interpreter itself may lie where nothing can be imported from.
        cli._found(command.work)

    def forbidden():
        drop_rights()
        os.environ["HOME"] = os.environ["MPLCONFIGDIR"] = str(tmp_path / "home")
        datasets.config.HF_DATASETS_CACHE = tmp_path / "home"
        return cli.main(project.commands(out)[stage])

    one_line(fork(forbidden, log=tmp_path / "log"), "cannot be written")
    assert list(out.iterdir()) == []


def _open_for_all(directory: Path) -> None:
    for path in [*directory.parents][:3] + [directory, *directory.rglob("*")]:
        path.chmod(0o777 if path.is_dir() else 0o666)
