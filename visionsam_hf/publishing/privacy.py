"""What must not leave the machine: its paths, addresses of people, tokens, and names of annotators."""

import json
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pyarrow.parquet as pq

from visionsam_hf.errors import UserError

# Nothing of base64, a URL or a relative path before it.
_BEFORE = r"(?<![\w.~/:+=\\-])"
_PATH = re.compile(
    rf"{_BEFORE}/(?P<top>[\w.+-]+)/[^\s\"'`<>|()\[\],;]+"
    rf"|{_BEFORE}[A-Za-z]:\\[^\s\"'`<>|]+"
    r"|file://[^\s\"'`<>]+"
)
_USUAL_TOPS = {"home", "Users", "root", "tmp", "mnt", "media", "var", "opt", "srv", "private", "Volumes", "scratch"}
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}\b")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")
_PASSWORD = re.compile(r"(?P<scheme>\w+://)[^\s/@:\"']*:[^\s/@\"']+@")
_PSEUDONYM = re.compile(r"(annotator|oracle)-\d+")
_NAMED_COLUMNS = ("image_id", "source")


def find_path(text: str) -> str | None:
    """The first absolute path of a machine in a text."""
    return next((match[0] for match in _PATH.finditer(text) if _is_path(match)), None)


def _is_path(match: re.Match[str]) -> bool:
    top = match["top"]
    return top is None or top in _USUAL_TOPS or Path("/", top).is_dir()


def without_machine(value: Any) -> Any:
    """JSON values with every absolute path cut to its last part and passwords taken out of URLs, in keys too."""
    if isinstance(value, dict):
        return {without_machine(key): without_machine(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_machine(item) for item in value]
    if isinstance(value, str):
        value = _PATH.sub(lambda match: _last_part(match) if _is_path(match) else match[0], value)
        return _PASSWORD.sub(r"\g<scheme>", value)
    return value


def _last_part(match: re.Match[str]) -> str:
    path = match[0].removeprefix("file://")
    return (PurePosixPath(path) if path.startswith("/") else PureWindowsPath(path)).name


def cleaned_json(path: Path) -> Path | bytes:
    """A JSON file as it may be published: itself where it names no machine, else its cleaned text."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: is no JSON ({error}); remove it, or write it again") from None
    cleaned = without_machine(value)
    return path if cleaned == value else (json.dumps(cleaned, indent=2) + "\n").encode()


def check_text(name: str, text: str) -> None:
    """Raise `UserError` naming file and line of the first thing in a text that must not be published."""
    for number, line in enumerate(text.splitlines(), 1):
        where = f"{name}:{number}"
        if _TOKEN.search(line):
            raise UserError(f"{where}: holds an access token; revoke it on the Hub, and remove it")
        if _PASSWORD.search(line):
            raise UserError(f"{where}: holds a URL with a password; remove it")
        if path := find_path(line):
            raise UserError(f"{where}: names '{path}', a path of this machine; remove it")
        if address := _EMAIL.search(line):
            raise UserError(f"{where}: holds the address '{address[0]}'; remove it")


def check_data(path: Path) -> None:
    """Raise `UserError` for a path, an address or an annotator's own name in a Parquet file's columns of words."""
    with pq.ParquetFile(path) as file:
        columns = [name for name in (*_NAMED_COLUMNS, "annotations") if name in file.schema_arrow.names]
        columns += [f"{name}.path" for name in ("image", "mask") if name in file.schema_arrow.names]
        first = 0
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=columns).to_pylist()
            for number, row in enumerate(rows, first):
                where = f"{path.name}: row {number}"
                for word in _words(row):
                    if (found := find_path(word)) or (found := getattr(_EMAIL.search(word), "string", None)):
                        raise UserError(f"{where} holds '{found}'; build the data set again without it")
                for annotation in row.get("annotations") or []:
                    if not _PSEUDONYM.fullmatch(annotation["annotator"] or ""):
                        raise UserError(
                            f"{where}: the annotator '{annotation['annotator']}' is no pseudonym (annotator-1, ...);"
                            " export the preferences again"
                        )
            first += len(rows)


def _words(row: dict[str, Any]) -> Iterable[str]:
    for name in _NAMED_COLUMNS:
        if row.get(name):
            yield row[name]
    for name in ("image", "mask"):
        path = (row.get(name) or {}).get("path")
        if path:
            yield path
