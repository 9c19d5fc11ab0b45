"""`visionsam pipeline RECIPE_DIR`: a recipe's stages in order, skipping what is done.

A recipe is a folder with one YAML a stage and a `pipeline.yaml`:

```yaml
stages:
  - name: sft                 # for --only and --set
    run: sft                  # the command
    config: sft.yaml          # in the recipe's folder; the default is <run>.yaml
    set: {seed: 3}            # overrides, on top of the YAML
  - rounds: 3                 # generate, annotate, optimise, again and again: visionsam_hf/cli/pipeline.py
    stages: [...]
```
"""

import importlib.metadata
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from visionsam_hf.cli.command_line import COMMANDS, execute, settings_class
from visionsam_hf.cli.options import PipelineSettings
from visionsam_hf.cli.stage import is_done, is_main_process, remove_leftovers
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.records import RECORD
from visionsam_hf.data.settings import build_settings, read_yaml

# What a round writes: each of its directories, and the store that its rankings are collected in.
_WRITTEN = ("output_dir", "store")
_MODEL = "model_name_or_path"


def numbered(place: str, number: int) -> str:
    """`outputs/x/dpo` to `outputs/x/dpo-2`; a file keeps its ending, a database URL takes the number at its end."""
    suffix = "" if "://" in place else PurePosixPath(place).suffix
    return f"{place.removesuffix(suffix)}-{number}{suffix}"


def write_out(
    stages: Sequence[Mapping[str, Any]], values: Sequence[Mapping[str, Any]], rounds: int
) -> list[dict[str, Any]]:
    """The stages of every round in order, each with the settings that differ from round to round.

    Args:
        stages: of one round, as `pipeline.yaml` has them; the last one makes the model.
        values: every stage's settings as its YAML and `set` give them.
        rounds: how many.

    Returns:
        Stages whose `name` ends in the round's number, whose `set` holds the round's paths, and whose `round_of` is the
        name that they share.
    """
    written = {of_stage[key] for of_stage in values for key in _WRITTEN if of_stage.get(key)}
    model = values[-1].get("output_dir")
    result = []
    for number in range(1, rounds + 1):
        for stage, of_stage in zip(stages, values):
            changed = {key: _in_round(value, written, number) for key, value in of_stage.items()}
            if number > 1 and _MODEL in of_stage and model:
                changed[_MODEL] = numbered(model, number - 1)
            differing = {key: value for key, value in changed.items() if value != of_stage[key]}
            result.append(
                {
                    **stage,
                    "name": f"{stage['name']}-{number}",
                    "round_of": stage["name"],
                    "set": {**(stage.get("set") or {}), **differing},
                }
            )
    return result


def _in_round(value: Any, written: set[str], number: int) -> Any:
    if isinstance(value, str):
        return numbered(value, number) if value in written else value
    if isinstance(value, list):
        return [_in_round(item, written, number) for item in value]
    if isinstance(value, dict):
        return {key: _in_round(item, written, number) for key, item in value.items()}
    return value


def find_quickstart() -> Path:
    """The recipe in the clone, or where `pip` put it (setup.cfg's data_files).

    Raises:
        UserError: it is in neither.
    """
    in_clone = Path(__file__).resolve().parents[2] / "recipes" / "quickstart"
    if in_clone.is_dir():
        return in_clone
    for file in importlib.metadata.files("visionsam_hf") or ():
        if file.match("recipes/quickstart/pipeline.yaml"):
            return Path(str(file.locate())).resolve().parent
    raise UserError(f"{in_clone}: not there; install the package again, or run quickstart from a clone of the repository")


def run(settings: PipelineSettings) -> None:
    """`visionsam pipeline RECIPE_DIR`."""
    changes: dict[str, dict[str, str]] = {}
    for pair in settings.set:
        stage, key, value = split_change(pair)
        changes.setdefault(stage, {})[key] = value
    run_pipeline(settings.recipe, only=settings.only, changes=changes)


def split_change(pair: str) -> tuple[str, str, str]:
    """`stage.key=value` of `--set`, in its three parts. Raises `UserError` for anything else."""
    place, equals, value = pair.partition("=")
    stage, dot, key = place.partition(".")
    if not (equals and dot and key):
        raise UserError(f"--set: '{pair}' is not stage.key=value")
    return stage, key, value


def run_quickstart(settings: PipelineSettings) -> None:
    """`visionsam quickstart`."""
    run(replace(settings, recipe=str(find_quickstart())))


def run_pipeline(
    recipe: str | Path, *, only: Sequence[str] = (), changes: Mapping[str, Mapping[str, Any]] | None = None
) -> None:
    """Run a recipe folder.

    Args:
        recipe: the folder.
        only: names of the stages to run; the others are left alone. A stage in rounds is named with its round's
            number, or without for all rounds.
        changes: stage name -> key -> value, or the words of one, on top of the recipe's own settings.

    Raises:
        UserError: before any stage runs, when any stage's settings are wrong.
    """
    recipe, changes = Path(recipe), changes or {}
    stages = read_stages(recipe)
    names = [stage["name"] for stage in stages]
    for name in [*only, *changes]:
        if not any(name in _called(stage) for stage in stages):
            raise UserError(f"{recipe}: has no stage '{name}'; it has {', '.join(names)}")
    chosen = [stage for stage in stages if not only or not set(only).isdisjoint(_called(stage))]
    # Every stage's settings are checked before the first hour of work.
    settings = []
    for stage in chosen:
        changed = {key: value for name in _called(stage) for key, value in changes.get(name, {}).items()}
        settings.append(stage_settings(recipe, stage, changed))
    _check_apart(recipe, chosen, settings)
    for place, (stage, values) in enumerate(zip(chosen, settings), 1):
        title = f"[{place}/{len(chosen)}] {stage['name']}"
        if is_done(stage["run"].split()[0], values):
            if is_main_process():
                remove_leftovers(values)
            _say(f"{title}: done before, skipped ({values.output_dir})")
            continue
        _say(f"{title}: {stage['run']} -> {values.output_dir}")
        started = time.perf_counter()
        execute(stage["run"], values)
        _say(f"{title}: {time.perf_counter() - started:.1f} s")
    _say_cost(chosen, settings)
    last = Path(settings[-1].output_dir) / "report.html"
    if last.is_file():
        _say(f"report: {last.resolve()}")


def read_stages(recipe: Path) -> list[dict[str, Any]]:
    """The stages of a recipe's `pipeline.yaml`, checked, with rounds written out."""
    path = recipe / "pipeline.yaml"
    stages = read_yaml(path).get("stages")
    if not isinstance(stages, list) or not stages:
        raise UserError(f"{path}: has no list 'stages'; add one, see recipes/quickstart/pipeline.yaml")
    found: list[dict[str, Any]] = []
    for stage in stages:
        if isinstance(stage, dict) and "rounds" in stage:
            found += _read_rounds(recipe, path, stage)
        else:
            found += _checked(path, [stage])
    names: set[str] = set()
    for stage in found:
        if stage["name"] in names:
            raise UserError(f"{path}: two stages are called '{stage['name']}'; rename one")
        names.add(stage["name"])
    return found


def _read_rounds(recipe: Path, path: Path, group: dict[str, Any]) -> list[dict[str, Any]]:
    rounds, stages = group["rounds"], group.get("stages")
    if set(group) - {"rounds", "stages"} or not isinstance(stages, list) or not stages:
        raise UserError(f"{path}: 'rounds' stands beside one list 'stages' and nothing else; mend it")
    if not isinstance(rounds, int) or isinstance(rounds, bool) or rounds < 1:
        raise UserError(f"{path}: 'rounds' is {rounds!r}; give a number from 1")
    stages = _checked(path, stages)
    return write_out(stages, [_yaml_values(recipe, stage)[1] for stage in stages], rounds)


def _checked(path: Path, stages: list[Any]) -> list[dict[str, Any]]:
    for stage in stages:
        if (
            not isinstance(stage, dict)
            or not isinstance(stage.get("name"), str)
            or not isinstance(stage.get("run"), str)
        ):
            raise UserError(f"{path}: every stage needs 'name' and 'run'; mend {stage!r}")
        unknown = set(stage) - {"name", "run", "config", "set"}
        if unknown:
            raise UserError(
                f"{path}: stage '{stage['name']}' has the unknown key '{sorted(unknown)[0]}'; use name, run, config, set"
            )
    return stages


def _called(stage: dict[str, Any]) -> tuple[str, ...]:
    """The names by which a stage can be meant, the one that wins last."""
    return (stage["round_of"], stage["name"]) if "round_of" in stage else (stage["name"],)


def _check_apart(recipe: Path, stages: Sequence[dict[str, Any]], settings: Sequence[Any]) -> None:
    """Two stages that write one directory would undo each other, at every run again."""
    writers: dict[str, str] = {}
    for stage, values in zip(stages, settings):
        other = writers.setdefault(str(Path(values.output_dir)), stage["name"])
        if other != stage["name"]:
            raise UserError(
                f"{recipe}: '{other}' and '{stage['name']}' both write {values.output_dir}; give one another output_dir"
            )


def _say_cost(stages: Sequence[dict[str, Any]], settings: Sequence[Any]) -> None:
    """What the annotation of all rounds cost together."""
    costs = []
    for stage, values in zip(stages, settings):
        record = Path(values.output_dir) / RECORD
        if stage["run"].startswith("annotate ") and record.is_file():
            cost = json.loads(record.read_text(encoding="utf-8"))["results"].get("label_cost")
            costs += [cost["rankings"]] if cost else []
    if costs:
        apart = f" ({' + '.join(map(str, costs))})" if len(costs) > 1 else ""
        _say(f"labelling: {sum(costs)} rankings{apart}")


def stage_settings(recipe: Path, stage: dict[str, Any], changes: dict[str, Any]) -> Any:
    """The settings dataclass of one stage: its YAML, the recipe's `set`, then the command line's changes."""
    command = stage["run"]
    if command not in COMMANDS or not hasattr(COMMANDS[command].settings, "output_dir"):
        raise UserError(f"{recipe / 'pipeline.yaml'}: stage '{stage['name']}' runs '{command}', which is no command")
    path, values = _yaml_values(recipe, stage)
    return build_settings(settings_class(command), values, changes, source=path)


def _yaml_values(recipe: Path, stage: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    path = recipe / stage.get("config", f"{stage['run'].split()[0]}.yaml")
    return path, {**read_yaml(path), **(stage.get("set") or {})}


def _say(line: str) -> None:
    if is_main_process():
        print(line, file=sys.stdout, flush=True)
