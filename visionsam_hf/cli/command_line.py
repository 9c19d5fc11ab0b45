"""`visionsam`: parse, dispatch, and turn the user's mistakes into one line and exit code 2.

Nothing here or in a stage module's top level imports torch: `--help` answers at once.
"""

import dataclasses
import importlib
import os
import signal
import sys
import textwrap
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from visionsam_hf.data.errors import Interrupted, UserError
from visionsam_hf.data.settings import build_settings, read_yaml

USAGE = """\
usage: visionsam COMMAND ...

  quickstart                        the whole of recipes/quickstart into outputs/quickstart
  pipeline RECIPE_DIR               a recipe's stages in order, skipping what is done
                                    [--only STAGE ...] [--set stage.key=value ...]
  build SOURCE CONFIG               write a data set; SOURCE: {sources}
  embed CONFIG                      encode a data set's images once
  sft CONFIG                        supervised fine-tuning of SAM on masks
  candidates CONFIG                 three masks a prompt from a model, to be ranked
  annotate VERB                     rank candidates; VERB: {verbs}
  dpo CONFIG                        preference optimisation on ranked masks
  evaluate CONFIG                   IoU, Dice, boundaries and calibration of a model
  evidence CONFIG                   objectives x seeds x folds, with intervals, tables and figures
  report CONFIG                     report.html and report.json from result files
  curate CONFIG                     pick images that show the anomaly clearly
  inspect DIR                       counts, sizes and a picture page of a data set
  push DIR REPO_ID                  publish a model, an adapter or a data set on the Hub; private unless --public
                                    [--dry_run] [--private | --public] [--revision TAG]
  merge ADAPTER --output_dir D      a LoRA adapter and its base as one plain model
  export MODEL --output_dir D       ONNX files of the encoder and the decoder, checked against the model
  predict --model M --image I (--box X1 Y1 X2 Y2 | --point X Y | --prompts FILE | --no-box) --output DIR

CONFIG is a YAML file; every key can be given as `--key value` too. `visionsam COMMAND --help` lists a command's keys.
Exit codes: 0 done, 2 your input needs mending (one line says what), 130 or 143 stopped by Ctrl-C or SIGTERM (the same
command goes on), anything else is our bug."""

# Command -> module of this room, and one line of help.
STAGES = {
    "embed": "embed",
    "sft": "sft",
    "candidates": "candidates",
    "dpo": "dpo",
    "evaluate": "evaluate",
    "evidence": "evidence",
    "report": "report",
    "predict": "predict",
    "curate": "curate",
    "inspect": "inspect",
    "push": "push",
    "merge": "merge",
    "export": "export",
}

# Commands whose words are settings, not a CONFIG.
_WORDS = {
    "annotate users": ("action", "name"),
    "inspect": ("dataset",),
    "push": ("directory", "repo_id"),
    "merge": ("adapter",),
    "export": ("model",),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not sys.stderr.isatty():
        # A log file gets a line of progress now and then, not ten a second. Read by tqdm when it is imported.
        os.environ.setdefault("TQDM_MININTERVAL", "30")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _let_cpu_processes_meet()
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


def _let_cpu_processes_meet() -> None:
    """Without a GPU, accelerate takes each launched process for the only one, unless it is told that CPUs are meant."""
    import torch
    from accelerate import PartialState

    if not torch.cuda.is_available():
        os.environ["ACCELERATE_USE_CPU"] = "true"
        PartialState(cpu=True)  # shared: whoever asks for the state later gets this one


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
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(version("visionsam_hf"))
        return 0
    command, rest = arguments[0], arguments[1:]
    if command in ("pipeline", "quickstart"):
        from visionsam_hf.cli import pipeline

        return pipeline.main(command, rest)
    if command in ("build", "annotate"):
        return _dispatch_verb(command, rest)
    if command not in STAGES:
        raise UserError(
            f"no command '{command}'; {_nearest(command, [*STAGES, 'build', 'annotate', 'pipeline', 'quickstart'])}"
        )
    module = _stage_module(STAGES[command])
    if _wants_help(rest):
        print(_help(f"visionsam {command} CONFIG [--key value ...]", module.__doc__, help_classes(module)))
        return 0
    run_stage(command, rest)
    return 0


def _dispatch_verb(command: str, rest: list[str]) -> int:
    """`build SOURCE ...` and `annotate VERB ...`: the second word chooses the settings."""
    classes = verbs(command)
    word = "SOURCE" if command == "build" else "VERB"
    if not rest or rest[0] in ("-h", "--help"):
        print(f"usage: visionsam {command} {word} [CONFIG] [--key value ...]\n\n{word}: {', '.join(classes)}")
        return 0 if rest else 2
    if rest[0] not in classes:
        raise UserError(f"{command}: no {word.lower()} '{rest[0]}'; {_nearest(rest[0], list(classes))}")
    if _wants_help(rest):
        usage = f"visionsam {command} {rest[0]} [CONFIG] [--key value ...]"
        print(_help(usage, classes[rest[0]].__doc__, (classes[rest[0]],)))
        return 0
    run_stage(f"{command} {rest[0]}", rest[1:])
    return 0


def verbs(command: str) -> dict[str, type]:
    """The second words of `build` or `annotate`, and the settings dataclass of each."""
    module = _stage_module(command)
    if command == "build":
        return dict(module.SETTINGS)
    return {verb: settings for verb, (settings, _) in module.VERBS.items()}


def run_stage(command: str, arguments: Sequence[str]) -> None:
    """Parse a stage's `[CONFIG] [--key value ...]` and run it."""
    execute(command, parse_stage(command, arguments))


def parse_stage(command: str, arguments: Sequence[str], overrides: dict[str, Any] | None = None) -> Any:
    """The settings of `command` ("sft", "build masks", ...) from its arguments; `overrides` win over the YAML."""
    positional, options = split_arguments(arguments)
    cls = settings_class(command)
    names = [field.name for field in dataclasses.fields(cls)]
    extra: dict[str, Any] = {}
    for key in _WORDS.get(command, ()):
        if positional:
            extra[key] = positional.pop(0)
    if len(positional) > 1:
        raise UserError(f"{command}: one CONFIG at a time, not {' '.join(positional)}; override keys with --key value")
    values = read_yaml(positional[0]) if positional else {}
    options = {key if key in names else key.replace("-", "_"): value for key, value in options.items()}
    return build_settings(
        cls, values, {**extra, **(overrides or {}), **options}, source=positional[0] if positional else command
    )


def settings_class(command: str) -> type:
    """The settings dataclass of a command; that of a training stage needs torch."""
    name, _, verb = command.partition(" ")
    if verb:
        return verbs(name)[verb]
    module = _stage_module(STAGES[name])
    if hasattr(module, "settings_class"):
        return module.settings_class()
    return help_classes(module)[0]


def execute(command: str, settings: Any) -> None:
    """Run a stage with its settings."""
    name, _, verb = command.partition(" ")
    module = _stage_module(name if verb else STAGES[name])
    if name == "build":
        module.run(verb, settings)
    elif name == "annotate":
        module.VERBS[verb][1](settings)
    else:
        module.run(settings)


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Positional words, and options: `--key value`, `--key=value`, `--key a b c` (a list) or a bare `--key` (true)."""
    positional: list[str] = []
    options: dict[str, Any] = {}
    words = list(arguments)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            positional.append(word)
            continue
        key, equals, value = word[2:].partition("=")
        if not key:
            raise UserError("command line: '--' names no key; write --key value")
        taken: list[str] = [value] if equals else []
        while not equals and words and not words[0].startswith("--"):
            taken.append(words.pop(0))
        options[key] = True if not taken else taken[0] if len(taken) == 1 else taken
    return positional, options


def help_classes(module: Any) -> tuple[type, ...]:
    """The dataclasses whose fields `--help` lists."""
    if hasattr(module, "HELP"):
        return module.HELP
    for name, value in vars(module).items():
        # Its own, not one that it inherits from.
        if name.endswith("Settings") and isinstance(value, type) and value.__module__ == module.__name__:
            return (value,)
    raise TypeError(f"{module.__name__} has no dataclass of settings")


def _stage_module(name: str) -> Any:
    return importlib.import_module(f"visionsam_hf.cli.{name}")


def _wants_help(arguments: Sequence[str]) -> bool:
    return any(word in ("-h", "--help") for word in arguments)


def _nearest(word: str, choices: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(word, choices, n=1)
    return f"did you mean '{near[0]}'?" if near else f"choose {', '.join(choices)}"


def _usage() -> str:
    return USAGE.format(sources=" | ".join(verbs("build")), verbs=" | ".join(verbs("annotate")))


def _help(usage: str, summary: str | None, classes: Sequence[type]) -> str:
    lines = [f"usage: {usage}", "", (summary or "").strip().splitlines()[0].replace("`", ""), ""]
    seen = set()
    for cls in classes:
        for field in dataclasses.fields(cls):
            if field.name in seen:
                continue
            seen.add(field.name)
            made = field.default_factory
            default = field.default if made is dataclasses.MISSING else made()
            shown = "required" if field.metadata.get("required") else f"default: {default}"
            text = f"{field.metadata.get('help', '')} ({shown})"
            lines.append(textwrap.fill(text, 118, initial_indent=f"  --{field.name:<28} ", subsequent_indent=" " * 33))
    if any(cls.__name__ in ("SFTSettings", "DPOSettings") for cls in classes):
        lines += ["", "Every field of transformers.TrainingArguments can be set too, e.g. max_steps, num_train_epochs,",
                  "gradient_accumulation_steps, lr_scheduler_type, warmup_steps, bf16, save_steps, push_to_hub."]
    return "\n".join(lines)
