"""Unpacking an archive that somebody else made: only plain files, only inside the target, only so many bytes."""

import hashlib
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath

from datasets_builders.photographs import IMAGE_SUFFIXES
from visionsam_hf.errors import UserError

# Photographs hardly shrink in an archive; a file that grows more than this is meant to fill the disk.
MAX_GROWTH = 50
# Below this size no growth is a danger.
ALWAYS_ALLOWED_BYTES = 64 << 20
_COPY_BYTES = 1 << 20


def unpack(archive: Path, target_root: Path) -> Path:
    """The folder with an archive's images and JSON files, unpacked at the first call.

    Args:
        archive: a .tar or .tar.gz file.
        target_root: where the folder goes; its name carries the archive's size and time.

    Raises:
        UserError: damaged, or an entry that is a link or a device, leads outside, or unpacks to too much. Then nothing
            is left of it.
    """
    status = archive.stat()
    version = hashlib.sha256(f"{archive.resolve()}{status.st_size}{status.st_mtime_ns}".encode()).hexdigest()[:12]
    target = target_root / f"{archive.name.split('.')[0]}-{version}"
    if target.is_dir():
        return target
    target_root.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=target_root))
    try:
        _unpack_into(archive, work, max(ALWAYS_ALLOWED_BYTES, MAX_GROWTH * status.st_size))
        work.rename(target)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise UserError(f"{archive}: the archive is damaged ({error}); download it again") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _unpack_into(archive: Path, work: Path, allowed: int) -> None:
    with tarfile.open(archive, mode="r|*") as entries:
        for entry in entries:
            name = PurePosixPath(entry.name)
            if entry.isdir():
                continue
            if name.is_absolute() or ".." in name.parts or "\\" in entry.name:
                raise UserError(f"{archive}: the entry {entry.name!r} leads outside the folder; get it from its source")
            if not entry.isfile() or entry.issparse():
                raise UserError(f"{archive}: the entry {entry.name!r} is not a plain file; get it from its source")
            allowed -= entry.size
            if allowed < 0:
                size = f"more than {MAX_GROWTH} times its size"
                raise UserError(f"{archive}: unpacks to {size}, at {entry.name!r}; get it from its source")
            if name.name.startswith(".") or name.suffix.lower() not in {*IMAGE_SUFFIXES, ".json"}:
                continue  # AppleDouble shadows and whatever else is no data
            path = work.joinpath(*name.parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            source = entries.extractfile(entry)
            assert source is not None  # a plain file has content
            with path.open("xb") as file:
                shutil.copyfileobj(source, file, _COPY_BYTES)
