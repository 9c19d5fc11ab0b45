"""The card of a model: written with its figure beside what a stage trained, and completed when it is pushed."""

import copy
import importlib.metadata
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from visionsam_hf.data.data_card import markdown_table
from visionsam_hf.data.dataset_directory import load_split
from visionsam_hf.data.records import read_record
from visionsam_hf.data.windows import WindowRule
from visionsam_hf.hub.card_figures import Example, choose_examples, draw_examples, draw_training, with_prediction
from visionsam_hf.hub.provenance import (
    Part,
    allows_pictures,
    base_on_hub,
    card_path,
    combine,
    is_non_commercial,
    parts_of_record,
)
from visionsam_hf.hub.results import Result, eval_results, results_table
from visionsam_hf.models.auto_classes import needs_code
from visionsam_hf.models.loading import load_model, load_processor, to_best_device
from visionsam_hf.training.hyperparameters import DistilSettings, DPOSettings, SFTSettings

PLACEHOLDER = "path/to/this/directory"
_BASE_PLACEHOLDER = "path/to/the/base/model"
FIGURE = "examples.png"
TRAINED = ("sft", "dpo", "distil", "merge")  # the stages that make models
_EXAMPLES = 3
_KINDS = {"sft": "segmentation", "dpo": "preference"}  # of the data that they learn from
_RESULTS = re.compile(r"<!-- results -->\n.*?\n<!-- end of results -->", re.S)
_TITLES = {
    "sft": "SAM fine-tuned to segment defects",
    "dpo": "SAM tuned on ranked masks of defects",
    "distil": "Small SAM, distilled from a larger one",
    "merge": "SAM tuned to segment defects, merged from an adapter",
}
_SUMMARIES = {
    "sft": "A Segment Anything model that was fine-tuned on masks of industrial defects, so that a box or a point"
    " gives the defect and not the object that it is on. The results below say how far that goes.",
    "dpo": "A Segment Anything model that learnt from ranked masks: for each prompt, annotators said which of its"
    " candidate masks was best and which worst, and preference optimisation moved it towards the better ones. The"
    " results below say how far that goes.",
    "distil": "A small Segment Anything model. Its encoder learnt to give the embeddings of the larger one named below, from"
    " images without labels; its prompt encoder and mask decoder are that model's.",
    "merge": "A Segment Anything model with a LoRA adapter for industrial defects added to its weights.",
}
# Above the lines that load a model with its own code.
_CODE_NOTE = """\
# trust_remote_code runs the Python files beside the weights: read them first. LiteMedSAM's need opencv-python-headless.
# Where visionsam_hf is installed, visionsam_hf.load_model("{name}"{pin}) runs none of them.
"""
_WINDOW_NOTE = """

For a prompt it was tuned to be shown {shown}, not the whole photograph. `visionsam_hf` cuts that out by itself; in code of
your own, crop the photograph round the prompt first, move the prompt along, and paste the mask."""
_LIMITS = """\
- It segments what a prompt points at. It does not find defects by itself, and does not say whether there is one.
- It was tuned on the data named above. On other products, lighting and kinds of defects, measure before you trust it.
- Defects thinner than one cell of its mask grid (a quarter of a patch of the encoder) are blurred or lost.
- The predicted scores are estimates of IoU; see the calibration in the evaluation before using one as a threshold."""
_CITATION = """\
The method follows *Towards Smarter Segmentation: Improving SAM's Anomaly Understanding with RLHF*; the model is by
Kirillov et al., *Segment Anything*, ICCV 2023. Made with visionsam_hf."""
# Settings of transformers.TrainingArguments that a reader needs to repeat the training.
_ARGUMENTS = (
    "num_train_epochs", "max_steps", "gradient_accumulation_steps", "lr_scheduler_type", "warmup_steps",
    "max_grad_norm", "optim", "bf16", "fp16", "train_split", "eval_split", "max_train_images",
)  # fmt: skip
_VERSIONS = ("visionsam_hf", "torch", "transformers", "datasets", "accelerate", "peft")
_OWN_SETTINGS = {"sft": SFTSettings, "dpo": DPOSettings, "distil": DistilSettings}
_NOT_SHOWN = {
    "embeddings", "report_to", "logging_steps", "save_strategy", "remove_unused_columns", "dataloader_pin_memory",
}  # fmt: skip


def usage(kind: str, name: str, *, revision: str = "", base: str = "", needs_code: bool = False) -> str:
    """A few lines of Python that load what was pushed, and for a model segment with it.

    Args:
        kind: "model", "adapter", "finder", "segmentation", "candidates" or "preference".
        name: Hub id or directory.
        revision: a tag, or "".
        base: of an adapter, the model it belongs to.
        needs_code: whether its code lies beside the weights, as a MobileSAM's does.
    """
    auto = "Auto" if needs_code else "Sam"
    trust = ", trust_remote_code=True" if needs_code else ""
    pin = f', revision="{revision}"' if revision else ""
    note = _CODE_NOTE.format(name=name, pin=pin) if needs_code else ""
    if kind == "finder":
        return f"""\
hf download {name} --local-dir finder{f" --revision {revision}" if revision else ""}
visionsam predict --model MODEL --finder finder --image PHOTOS --output OUT"""
    if kind == "adapter":
        return f"""\
from peft import PeftModel
from transformers import {auto}Model, {auto}Processor

{note}processor = {auto}Processor.from_pretrained("{name}"{pin}{trust})
model = PeftModel.from_pretrained({auto}Model.from_pretrained("{base}"{trust}), "{name}"{pin})"""
    if kind == "model":
        return f"""\
from transformers import {auto}Model, {auto}Processor

{note}model, processor = (part.from_pretrained("{name}"{pin}{trust}) for part in ({auto}Model, {auto}Processor))
inputs = processor(image, input_boxes=[[[x1, y1, x2, y2]]], return_tensors="pt")
outputs = model(**inputs, multimask_output=False)
masks = processor.post_process_masks(outputs.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"])"""
    shown = {"segmentation": "mask", "candidates": "candidates", "preference": "chosen"}[kind]
    return f"""\
from datasets import load_dataset

data = load_dataset("{name}"{pin})
row = next(iter(data.values()))[0]
image, box_or_mask = row["image"], row["{shown}"]"""


def model_card(
    record: dict[str, Any], *, figure: str = "", is_adapter: bool = False, needs_code: bool = False
) -> ModelCard:
    """The card of a trained model or adapter, without results.

    Args:
        record: "stage" (sft, dpo, distil or merge), "settings" and "results", as in its `stage.json`.
        figure: Markdown that shows its figure, or "".
        is_adapter: whether it is loaded onto a base model.
        needs_code: as in `usage`.
    """
    stage, parts = record["stage"], parts_of_record(record)
    license = combine(part.license for part in parts)
    kind = "adapter" if is_adapter else "model"
    links = _links(record)
    if "base_model" in links:
        links["base_model_relation"] = "adapter" if is_adapter else "finetune"
    data = ModelCardData(
        license=license,
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="mask-generation",
        model_name=_TITLES[stage],
        metrics=["mean_iou", "dice"],
        tags=["sam", "segment-anything", "defect-segmentation", "industrial-inspection", "visionsam", stage],
        **links,
    )
    use = f"```python\n{usage(kind, PLACEHOLDER, base=_BASE_PLACEHOLDER, needs_code=needs_code)}\n```"
    shown = record["results"].get("window", str(WindowRule()))
    if shown != str(WindowRule()):
        use += _WINDOW_NOTE.format(shown=shown)
    sections = {
        "How to use it": use,
        "What it is for, and what not": _purpose(license),
        "Results": f"<!-- results -->\n{results_table([])}\n<!-- end of results -->",
        "Examples": figure,
        "What it was made from": _parts_table(parts, license),
        "How it was trained": _training(record),
        "Limits": _LIMITS,
        "Citation": _CITATION,
    }
    body = [f"# {_TITLES[stage]}", _SUMMARIES[stage]]
    body += [f"## {heading}\n{text}" for heading, text in sections.items() if text]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(body) + "\n")


def _links(record: dict[str, Any]) -> dict[str, Any]:
    """What of the front matter depends on where the parts are published by now."""
    datasets = [part.hub_id for part in parts_of_record(record) if part.repo_type == "dataset" and part.hub_id]
    links = {"base_model": base_on_hub(record), "datasets": datasets}
    return {key: value for key, value in links.items() if value}


def complete_model_card(
    card: ModelCard,
    record: dict[str, Any] | None,
    results: Sequence[Result],
    *,
    name: str,
    license: str,
    base: str = "",
) -> ModelCard:
    """A card as it is pushed: with its licence, links to what it was made from, results, and the name to load it by.

    Args:
        card: the card beside the model, perhaps edited by hand: what people wrote stays.
        record: the model's `stage.json`, or None for a model that no stage made.
        results: of `find_results`.
        name: the Hub id.
        license: the settled one.
        base: the base model's Hub id, where the user states it.
    """
    card = copy.deepcopy(card)
    data = card.data
    data.license = license
    if license == "other":
        data.license_name = data.license_name or "terms-of-its-parts"
    links = (_links(record) if record else {}) | ({"base_model": base} if base else {})
    if "base_model" in links and "base_model_relation" not in data:
        links["base_model_relation"] = "adapter" if data.library_name == "peft" else "finetune"
    for key, value in links.items():
        data[key] = value
    if entries := eval_results(results):
        data.model_name, data.eval_results = name.rpartition("/")[2], entries
    if results:
        table = f"<!-- results -->\n{results_table(results)}\n<!-- end of results -->"
        card.text = _RESULTS.sub(lambda _: table, card.text, count=1)
    card.text = card.text.replace(PLACEHOLDER, name).replace(_BASE_PLACEHOLDER, base or _BASE_PLACEHOLDER)
    return card


def _purpose(license: str) -> str:
    text = (
        "For marking defects on photographs of products, from a box or a point that a person or a detector gives:"
        " measuring them, labelling more data, comparing. Not for deciding alone what is thrown away, and not for"
        " photographs of people, medicine, or anything but the products that it was measured on."
    )
    if is_non_commercial(license):
        text += f"\n\n**Not for commercial use:** a part of it carries `{license}`, and so does the model."
    return text


def _parts_table(parts: Sequence[Part], license: str) -> str:
    words = {"model": "base model", "dataset": "data"}
    rows = [(words[part.repo_type], part.hub_id or part.name, f"`{part.license}`") for part in parts]
    told = f"The model carries the strictest of these: `{license}`."
    if license in ("unknown", "other"):
        told = "No licence follows from these by itself; ask the owners of the data before you share the model."
    return f"{markdown_table(['part', 'name', 'licence'], rows)}\n\n{told}"


def _training(record: dict[str, Any]) -> str:
    settings, results = record["settings"], record["results"]
    own = [field.name for field in fields(_OWN_SETTINGS[record["stage"]])] if record["stage"] in _OWN_SETTINGS else []
    names = [name for name in (*own, *_ARGUMENTS) if name not in _NOT_SHOWN and settings.get(name) is not None]
    if not settings.get("use_peft"):
        names = [name for name in names if name != "use_peft" and not name.startswith("lora_")]
    versions = (f"{name} {importlib.metadata.version(name)}" for name in _VERSIONS)
    facts = {
        "command": f"`visionsam {record['stage']}`",
        "optimiser steps": results.get("steps"),
        "samples": results.get("samples"),
        "trained parameters": results.get("trained_parameters"),
        "seed": str(settings["seed"]) if "seed" in settings else None,
        "shown for a prompt": results.get("window"),
        "device": results.get("device"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": ", ".join(versions),
        "time, memory, inputs": "in `stage.json`",
    }
    told = [(name, f"{value:,}" if isinstance(value, int) else value) for name, value in facts.items() if value]
    table = markdown_table(["setting", "value"], [(f"`{name}`", f"`{settings[name]}`") for name in names])
    shown = markdown_table(["what", "value"], told)
    return shown if not names else f"{shown}\n\n<details><summary>Settings</summary>\n\n{table}\n\n</details>"


def write_model_card(directory: str | Path, record: dict[str, Any] | None = None) -> None:
    """Write README.md and its figure beside a model or adapter that a stage made.

    The same training writes the same card: it tells nothing that a clock decides.

    The figure shows photographs only where a known licence of the data allows it; else it is the training's loss.

    Args:
        directory: of the model.
        record: "stage", "settings" and "results" as `stage.json` will say them; None reads that file.

    Raises:
        UserError: the data set or the model that it names cannot be read.
    """
    directory, record = Path(directory), read_record(directory) if record is None else record
    told, picture = _figure(directory, record)
    figure = ""
    if picture is not None:
        (directory / FIGURE).write_bytes(picture)
        figure = f"![{told}]({FIGURE})\n\n{told}"
    # Last, so that a card never names a figure that is not there.
    is_adapter = (directory / "adapter_config.json").is_file()
    card = model_card(record, figure=figure, is_adapter=is_adapter, needs_code=needs_code(directory))
    card.save(card_path(directory))


def _figure(directory: Path, record: dict[str, Any]) -> tuple[str, bytes | None]:
    if record["stage"] == "merge":
        return "", None
    data = [part for part in parts_of_record(record) if part.repo_type == "dataset"]
    if not all(allows_pictures(part.license) for part in data):
        told = "Loss over the training. The licence of the photographs is not known, so none is shown."
        return told, draw_training(directory)
    if record["stage"] == "distil":
        return "Loss over the training.", draw_training(directory)
    settings = record["settings"]
    kind, split = _KINDS[record["stage"]], settings.get("eval_split") or settings["train_split"]
    rows = load_split(settings["dataset"], split, kind=kind, config=settings.get("dataset_config"))
    examples = choose_examples(rows, kind, _EXAMPLES)
    if not examples:
        return "Loss over the training.", draw_training(directory)
    for title, name in (("before", settings["model_name_or_path"]), ("after", str(directory))):
        model, processor = to_best_device(load_model(name)), load_processor(name)
        examples = [with_prediction(example, title, model, processor) for example in examples]
    where = "that it did not learn from" if settings.get("eval_split") else "that it learnt from"
    told = (
        f"Rows of the split `{split}`, {where}: the box, and what the model marked before and after this training"
        " (orange; the white line is the truth)."
    )
    return told, draw_examples([_without(example, ("chosen", "rejected")) for example in examples])


def _without(example: Example, titles: tuple[str, ...]) -> Example:
    return replace(example, masks={title: mask for title, mask in example.masks.items() if title not in titles})
