"""What a name stands for (a packaged model, a path, a Hub id), and what the directories of stages say of themselves."""

import hashlib
import json
from pathlib import Path
from typing import Any

from visionsam_hf.data.errors import UserError

RECORD = "stage.json"
PUBLISHED = "published.json"  # where a directory was pushed to; no part of what it is
PACKAGED_MODEL = "visionsam-tiny"


def resolve_model(name_or_path: str) -> str:
    """The packaged model's directory for its name; anything else (a directory or a Hub id) unchanged."""
    if name_or_path == PACKAGED_MODEL:
        return str(Path(__file__).parent.parent / "models" / "assets" / PACKAGED_MODEL)
    return name_or_path


def looks_local(name_or_path: str) -> bool:
    """Whether a name is meant as a path: it exists, or it cannot be a Hub id (`name` or `owner/name`)."""
    path = Path(name_or_path)
    return path.exists() or path.is_absolute() or name_or_path.startswith(".") or len(path.parts) != 2


def fingerprint(name_or_path: str | Path) -> str:
    """A hash of what a stage reads: of a stage's output as recorded, of any other directory or file its contents.

    A Hub id stands for itself. Raises `UserError` for a path that is not there.
    """
    path = Path(resolve_model(str(name_or_path)))
    if not path.exists():
        if looks_local(str(name_or_path)):
            raise UserError(
                f"{name_or_path}: no such file or directory; run the stage that writes it, or mend the path"
            )
        return f"hub:{name_or_path}"
    record = path / RECORD
    if record.is_file():
        return str(read_record(path)["fingerprint"])
    return _content_hash(path)


def _content_hash(path: Path) -> str:
    files = [path] if path.is_file() else sorted(item for item in path.rglob("*") if item.is_file())
    digest = hashlib.sha256()
    for file in files:
        relative = file.name if file == path else file.relative_to(path).as_posix()
        if relative in (RECORD, PUBLISHED) or "/runs/" in f"/{relative}":
            continue
        content = hashlib.sha256()
        with file.open("rb") as handle:
            while block := handle.read(1 << 20):
                content.update(block)
        digest.update(f"{relative}\0{content.hexdigest()}\n".encode())
    return digest.hexdigest()[:32]


def read_record(directory: str | Path) -> dict[str, Any]:
    """The `stage.json` of a directory; a damaged one is a `UserError`."""
    path = Path(directory) / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record["fingerprint"], record["settings"], record["inputs"]
        return record
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is damaged ({error}); delete the directory and run its stage again") from None
