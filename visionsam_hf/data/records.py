"""What a name stands for (a packaged model, a path, a Hub id), and what the directories of stages say of themselves."""

import dataclasses
import hashlib
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from visionsam_hf.data.errors import UserError

logger = logging.getLogger(__name__)

RECORD = "stage.json"
PUBLISHED = "published.json"  # where a directory was pushed to; no part of what it is
PACKAGED_MODEL = "visionsam-tiny"
# Real SAMs by short names, at the square they were trained with or another: visionsam_hf/models/pretrained.py
_SHORT_NAMES = ("lite-medsam", "mobile-sam")
_PRETRAINED = re.compile(rf"({'|'.join(_SHORT_NAMES)})(?:-([1-9]\d{{0,4}}))?")
MODELS_VARIABLE = "VISIONSAM_MODELS"

HUB_SECONDS = 5.0  # to wait for the Hub before going on without it
_OUTPUTS = ("outputs", "output", "out")  # no owner on the Hub is meant by a path that begins so
_SECRET = ("hub_token",)
_PASSWORD = re.compile(r"(\w+://[^:/@\s]*):[^@/\s]+@")  # of a database, in its URL


def models_directory() -> Path:
    """Where converted models are kept: `$VISIONSAM_MODELS`, or `~/.cache/visionsam_hf/models`."""
    given = os.environ.get(MODELS_VARIABLE)
    return Path(given).expanduser() if given else Path.home() / ".cache" / "visionsam_hf" / "models"


def pretrained_name(name: str) -> tuple[str, int | None] | None:
    """A short name's parts, `lite-medsam-128` as ("lite-medsam", 128); None for any other name.

    >>> pretrained_name("mobile-sam"), pretrained_name("mobile-sam-512"), pretrained_name("owner/mobile-sam")
    (('mobile-sam', None), ('mobile-sam', 512), None)
    """
    found = _PRETRAINED.fullmatch(name)
    return (found[1], int(found[2]) if found[2] else None) if found else None


def resolve_model(name_or_path: str) -> str:
    """The directory that a short name stands for, there or not; anything else (a directory or a Hub id) unchanged."""
    if pretrained_name(name_or_path) and not Path(name_or_path).exists():
        return str(models_directory() / name_or_path)
    if name_or_path == PACKAGED_MODEL:
        return str(Path(__file__).parent.parent / "models" / "assets" / PACKAGED_MODEL)
    return name_or_path


def looks_local(name_or_path: str) -> bool:
    """Whether a name is meant as a path: it exists, it begins like one, or it cannot be a Hub id (`owner/name`)."""
    path = Path(name_or_path)
    if path.exists() or path.is_absolute() or name_or_path.startswith((".", "~")) or len(path.parts) != 2:
        return True
    return path.parts[0] in _OUTPUTS or path.parent.is_dir()


def fingerprint(name_or_path: str | Path, kind: str = "dataset") -> str:
    """A hash of what a stage reads: of a stage's output as recorded, of any other directory or file its contents.

    A Hub id stands for itself and its commit, `hub:OWNER/NAME@COMMIT`, where that can be known.

    Args:
        kind: "model" or "dataset", of a Hub id.

    Raises:
        UserError: a path that is not there.
    """
    name = str(name_or_path)
    path = Path(resolve_model(name))
    if not path.exists():
        if looks_local(name):
            named = f" (by name there are {PACKAGED_MODEL}, {' and '.join(_SHORT_NAMES)})" if kind == "model" else ""
            raise UserError(f"{name}: no such file or directory; mend the path, or run the stage that writes it{named}")
        commit = _hub_commit(name, kind)
        return f"hub:{name}@{commit}" if commit else f"hub:{name}"
    record = path / RECORD
    if record.is_file():
        return str(read_record(path)["fingerprint"])
    return content_hash(path)


def same_fingerprint(one: str, other: str) -> bool:
    """Whether two fingerprints agree; a Hub id whose commit is not known on one side agrees with any commit."""
    is_open = one.startswith("hub:") and ("@" not in one or "@" not in other)
    return one == other or (is_open and one.partition("@")[0] == other.partition("@")[0])


def _hub_commit(repo_id: str, kind: str) -> str | None:
    """What `main` is now; offline, what it was when it was last loaded; None where neither is known."""
    ask = huggingface_hub.model_info if kind == "model" else huggingface_hub.dataset_info
    try:
        return ask(repo_id, timeout=HUB_SECONDS).sha
    except OfflineModeIsEnabled:
        pass
    except (HfHubHTTPError, HFValidationError):
        return None  # whoever loads it says why
    except Exception as error:
        # The HTTP client's own classes differ from one release of huggingface_hub to the next.
        if not any(base.__name__ == "TransportError" for base in type(error).__mro__):
            raise
        logger.warning("the Hub cannot be reached (%s); going on with what is in its cache", error)
        _stay_offline()
    cached = Path(huggingface_hub.constants.HF_HUB_CACHE) / f"{kind}s--{repo_id.replace('/', '--')}"
    if (cached / "refs" / "main").is_file():
        return (cached / "refs" / "main").read_text().strip()
    snapshots = list((cached / "snapshots").glob("*"))
    return snapshots[0].name if len(snapshots) == 1 else None


def _stay_offline() -> None:
    """As HF_HUB_OFFLINE=1 from the start: every library would else try the Hub again, for minutes a file."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    if "datasets" in sys.modules:
        sys.modules["datasets"].config.HF_HUB_OFFLINE = True


def content_hash(path: Path) -> str:
    """A hash of a file, or of a directory's files by name, but for what stages and pushes record beside them."""
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


def inputs_of(settings: Any) -> dict[str, str]:
    """Every directory or Hub id that the command reads, in the order of its fields -> "model" or "dataset"."""

    def names(value: Any) -> Iterator[str]:
        if isinstance(value, str) and value:
            yield value
        elif isinstance(value, (list, tuple, dict)):
            for item in value.values() if isinstance(value, dict) else value:
                yield from names(item)

    return {
        name: "model" if field.metadata["input"] == "model" else "dataset"
        for field in dataclasses.fields(settings)
        if field.metadata.get("input")
        for name in names(getattr(settings, field.name))
    }


def as_plain(settings: Any) -> dict[str, Any]:
    """The settings as JSON-ready values, for `stage.json` and for telling whether they changed."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple, set)):
            return [plain(item) for item in value]
        if value is None or isinstance(value, (bool, int, float)):
            return value
        return _PASSWORD.sub(r"\1:***@", str(getattr(value, "value", value)))

    # Nothing secret is ever written.
    shown = (field for field in dataclasses.fields(settings) if field.init and field.name not in _SECRET)
    return {field.name: plain(getattr(settings, field.name)) for field in shown}
