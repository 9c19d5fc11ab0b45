"""`visionsam`: the table of commands; parse, dispatch, and turn the user's mistakes into one line and exit code 2.

A command's work is imported when it runs: `--help` answers at once, without torch.
"""

import argparse
import dataclasses
import difflib
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NoReturn, get_args, get_origin

from visionsam_hf.cli import annotation_options, dataset_options, options, study_options
from visionsam_hf.cli.stage import check_inputs, join_launched, refuse_to_replace
from visionsam_hf.data.errors import Interrupted, UserError
from visionsam_hf.data.settings import alternatives, build_settings, own_key, read_yaml, type_hints, unknown_key


@dataclasses.dataclass(frozen=True)
class Command:
    """One command.

    Args:
        settings: dataclass of its keys; the first line of its docstring is the command's help.
        work: "module:function" of this room; the function takes the settings.
        words: keys that can be given as plain words, in this order; what is left over is the CONFIG.
        several: key that takes all plain words, unless there is one, a YAML.
        config: whether a CONFIG can be given.
        extra: of setup.cfg, whose packages the work imports.
        whole: "module:class" where `settings` lacks the keys of `transformers.TrainingArguments`.
    """

    settings: type
    work: str
    words: tuple[str, ...] = ()
    several: str = ""
    config: bool = True
    extra: str = ""
    whole: str = ""

    @property
    def help(self) -> str:
        """One line."""
        return (self.settings.__doc__ or "").strip().splitlines()[0]


COMMANDS = {
    "quickstart": Command(options.QuickstartSettings, "pipeline:run_quickstart", config=False),
    "pipeline": Command(options.PipelineSettings, "pipeline:run", words=("recipe",), config=False),
    "tune": Command(options.TuneSettings, "tune:run", words=("data_dir",), config=False),
    "build synthetic": Command(dataset_options.SyntheticSettings, "build:run"),
    "build masks": Command(dataset_options.MasksSettings, "build:run"),
    "build coco": Command(dataset_options.CocoSettings, "build:run"),
    "build vision": Command(dataset_options.VisionSettings, "build:run"),
    "build mvtec_ad": Command(dataset_options.MVTecADSettings, "build:run"),
    "curate": Command(dataset_options.CurateSettings, "curate:run"),
    "inspect": Command(dataset_options.InspectSettings, "inspect:run", words=("dataset",)),
    "embed": Command(options.EmbedSettings, "embed:run"),
    "sft": Command(options.SFTOptions, "train:run_sft", whole="train:SFTStage"),
    "distil": Command(options.DistilOptions, "distil:run", whole="distil:DistilStage"),
    "find": Command(options.FindSettings, "find:run"),
    "candidates": Command(options.CandidatesSettings, "candidates:run"),
    "annotate oracle": Command(annotation_options.OracleSettings, "candidates:run_oracle"),
    "annotate serve": Command(annotation_options.ServeSettings, "annotate:run_serve", extra="annotate"),
    "annotate stats": Command(annotation_options.StatsSettings, "annotate:run_stats", extra="annotate"),
    "annotate export": Command(annotation_options.ExportAnnotationsSettings, "annotate:run_export", extra="annotate"),
    "annotate users": Command(annotation_options.UsersSettings, "annotate:run_users", words=("action", "name"), extra="annotate"),
    "annotate backup": Command(annotation_options.BackupSettings, "annotate:run_backup", extra="annotate"),
    "annotate dump": Command(annotation_options.DumpSettings, "annotate:run_dump", extra="annotate"),
    "annotate restore": Command(annotation_options.RestoreSettings, "annotate:run_restore", extra="annotate"),
    "dpo": Command(options.DPOOptions, "train:run_dpo", whole="train:DPOStage"),
    "evaluate": Command(options.EvaluateSettings, "evaluate:run"),
    "evidence": Command(study_options.EvidenceSettings, "evidence:run"),
    "report": Command(options.ReportSettings, "report:run", several="directories"),
    "push": Command(options.PushSettings, "push:run", words=("directory", "repo_id")),
    "merge": Command(options.MergeSettings, "export:run_merge", words=("adapter",)),
    "convert": Command(options.ConvertSettings, "convert:run", words=("source",)),
    "export": Command(options.ExportSettings, "export:run", words=("model",), extra="onnx"),
    "predict": Command(options.PredictSettings, "predict:run"),
    "demo": Command(options.DemoSettings, "demo:run", words=("image",), config=False, extra="annotate"),
}
# setup.cfg's extras that commands need.
_PACKAGES = {"annotate": ("fastapi", "sqlalchemy", "uvicorn"), "onnx": ("onnx", "onnxscript", "onnxruntime")}
_TRUTHS = ("true", "false", "yes", "no", "on", "off", "1", "0")
_NOTES = """
CONFIG is a YAML file; every key can be given as `--key value` too. `visionsam COMMAND --help` lists a command's keys.
Exit codes: 0 done, 2 your input needs mending (one line says what), 130 or 143 stopped by Ctrl-C or SIGTERM (the same
command goes on), anything else is our bug."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not sys.stderr.isatty():
        # A log file gets a line of progress now and then, not ten a second. Read by tqdm when it is imported.
        os.environ.setdefault("TQDM_MININTERVAL", "30")
    join_launched(wait=False)
    try:
        with _termination_interrupts():
            return _dispatch(arguments)
    except KeyboardInterrupt as error:
        stopped = error if isinstance(error, Interrupted) else Interrupted(signal.SIGINT)
        print(f"visionsam: {stopped}", file=sys.stderr)
        return 128 + stopped.number
    except UserError as error:
        print(f"visionsam: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # `visionsam ... | head` is not a failure; keep the interpreter from complaining about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


@contextmanager
def _termination_interrupts() -> Iterator[None]:
    """SIGTERM, from a scheduler or `kill`, ends the work as Ctrl-C does: what is half-written goes."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what a signal does
        return

    before = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(number: int, frame: Any) -> None:
    raise Interrupted(number)


def _die_of_sigterm() -> None:
    """In a forked worker: a pool ends its workers with SIGTERM, and Python's handler could come too late for one that is
    about to wait for a lock; it would wait, and the pool for it, for ever."""
    if signal.getsignal(signal.SIGTERM) is _stop:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_die_of_sigterm)


def _dispatch(arguments: list[str]) -> int:
    first = arguments[0] if arguments else ""
    if first in ("", "-h", "--help", "help"):
        print(_usage(COMMANDS))
        return 0 if arguments else 2
    if first == "--version":
        print(importlib.metadata.version("visionsam_hf"))
        return 0
    verbs = [name for name in COMMANDS if name.startswith(f"{first} ")]
    if verbs and (len(arguments) == 1 or arguments[1] in ("-h", "--help")):
        print(_usage(verbs))
        return 0 if len(arguments) > 1 else 2
    size = 2 if verbs else 1
    name, rest = " ".join(arguments[:size]), arguments[size:]
    if name not in COMMANDS:
        choices = verbs or list(COMMANDS)
        near = difflib.get_close_matches(name, choices, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"choose {', '.join(choices)}"
        raise UserError(f"no command '{name}'; {hint}")
    if any(word in ("-h", "--help") for word in rest):
        print(_parser(name, COMMANDS[name].settings).format_help())
        return 0
    run_stage(name, rest)
    return 0


def _usage(names: Sequence[str] | dict[str, Command]) -> str:
    lines = [f"  {_form(name):<32} {COMMANDS[name].help}" for name in names]
    return "\n".join(["usage: visionsam COMMAND ...", "", *lines, _NOTES])


def _form(name: str) -> str:
    command = COMMANDS[name]
    required = [field.name for field in dataclasses.fields(command.settings) if field.metadata.get("required")]
    words = [word.upper() if word in required else f"[{word.upper()}]" for word in command.words]
    return " ".join([name, *(words or ["[CONFIG]"] * command.config)])


def run_stage(name: str, arguments: Sequence[str]) -> None:
    """Parse a command's `[CONFIG] [--key value ...]` and run it; results of other settings stay without `--replace`."""
    words, given = read_words(settings_class(name), arguments, name)
    may_replace = given.pop("replace", "false").lower() in _TRUTHS[::2]
    settings = _settings(name, words, given)
    # A study goes on: what its runs found is kept, and its pages are made anew from all of them.
    if not may_replace and name != "evidence":
        refuse_to_replace(name.split()[0], settings)
    execute(name, settings)


def parse_stage(name: str, arguments: Sequence[str]) -> Any:
    """The settings of a command ("sft", "build masks", ...) from its arguments; options win over the YAML."""
    return _settings(name, *read_words(settings_class(name), arguments, name))


def _settings(name: str, words: list[str], given: dict[str, Any]) -> Any:
    for key in COMMANDS[name].words:
        if words and key not in given:
            given[key] = words.pop(0)
    if words and COMMANDS[name].several and not words[0].endswith((".yaml", ".yml")):
        given[COMMANDS[name].several], words = words, []
    if words and not COMMANDS[name].config:
        raise UserError(f"{name}: '{words[0]}' is one word too many; options are --key value")
    if len(words) > 1:
        raise UserError(f"{name}: one CONFIG at a time, not {' '.join(words)}; override keys with --key value")
    values = read_yaml(words[0]) if words else {}
    return build_settings(settings_class(name), values, given, source=words[0] if words else name)


def settings_class(name: str) -> Any:
    """The settings dataclass of a command; that of a training stage needs torch."""
    command = COMMANDS[name]
    return _found(command.whole) if command.whole else command.settings


def execute(name: str, settings: Any) -> None:
    """Run a command with its settings."""
    extra = COMMANDS[name].extra
    missing = [package for package in _PACKAGES.get(extra, ()) if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(f"{name}: needs the package '{missing[0]}'; run, in the clone: pip install -e '.[{extra}]'")
    check_inputs(settings)
    _found(COMMANDS[name].work)(settings)


def _found(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(f"visionsam_hf.cli.{module}"), attribute)


def read_words(cls: type, arguments: Sequence[str], name: str) -> tuple[list[str], dict[str, Any]]:
    """The plain words, and the options by key: as typed, a list where several words were given.

    A bool takes a value only if it is one, a list every word up to the next option, anything else one word.

    Raises:
        UserError: an option that is no key of `cls`, or one without its value.
    """
    typed = _parser(name, cls).parse_intermixed_args(list(_tied(_forms(cls), arguments)))
    given = vars(typed)
    words = given.pop("words", [])
    for key, value in given.items():
        if isinstance(value, list) and len(value) == 1:
            given[key] = value[0]
        elif isinstance(value, list) and not words and value[-1].endswith((".yaml", ".yml")):
            raise UserError(f"{name}: --{key} took '{value[-1]}' as its last value; give the CONFIG before the options")
    return words, given


def _tied(forms: dict[str, dict[str, Any]], arguments: Sequence[str]) -> Iterator[str]:
    """The words with `--flag` as `--flag=true`, and a value that looks like an option tied to its key."""
    words = list(arguments)
    while words:
        word = words.pop(0)
        key, equals, given = word[2:].partition("=")
        if not word.startswith("--") or word == "--":
            yield word
            continue
        own = own_key(key.replace("-", "_"), forms)
        word = word if own == key.replace("-", "_") else f"--{own}{equals}{given}"
        form = forms.get(own)
        if form is None:
            raise unknown_key("command line", key, forms)
        following = words[0] if words else ""
        if not equals and form.get("nargs") == "?":
            word += f"={words.pop(0) if following.lower() in _TRUTHS else 'true'}"
        elif not equals and "nargs" not in form and re.match(r"-\.?\d", following):
            word += f"={words.pop(0)}"  # -1e-4
        yield word


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}")


def _parser(name: str, cls: type) -> argparse.ArgumentParser:
    usage = f"visionsam {_form(name) if name in COMMANDS else name} [--key value ...]"
    parser = _Parser(
        prog=name,
        usage=usage,
        description=inspect.cleandoc(cls.__doc__ or ""),
        add_help=False,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=34, width=120),
    )
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    keys = parser.add_argument_group("keys")
    for key, form in _forms(cls).items():
        keys.add_argument(f"--{key}", dest=key, **form)
        if "_" in key:
            keys.add_argument(f"--{key.replace('_', '-')}", dest=key, **{**form, "help": argparse.SUPPRESS})
    return parser


def _forms(cls: type) -> dict[str, dict[str, Any]]:
    """How each key is written, as `add_argument` wants it."""
    forms = {}
    for field in dataclasses.fields(cls):
        if field.init:
            forms[field.name] = _form_of(field, type_hints(cls)[field.name])
    if "output_dir" in forms:
        text = "write over what another command or other settings made in output_dir (default: False)"
        forms["replace"] = {"help": text, "nargs": "?", "metavar": "true|false"}
    return forms


def _form_of(field: dataclasses.Field, hint: Any) -> dict[str, Any]:
    made, kinds = field.default_factory, alternatives(hint)
    default = field.default if made is dataclasses.MISSING else made()
    shown = "required" if field.metadata.get("required") else f"default: {default}"
    form: dict[str, Any] = {"help": f"{field.metadata.get('help', '')} ({shown})".replace("%", "%%")}
    if list in kinds:
        return {**form, "nargs": "+", "action": "extend", "metavar": "VALUE"}
    if bool in kinds and str not in kinds:
        return {**form, "nargs": "?", "metavar": "true|false"}
    return {**form, "metavar": "|".join(map(str, get_args(hint))) if get_origin(hint) is Literal else "VALUE"}
