"""YAML and command-line words to a command's settings dataclass.

A settings dataclass declares its fields with `setting`: `--help`, the checks and `stage.json` all read one place.
Choices and ranges are types: `Literal["quick", "full"]`, `Annotated[int, Field(ge=1)]`.
"""

import dataclasses
import difflib
import functools
import traceback
import types
from collections.abc import Container, Iterable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from visionsam_hf.data.errors import UserError

Settings = TypeVar("Settings")
Count = Annotated[int, Field(ge=1)]
CountOrAll = Annotated[int, Field(ge=0)]  # 0: all
Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]

# YAML has no idea that a user's `lr: 1e-4` is a number and `tag: 2024` a string; pydantic's lax mode does.
_LAX = ConfigDict(coerce_numbers_to_str=True, arbitrary_types_allowed=True)
_ADVICE = {
    "greater_than_equal": "give at least {ge}",
    "less_than_equal": "give at most {le}",
    "greater_than": "give more than {gt}",
    "less_than": "give less than {lt}",
    "too_short": "give at least {min_length} of them",
    "too_long": "give at most {max_length} of them",
    "literal_error": "give {expected}",
}

# As TRL's scripts call them -> our keys, of which a command has at most one.
_TRL_KEYS = {
    "dataset_name": ("dataset",),
    "dataset_train_split": ("train_split",),
    "dataset_test_split": ("eval_split", "split"),
}


def setting(default: Any, help: str, *, required: bool = False, input: bool | str = False) -> Any:
    """A dataclass field of a command.

    Args:
        default: the value without a key; lists and dicts are copied.
        help: one line for `--help` and for the message when the key is missing.
        required: an empty value is the user's mistake.
        input: the value names directories, or data sets on the Hub ("model": models), that the command reads: a string,
            or strings in lists and dicts. They are checked before work starts and fingerprinted in `stage.json`.
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
    """Settings from a YAML's `values`, with command-line `overrides` (words as typed, or values) on top.

    Raises:
        UserError: an unknown key (naming the nearest one), a wrong value, a missing required key, or what `transformers`
            refuses.
    """
    fields = {field.name: field for field in dataclasses.fields(cast(Any, cls)) if field.init}
    hints = type_hints(cast(Any, cls))
    checked = {}
    for origin, given in ((str(source), values or {}), ("command line", overrides or {})):
        for name, value in given.items():
            key = own_key(name, fields)
            if key not in fields:
                raise unknown_key(origin, key, fields)
            if origin == "command line" and isinstance(value, str):
                value = _as_yaml(value, hints[key])
            checked[key] = _validated(key, value, hints[key], origin)
    for name, field in fields.items():
        if field.metadata.get("required") and checked.get(name) in (None, "", [], {}):
            raise UserError(
                f"{source}: missing key '{name}' ({field.metadata['help']}); add it, or pass --{name} on the command line"
            )
    try:
        return cls(**checked)
    except (ValueError, TypeError) as error:
        # `TrainingArguments` refuses what the user gave in these words. From our own code they are bugs.
        frames = traceback.walk_tb(error.__traceback__)
        if not any(str(frame.f_globals.get("__name__")).startswith("transformers.") for frame, _ in frames):
            raise
        raise UserError(f"{source}: {error}") from None


def own_key(key: str, known: Container[str]) -> str:
    """The key among `known` that TRL's name for it means; any other key unchanged."""
    return key if key in known else next((own for own in _TRL_KEYS.get(key, ()) if own in known), key)


def unknown_key(origin: str, key: str, known: Iterable[str]) -> UserError:
    """What to say about a key that no field has."""
    near = difflib.get_close_matches(key.replace("-", "_"), known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else "see --help for the keys"
    return UserError(f"{origin}: unknown key '{key}'; {hint}")


@functools.cache
def type_hints(cls: type) -> dict[str, Any]:
    """The types of a dataclass's fields, with their ranges."""
    return get_type_hints(cls, include_extras=True)


def alternatives(hint: Any) -> list[Any]:
    """The plain types of a hint: [int, NoneType] of `Annotated[int, ...] | None`, [list] of `list[str]`."""
    if get_origin(hint) is Annotated:
        return alternatives(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return [plain for member in get_args(hint) for plain in alternatives(member)]
    return [get_origin(hint) or hint]


def _takes_text(hint: Any) -> bool:
    return any(
        kind in (str, Literal) or (isinstance(kind, type) and issubclass(kind, Enum)) for kind in alternatives(hint)
    )


def _as_yaml(text: str, hint: Any) -> Any:
    """`--betas [0.9, 0.99]` is a list, `--embeddings null` nothing; `--revision 1.0` stays text, as wanted there."""
    is_list = list in alternatives(hint)
    if hint is str or (is_list and text[:1] != "[" and text != "null"):
        return text
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text
    return text if _takes_text(hint) and value is not None and not isinstance(value, (list, dict)) else value


def _validated(key: str, value: Any, hint: Any, origin: str) -> Any:
    if list in alternatives(hint) and not _takes_text(hint) and isinstance(value, (str, int, float)):
        value = [value]
    try:
        return TypeAdapter(hint, config=_LAX).validate_python(value)
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
    shown = repr(found["input"])[:200]
    if isinstance(value, dict):
        key = ".".join([key, *map(str, found["loc"])])
    if found["type"] not in _ADVICE:
        raise UserError(f"{origin}: key '{key}' has the value {shown}: {found['msg']}")
    verb = "holds" if isinstance(value, list) and found["loc"] else "is"
    raise UserError(f"{origin}: key '{key}' {verb} {shown}; {_ADVICE[found['type']].format(**found['ctx'])}")
