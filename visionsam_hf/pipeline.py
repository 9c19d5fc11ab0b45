"""`visionsam pipeline RECIPE_DIR`: a recipe's stages in order, skipping what is done.

A recipe is a folder with one YAML a stage and a `pipeline.yaml`:

```yaml
stages:
  - name: sft                 # for --only and --set
    run: sft                  # the command
    config: sft.yaml          # in the recipe's folder; the default is <run>.yaml
    set: {seed: 3}            # overrides, on top of the YAML
  - name: ...
```
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from visionsam_hf import cli
from visionsam_hf.config import build_settings, read_yaml
from visionsam_hf.errors import UserError
from visionsam_hf.stage import is_done, is_main_process

QUICKSTART = Path(__file__).resolve().parent.parent / "recipes" / "quickstart"


def main(command: str, arguments: Sequence[str]) -> int:
    """`visionsam pipeline` and `visionsam quickstart`; returns the exit code."""
    if any(word in ("-h", "--help") for word in arguments):
        print(f"usage: visionsam {command}{' RECIPE_DIR' if command == 'pipeline' else ''} "
              "[--only STAGE ...] [--set stage.key=value ...]\n\n" + (__doc__ or "").strip())
        return 0
    words, only, changes = _parse(arguments)
    if command == "quickstart":
        if not QUICKSTART.is_dir():
            raise UserError(f"{QUICKSTART}: not there; run quickstart from a clone of the repository")
        words = [str(QUICKSTART)]
    if len(words) != 1:
        raise UserError("pipeline: give one RECIPE_DIR, e.g. recipes/quickstart")
    run_pipeline(words[0], only=only, changes=changes)
    return 0


def run_pipeline(recipe: str | Path, *, only: Sequence[str] = (), changes: dict[str, dict[str, str]] | None = None) -> None:
    """Run a recipe folder.

    Args:
        recipe: the folder.
        only: names of the stages to run; the others are left alone.
        changes: stage name -> key -> raw value, on top of the recipe's own settings.

    Raises:
        UserError: before any stage runs, when any stage's settings are wrong.
    """
    recipe, changes = Path(recipe), changes or {}
    stages = read_stages(recipe)
    names = [stage["name"] for stage in stages]
    for name in [*only, *changes]:
        if name not in names:
            raise UserError(f"{recipe}: has no stage '{name}'; it has {', '.join(names)}")
    chosen = [stage for stage in stages if not only or stage["name"] in only]
    # Every stage's settings are checked before the first hour of work.
    settings = [stage_settings(recipe, stage, changes.get(stage["name"], {})) for stage in chosen]
    for place, (stage, values) in enumerate(zip(chosen, settings), 1):
        title = f"[{place}/{len(chosen)}] {stage['name']}"
        if is_done(stage["run"].split()[0], values):
            _say(f"{title}: done before, skipped ({values.output_dir})")
            continue
        _say(f"{title}: {stage['run']} -> {values.output_dir}")
        started = time.perf_counter()
        cli.execute(stage["run"], values)
        _say(f"{title}: {time.perf_counter() - started:.1f} s")
    last = Path(settings[-1].output_dir) / "report.html"
    if last.is_file():
        _say(f"report: {last.resolve()}")


def read_stages(recipe: Path) -> list[dict[str, Any]]:
    """The stages of a recipe's `pipeline.yaml`, checked."""
    path = recipe / "pipeline.yaml"
    stages = read_yaml(path).get("stages")
    if not isinstance(stages, list) or not stages:
        raise UserError(f"{path}: has no list 'stages'; add one, see recipes/quickstart/pipeline.yaml")
    names = set()
    for stage in stages:
        if not isinstance(stage, dict) or not isinstance(stage.get("name"), str) or not isinstance(stage.get("run"), str):
            raise UserError(f"{path}: every stage needs 'name' and 'run'; mend {stage!r}")
        unknown = set(stage) - {"name", "run", "config", "set"}
        if unknown:
            raise UserError(f"{path}: stage '{stage['name']}' has the unknown key '{sorted(unknown)[0]}'; use name, run, config, set")
        if stage["name"] in names:
            raise UserError(f"{path}: two stages are called '{stage['name']}'; rename one")
        names.add(stage["name"])
    return stages


def stage_settings(recipe: Path, stage: dict[str, Any], changes: dict[str, str]) -> Any:
    """The settings dataclass of one stage: its YAML, the recipe's `set`, then the command line's changes."""
    command = stage["run"]
    word, _, verb = command.partition(" ")
    if (word in ("build", "annotate") and verb not in cli.verbs(word)) or (not verb and word not in cli.STAGES):
        raise UserError(f"{recipe / 'pipeline.yaml'}: stage '{stage['name']}' runs '{command}', which is no command")
    path = recipe / stage.get("config", f"{word}.yaml")
    values = {**read_yaml(path), **(stage.get("set") or {})}
    return build_settings(cli.settings_class(command), values, changes, source=path)


def _parse(arguments: Sequence[str]) -> tuple[list[str], list[str], dict[str, dict[str, str]]]:
    words, only, changes = [], [], {}
    taking: list[str] | None = None
    pairs: list[str] = []
    for word in arguments:
        if word == "--only":
            taking = only
        elif word == "--set":
            taking = pairs
        elif word.startswith("--"):
            raise UserError(f"pipeline: unknown option '{word}'; use --only STAGE ... or --set stage.key=value ...")
        elif taking is None:
            words.append(word)
        else:
            taking.append(word)
    for pair in pairs:
        place, equals, value = pair.partition("=")
        stage, dot, key = place.partition(".")
        if not (equals and dot and key):
            raise UserError(f"--set: '{pair}' is not stage.key=value")
        changes.setdefault(stage, {})[key] = value
    return words, only, changes


def _say(line: str) -> None:
    if is_main_process():
        print(line, file=sys.stdout, flush=True)
