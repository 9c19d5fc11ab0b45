"""Rounds of a recipe: generate, annotate and optimise again and again, each from the last round's model.

```yaml
stages:
  - {name: sft, run: sft}
  - rounds: 3
    stages:
      - {name: candidates, run: candidates}     # reads sft's model in round 1, then dpo-1's, dpo-2's
      - {name: annotate, run: annotate oracle}
      - {name: dpo, run: dpo}                   # the last stage makes the round's model
```

Written out, these are the stages `candidates-1`, `annotate-1`, `dpo-1`, `candidates-2`, ...; their directories carry
the round's number, and so does an annotation store, so that each round's rankings and what they cost stay apart. Later
stages name the round they want: `model_name_or_path: outputs/quickstart/dpo-3`.
"""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

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
