"""Checkpoints that can be trusted: one counts only when all of it was written and nothing of it has changed since."""

import hashlib
import json
import logging
import os
import re
import shutil
from pathlib import Path

logger = logging.getLogger(__name__)

_VOUCHER = "complete.json"
_NAME = re.compile(r"checkpoint-(\d+)")


def vouch_for(checkpoint: Path) -> None:
    """Record the hash of every file of a checkpoint; the record itself appears whole or not at all."""
    record = json.dumps(_hashes(checkpoint), indent=2)
    temporary = checkpoint / f"{_VOUCHER}.tmp"
    temporary.write_text(record, encoding="utf-8")
    os.replace(temporary, checkpoint / _VOUCHER)


def keep_newest(directory: Path, limit: int | None, *, best: str | None = None) -> None:
    """Remove all but the newest `limit` checkpoints, by step and not by a clock that may jump; `best` stays too."""
    for checkpoint in _checkpoints(directory)[limit:] if limit else ():
        if best is None or checkpoint.name != Path(best).name:
            shutil.rmtree(checkpoint)


def remove_damaged(directory: Path) -> None:
    """Remove the checkpoints that were never finished, or whose files have changed, down to the newest good one."""
    for checkpoint in _checkpoints(directory):
        if _is_good(checkpoint):
            return
        logger.warning("%s: is unfinished or damaged; the training goes on from an earlier state", checkpoint)
        shutil.rmtree(checkpoint)


def newest_checkpoint(directory: Path) -> str | None:
    """The checkpoint of the highest step."""
    found = _checkpoints(directory)
    return str(found[0]) if found else None


def _checkpoints(directory: Path) -> list[Path]:
    """Newest first."""
    found = [(int(match[1]), path) for path in directory.glob("checkpoint-*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def _is_good(checkpoint: Path) -> bool:
    try:
        return json.loads((checkpoint / _VOUCHER).read_text(encoding="utf-8")) == _hashes(checkpoint)
    except (OSError, ValueError):
        return False


def _hashes(checkpoint: Path) -> dict[str, str]:
    found = {}
    for file in sorted(checkpoint.rglob("*")):
        if file.is_file() and not file.name.startswith(_VOUCHER):
            digest = hashlib.sha256()
            with file.open("rb") as handle:
                while block := handle.read(1 << 20):
                    digest.update(block)
            found[file.relative_to(checkpoint).as_posix()] = digest.hexdigest()
    return found
