"""YAML and command-line overrides to a stage's settings dataclass.

A settings dataclass declares its fields with `setting`, so that `--help`, the checks and `stage.json` all read one place.
"""

import dataclasses
import difflib
import functools
import re
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

import yaml

from visionsam_hf.data.errors import UserError

Settings = TypeVar("Settings")
_SECRET = ("hub_token",)
_PASSWORD = re.compile(r"(\w+://[^:/@\s]*):[^@/\s]+@")  # of a database, in its URL


def setting(default: Any, help: str, *, required: bool = False, input: bool = False) -> Any:
    """A dataclass field of a stage.

    Args:
        default: the value without a key; lists and dicts are copied.
        help: one line for `--help` and for the message when the key is missing.
        required: an empty value is the user's mistake.
        input: the value names directories or Hub ids (a string, or strings in lists and dicts) that the stage reads;
            they are checked before work starts and fingerprinted in `stage.json`.
    """
    metadata = {"help": help, "required": required, "input": input}
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file; anything else is a `UserError` naming the file and the line."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give the path of a YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give the path of a UTF-8 YAML file") from None
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not valid YAML"
        raise UserError(f"{path}{where}: {problem}; mend the YAML there") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: a value cannot be read ({error}); mend the YAML") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UserError(f"{path}: must be a mapping of settings ('key: value' lines)")
    return values


def build_settings(
    cls: type[Settings],
    values: dict[str, Any] | None = None,
    overrides: dict[str, Any] | None = None,
    *,
    source: str | Path = "settings",
) -> Settings:
    """Settings from a YAML's `values`, with command-line `overrides` (raw strings, or values) on top.

    Raises:
        UserError: an unknown key (naming the nearest one), a value of the wrong type, a missing required key.
    """
    fields = {field.name: field for field in dataclasses.fields(cast(Any, cls)) if field.init}
    checked = {}
    for origin, given in ((str(source), values or {}), ("command line", overrides or {})):
        for key, value in given.items():
            if key not in fields:
                near = difflib.get_close_matches(key, fields, n=1)
                hint = f"did you mean '{near[0]}'?" if near else "see --help for the keys"
                raise UserError(f"{origin}: unknown key '{key}'; {hint}")
            checked[key] = _coerce(cls, key, value, origin, is_raw=origin == "command line")
    for name, field in fields.items():
        if field.metadata.get("required") and checked.get(name) in (None, "", [], {}):
            raise UserError(
                f"{source}: missing key '{name}' ({field.metadata['help']}); add it, or pass --{name} on the command line"
            )
    try:
        return cls(**checked)
    except UserError:
        raise
    except (ValueError, TypeError) as error:
        raise UserError(f"{source}: {error}") from None


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def _coerce(cls: type, key: str, value: Any, origin: str, *, is_raw: bool) -> Any:
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    hint = _hints(cls)[key]
    attempts = [value]
    if is_raw and isinstance(value, str):
        # `--revision 1.0` stays a string where a string is wanted; `--betas [0.9, 0.99]` becomes a list.
        try:
            attempts = [value, yaml.safe_load(value)] if hint in (str, str | None) else [yaml.safe_load(value), value]
        except yaml.YAMLError:
            pass
    # YAML has no idea that a user's `lr: 1e-4` is a number and `tag: 2024` a string; pydantic's lax mode does.
    config = ConfigDict(coerce_numbers_to_str=True, arbitrary_types_allowed=True)
    problem = ""
    for attempt in attempts:
        try:
            return TypeAdapter(hint, config=config).validate_python(attempt)
        except ValidationError as error:
            problem = problem or error.errors()[0]["msg"]
    raise UserError(f"{origin}: key '{key}' has the value {value!r}: {problem}")


def input_paths(settings: Any) -> list[str]:
    """Every directory or Hub id that the stage reads, in the order of its fields."""
    found: list[str] = []

    def collect(value: Any) -> None:
        if isinstance(value, str) and value:
            found.append(value)
        elif isinstance(value, dict):
            for item in value.values():
                collect(item)
        elif isinstance(value, (list, tuple)):
            for item in value:
                collect(item)

    for field in dataclasses.fields(settings):
        if field.metadata.get("input"):
            collect(getattr(settings, field.name))
    return found


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
