"""`visionsam tune DIR`: from a folder of photographs with masks to a report and the best model, in one command.

It writes the recipe that it runs into OUT/recipe: edit it, and repeat with `visionsam pipeline OUT/recipe`.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from datasets_builders.coco import is_coco
from visionsam_hf.cli.candidates import NoPairs
from visionsam_hf.cli.command_line import execute, settings_class
from visionsam_hf.cli.options import TuneSettings
from visionsam_hf.cli.pipeline import run_pipeline, split_change
from visionsam_hf.data.dataset_directory import split_names
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.records import PACKAGED_MODEL
from visionsam_hf.data.settings import build_settings
from visionsam_hf.evaluation.comparison import FEW
from visionsam_hf.evaluation.result_files import dataset_table
from visionsam_hf.inference.prediction import encode_image, predict_at
from visionsam_hf.models.loading import load_model, load_processor, to_best_device
from visionsam_hf.models.pretrained import SMALL_SAMS, how_to_get, pretrained_here

# Steps of eight prompts: a budget for minutes on two cores, not the result of a sweep; the stages keep the better of start
# and end.
_STEPS = {"sft": 150, "dpo": 60}
_BATCH = 8
_RATE = 1e-4
_SPLITS = ("train", "validation", "test")
_MODELS = {"sam": "", "sft": "SFT-SAM", "dpo": "VisionSAM"}
_BASELINES = {"fill_box": "Fill the box", "grabcut": "GrabCut in the box", "ridge": "Ridge filter in the box"}
# Of the estimate: rules of thumb, against one forward of the decoder for eight prompts, which is measured.
_TRAINING_STEP = 3.5  # forward, backward and update
_CANDIDATE = 1.5  # a prompt's masks, at the photograph's size too
_GRABCUT_SECONDS = 0.4
_STAGE_SECONDS = 2.0


def run(settings: TuneSettings) -> None:
    """Write the recipe and run it; with `people` it stops where they have to rank, and the same command goes on."""
    out = Path(settings.output_dir)
    model = settings.model or _model_here()
    recipe = recipe_of(settings, model, out)
    _check(recipe)
    if settings.dry_run:
        _say_plan(recipe, model)
        return
    table = _built(recipe)
    _write_recipe(out / "recipe", recipe)
    stages = [stage["name"] for stage in recipe["pipeline"]["stages"]]
    ranking = stages.index("annotate")
    run_pipeline(out / "recipe", only=stages[:ranking])
    if settings.people and not Path(recipe["annotate"]["store"]).is_file():
        serve = f"visionsam annotate serve --candidates {out / 'candidates'} --store {recipe['annotate']['store']}"
        print(f"Now people rank. Start the page:\n  {serve} --order diverse\nThen repeat this command; it goes on from there.")
        return
    pairs = _splits_of_pairs(out)
    rest, changes, best = stages[ranking + 1 :], {}, "dpo"
    if "train" not in pairs:
        print("tune: every ranking ties, so there is nothing to prefer: no preference stage, and the model is sft's")
        rest, changes, best = [name for name in rest if "dpo" not in name], {"report": _without_preferences(recipe)}, "sft"
    elif "validation" not in pairs:
        print("tune: no pair is left for validation, so nothing guards the preference stage; the report will tell")
        changes = {"dpo": {"eval_split": None}}
    run_pipeline(out / "recipe", only=rest, changes=changes)
    _link(out / "model", out / best)
    few = next((f" (of only {of['objects']} prompts)" for of in table if of["split"] == "test" and of["objects"] < FEW), "")
    guarded = ", no worse on validation than SFT-SAM" if best == "dpo" and "validation" in pairs else ""
    report = out / "report" / "report.html"
    print(f"tune: report {report}{few}, model {out / 'model'} ({_MODELS[best]}{guarded}), recipe {out / 'recipe'}")


def _splits_of_pairs(out: Path) -> list[str]:
    """The splits that have a pair once the rankings are in."""
    try:
        run_pipeline(out / "recipe", only=["annotate"])
    except NoPairs:
        return []
    return split_names(out / "preferences")


def _without_preferences(recipe: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The report's keys without the stage that did not run."""
    label = _MODELS["dpo"]
    apart = {key: {name: of for name, of in recipe["report"][key].items() if name != label} for key in ("systems", "training")}
    return {**apart, "preferences": ""}


def _model_here() -> str:
    """The best small SAM on this machine."""
    found = pretrained_here()
    if found is None:
        print(f"tune: no pretrained SAM is here, so {PACKAGED_MODEL} shows how it goes; better: {how_to_get(SMALL_SAMS[0])}")
    return found or PACKAGED_MODEL


def recipe_of(settings: TuneSettings, model: str, out: Path) -> dict[str, dict[str, Any]]:
    """Name -> content of every YAML of the recipe; `pipeline` lists the stages.

    Raises:
        UserError: a `set` that is no `stage.key=value` of a stage.
    """
    root = Path(settings.data_dir)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give the one with your photographs and masks")
    at = {name: str(out / name) for name in ("data", "embeddings", "embed", *_MODELS, "candidates", "preferences", "report")}
    cached = {"embeddings": at["embeddings"]}
    # The tuned models remember how closely they look; a box that fills its photograph is shown all of it.
    untouched = {"model_name_or_path": model, "dataset": at["data"], "window": "zoom"}
    source = _source(root)
    training = {"per_device_train_batch_size": _BATCH, "lr_scheduler_type": "cosine", "logging_steps": 10}
    judged = {"eval_split": "validation", **cached}
    looks = {"group_similar": True} if source == "masks" else {}
    recipe: dict[str, dict[str, Any]] = {
        "build": {"data_dir": str(root), "output_dir": at["data"], "validation": 0.15, "test": 0.2, **looks}
        | ({} if settings.on_error == "stop" else {"on_error": settings.on_error}),
        "embed": {**untouched, "splits": list(_SPLITS), **cached, "output_dir": at["embed"]},
        "sft": {**untouched, **judged, "output_dir": at["sft"]}
        | {"w_dice": 1.0, "w_iou": 0.1, "mask_output": "both", "box_jitter": 0.05}
        | {"max_steps": _STEPS["sft"], "learning_rate": _RATE, **training},
        "candidates": {"model_name_or_path": at["sft"], "dataset": at["data"], "splits": ["train", "validation"]}
        | {"candidate_source": ["tokens", "thresholds", "box_jitter", "grabcut", "otsu", "shapes"]}
        | {"max_prompts": 300, **cached, "output_dir": at["candidates"]},
        "annotate": {"candidates": at["candidates"], "output_dir": at["preferences"]}
        | ({"store": str(out / "annotations.sqlite")} if settings.people else {}),
        "dpo": {"model_name_or_path": at["sft"], "dataset": at["preferences"], **judged, "output_dir": at["dpo"]}
        | {"loss_type": "sft", "max_steps": _STEPS["dpo"], "learning_rate": _RATE, **training},
        "evaluate": {"model_name_or_path": at["dpo"], "dataset": at["data"], "split": "test", **cached}
        | {"output_dir": str(out / "evaluate" / "dpo")},
    }
    stages: list[dict[str, Any]] = [
        {"name": "build", "run": f"build {source}"},
        *({"name": name, "run": name} for name in ("embed", "sft", "candidates")),
        {"name": "annotate", "run": f"annotate {'export' if settings.people else 'oracle'}"},
        {"name": "dpo", "run": "dpo"},
    ]
    systems = {label or "SAM": name for name, label in _MODELS.items()} | {label: name for name, label in _BASELINES.items()}
    for name in systems.values():
        path = model if name == "sam" else f"baseline:{name}" if name in _BASELINES else at[name]
        changed = {"model_name_or_path": path, "output_dir": str(out / "evaluate" / name)}
        changed |= {"window": untouched["window"]} if name == "sam" else {}
        stages.append({"name": f"evaluate-{name}", "run": "evaluate", "set": changed})
    recipe["report"] = {
        "title": f"{root.resolve().name}: before and after tuning",
        "systems": {label: [str(out / "evaluate" / name)] for label, name in systems.items()},
        "training": {"SFT-SAM": at["sft"], "VisionSAM": at["dpo"]},
        **{name: at[name] for name in ("candidates", "preferences")},
        "dataset": at["data"],
        "output_dir": at["report"],
    }
    recipe["pipeline"] = {"stages": [*stages, {"name": "report", "run": "report"}]}
    _change(recipe, settings.set)
    return recipe


def _source(root: Path) -> str:
    """Which `build` reads the folder: a list or two folders of masks, COCO files, or masks beside their images."""
    if (root / "metadata.jsonl").is_file() or (root / "masks").is_dir():
        return "masks"
    return "coco" if any(is_coco(path) for path in root.rglob("*.json")) else "masks"


def _change(recipe: dict[str, dict[str, Any]], pairs: list[str]) -> None:
    stages = {stage["name"]: stage for stage in recipe["pipeline"]["stages"]}
    for pair in pairs:
        stage, key, value = split_change(pair)
        if stage not in stages:
            raise UserError(f"--set: '{pair}' is not stage.key=value of a stage ({', '.join(stages)})")
        # Into the YAML that the stage alone has, else beside its name.
        values = recipe[stage] if stage in recipe else stages[stage].setdefault("set", {})
        values[key] = yaml.safe_load(value)


def _check(recipe: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise `UserError` for what a stage does not take, before the first hour of work."""
    for stage in recipe["pipeline"]["stages"]:
        build_settings(settings_class(stage["run"]), _values(recipe, stage), source=f"tune, stage {stage['name']}")


def _values(recipe: Mapping[str, Mapping[str, Any]], stage: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's keys as the pipeline puts them together: its command's YAML, then what it sets itself."""
    return {**recipe[stage["run"].split()[0]], **stage.get("set", {})}


def _built(recipe: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the folder holds, a row a split, built aside: bad data are found before anything is written.

    Raises:
        UserError: as `build` does; too few photographs for three splits.
    """
    command = recipe["pipeline"]["stages"][0]["run"]
    with tempfile.TemporaryDirectory() as aside:
        values = {**recipe["build"], "output_dir": f"{aside}/data"}
        execute(command, build_settings(settings_class(command), values, source="tune"))
        table = dataset_table(f"{aside}/data")
    missing = set(_SPLITS) - {of["split"] for of in table if of["objects"]}
    if missing:
        images = sum(of["images"] for of in table)
        raise UserError(
            f"{recipe['build']['data_dir']}: {images} photographs leave no defect for {' and '.join(sorted(missing))}; give ten "
            "or more, or change the shares with --set build.validation=0.3 build.test=0.3"
        )
    return table


def _write_recipe(directory: Path, recipe: Mapping[str, Mapping[str, Any]]) -> None:
    """One YAML a stage; a recipe that somebody edited is not written over."""
    files = {
        directory / f"{name}.yaml": "# Written by visionsam tune; edit it, then: visionsam pipeline "
        f"{directory}\n{yaml.safe_dump(dict(values), sort_keys=False, width=120)}"
        for name, values in recipe.items()
    }
    for path, text in files.items():
        if path.is_file() and path.read_text(encoding="utf-8") != text:
            raise UserError(
                f"{path}: is not what this command would write; run it as it is (visionsam pipeline {directory}), or remove"
                f" {directory}, or give another --output_dir"
            )
    directory.mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")


def _link(link: Path, target: Path) -> None:
    if link.is_symlink() or link.is_file():
        link.unlink()
    elif link.is_dir():
        shutil.rmtree(link)
    try:
        link.symlink_to(os.path.relpath(target, link.parent), target_is_directory=True)
    except OSError:  # Windows asks for a right to link
        shutil.copytree(target, link)


def _say_plan(recipe: Mapping[str, Mapping[str, Any]], model: str) -> None:
    """What would happen, and about how long it takes here."""
    table, (encoding, decoding) = _built(recipe), _rates(model)
    images = sum(of["images"] for of in table)
    objects = {of["split"]: of["objects"] for of in table}
    print(f"tune: would run, with {model}:")
    for stage in recipe["pipeline"]["stages"]:
        print(f"  {stage['name']:<18} {stage['run']:<16} -> {_values(recipe, stage)['output_dir']}")
    # One window a prompt, at most; the photographs themselves where they are shown whole.
    encoded = images if recipe["embed"].get("window") == "whole" else sum(objects.values())
    most = recipe["candidates"]["max_prompts"] or max(objects.values())
    ranked = min(objects["train"], most) + min(objects["validation"], most)
    steps = sum(recipe[name].get("max_steps", _STEPS[name]) for name in _STEPS)
    seconds = (
        encoded * encoding
        + (steps * _TRAINING_STEP + 4 * objects["validation"] / _BATCH) * decoding
        + ranked * (_CANDIDATE * decoding + _GRABCUT_SECONDS)
        + objects["test"] * (len(_MODELS) * decoding / 2 + _GRABCUT_SECONDS)
        + _STAGE_SECONDS * len(recipe["pipeline"]["stages"])
    )
    print(f"tune: about {max(1, round(seconds / 60))} minutes here ({seconds:.0f} s), unless done before")


def _rates(model: str) -> tuple[float, float]:
    """Seconds to encode an image, and for one forward of the decoder with eight prompts, measured warm."""
    sam, processor = to_best_device(load_model(model)), load_processor(model)
    photograph = Image.fromarray(np.zeros((512, 512, 3), np.uint8))
    boxes, points = np.tile([[100.0, 100.0, 300.0, 300.0]], (_BATCH, 1)), np.zeros((_BATCH, 2, 2))
    took: list[tuple[float, float]] = []
    for _ in range(10):  # the least of them: other work on the machine only adds
        started = time.perf_counter()
        embedding = encode_image(sam, processor, photograph)
        encoded = time.perf_counter()
        predict_at(sam, embedding, boxes.astype(np.float32), points.astype(np.float32), (512, 512), "box")
        took.append((encoded - started, time.perf_counter() - encoded))
    return min(one for one, _ in took), min(other for _, other in took)
