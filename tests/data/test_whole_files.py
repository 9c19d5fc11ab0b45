"""A file or directory has its name only when it is whole; what a killed writer left goes, a living one's work stays."""

import os
import signal
from pathlib import Path

import pytest

from visionsam_hf.data.files import (
    remove_leftovers,
    replace_directory,
    unfinished,
    write_text,
    written_directory,
    written_file,
)

fcntl = pytest.importorskip("fcntl")


def names(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*"))


def test_a_file_takes_its_name_at_the_end(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_text(path, "old")
    with written_file(path) as temporary:
        temporary.write_text("new ö", encoding="utf-8")
        assert path.read_text() == "old" and temporary.parent == path.parent
    assert path.read_text(encoding="utf-8") == "new ö" and names(tmp_path) == ["new", "new/a.txt"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_what_fails_leaves_the_old_and_no_scraps(tmp_path, error):
    write_text(tmp_path / "a", "old")
    (tmp_path / "d").mkdir()
    write_text(tmp_path / "d" / "b", "old")
    with pytest.raises(error), written_file(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise error
    with pytest.raises(error), written_directory(tmp_path / "d") as temporary:
        (temporary / "c").write_text("half")
        raise error
    assert names(tmp_path) == ["a", "d", "d/b"]


def test_a_directory_replaces_the_one_before(tmp_path):
    for word in ("one", "two"):
        with written_directory(tmp_path / "d") as temporary:
            (temporary / word).write_text(word)
    assert names(tmp_path) == ["d", "d/two"]


def test_writers_that_end_together_leave_one_whole_directory(tmp_path):
    children = []
    for number in range(4):
        if (child := os.fork()) == 0:
            code = 1
            try:
                for turn in range(100):
                    with written_directory(tmp_path / "d") as temporary:
                        (temporary / f"{number}-{turn}").write_text("whole")
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0, 0]
    assert len(names(tmp_path)) == 2 and names(tmp_path)[1].endswith("-99")


def test_a_directory_moved_aside_by_a_killed_writer_goes(tmp_path):
    (tmp_path / "d.old").mkdir()
    (tmp_path / "new").mkdir()
    replace_directory(tmp_path / "new", tmp_path / "d")
    assert names(tmp_path) == ["d"]


@pytest.mark.parametrize("is_directory", [False, True])
def test_only_a_killed_writers_work_is_removed(tmp_path, is_directory):
    path = tmp_path / "a[1].npy"
    child = os.fork()
    if not child:
        with unfinished(path, is_directory=is_directory) as temporary:
            if is_directory:
                (temporary / "half").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert len([name for name in names(tmp_path) if name.endswith(".tmp")]) == 1
    with unfinished(path, is_directory=is_directory) as mine:
        assert names(tmp_path) == [mine.name]  # the next writer of the same path removed it
        remove_leftovers(tmp_path)
        with unfinished(path, is_directory=is_directory) as other:
            assert mine.exists() and other.exists()
    assert names(tmp_path) == []
