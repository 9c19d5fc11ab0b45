"""A hostile archive is refused, and leaves nothing anywhere."""

import io
import tarfile
from pathlib import Path

import pytest

from datasets_builders import photographs as archives
from datasets_builders.photographs import unpack
from visionsam_hf.data.errors import UserError


def archive_of(path: Path, *entries: tarfile.TarInfo, content: bytes = b"x") -> Path:
    with tarfile.open(path, "w:gz") as tar:
        good = tarfile.TarInfo("Cable/train/000000.jpg")
        good.size = 4
        tar.addfile(good, io.BytesIO(b"good"))
        for entry in entries:
            if entry.isfile():
                entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def entry(name: str, type: bytes = tarfile.REGTYPE, linkname: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = type, linkname
    return info


@pytest.mark.parametrize(
    ("hostile", "words"),
    [
        ([entry("../outside.jpg")], "'../outside.jpg' leads outside"),
        ([entry("Cable/../../outside.jpg")], "leads outside"),
        ([entry("/tmp/outside.jpg")], "'/tmp/outside.jpg' leads outside"),
        ([entry("..\\outside.jpg")], "leads outside"),
        ([entry("Cable/link.jpg", tarfile.SYMTYPE, "/etc/passwd")], "'Cable/link.jpg' is not a plain file"),
        ([entry("Cable/link", tarfile.SYMTYPE, ".."), entry("Cable/link/outside.jpg")], "is not a plain file"),
        ([entry("Cable/link.jpg", tarfile.LNKTYPE, "../outside.jpg")], "is not a plain file"),
        ([entry("Cable/pipe.jpg", tarfile.FIFOTYPE)], "is not a plain file"),
    ],
)
def test_entries_that_lead_outside_are_refused(tmp_path, hostile, words):
    (tmp_path / "in").mkdir()
    archive = archive_of(tmp_path / "in" / "Cable.tar.gz", *hostile)
    with pytest.raises(UserError) as caught:
        unpack(archive, tmp_path / "deep" / "target")
    assert words in str(caught.value) and str(archive) in str(caught.value)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        "deep",
        "deep/target",
        "in",
        "in/Cable.tar.gz",
    ]


@pytest.mark.parametrize("name", ["Cable/bomb.jpg", "Cable/bomb.bin"])
def test_a_bomb_is_refused_before_it_is_written(tmp_path, monkeypatch, name):
    monkeypatch.setattr(archives, "ALWAYS_ALLOWED_BYTES", 1000)
    archive = archive_of(tmp_path / "Cable.tar.gz", entry(name), content=bytes(2_000_000))
    with pytest.raises(UserError, match="unpacks to more than 50 times its size, at 'Cable/bomb"):
        unpack(archive, tmp_path / "target")
    assert list((tmp_path / "target").iterdir()) == []


def test_a_damaged_archive_is_named(tmp_path):
    archive = archive_of(tmp_path / "Cable.tar.gz", entry("Cable/train/a.jpg"), content=bytes(range(256)) * 50)
    archive.write_bytes(archive.read_bytes()[:-60])
    with pytest.raises(UserError, match="Cable.tar.gz: the archive is damaged .*download it again"):
        unpack(archive, tmp_path / "target")
    assert list((tmp_path / "target").iterdir()) == []


def test_only_images_and_json_come_out(tmp_path):
    archive = archive_of(tmp_path / "Cable.tar", entry("Cable/run.sh"), entry("Cable/._a.jpg"), entry("Cable/a.json"))
    folder = unpack(archive, tmp_path / "target")
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == [
        "Cable/a.json",
        "Cable/train/000000.jpg",
    ]
