"""Evaluations of a model, found beside it, as a card's table, as its `EvalResult`s, and as `.eval_results` files."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, eval_result_entries_to_yaml

from visionsam_hf.data.data_card import markdown_table
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.records import RECORD, looks_local, read_record
from visionsam_hf.hub.provenance import published_as

NOT_MEASURED = (
    "`visionsam push` writes here what `visionsam evaluate` measured, wherever beside this directory it lies; if nothing does,"
    " this model was not measured."
)
_SHOWN = (("iou", "IoU"), ("dice", "Dice"), ("boundary_f", "boundary F"))


@dataclass(frozen=True)
class Result:
    """One output of `visionsam evaluate`.

    Attributes:
        system: what was evaluated, for people.
        is_model: whether it is the model whose card this is for.
        metrics: its `metrics.json`.
        dataset_id: the data set's name on the Hub, where it is known to be there.
        data: fingerprint of the data set.
    """

    system: str
    is_model: bool
    metrics: dict[str, Any]
    dataset_id: str | None
    data: str

    @property
    def setting(self) -> tuple[str, ...]:
        """What two results must share to stand in one table."""
        return (self.data, *(str(self.metrics.get(key)) for key in ("split", "prompt", "selection")))


def find_results(directory: str | Path) -> list[Result]:
    """The evaluations of a model, and of other systems on the same prompts, among the directories beside it.

    Looks into the directories beside `directory` and one level deeper, as the recipes lay them out. An evaluation is
    the model's when it recorded the model's fingerprint; which directory it is called after does not matter.
    """
    directory = Path(directory).resolve()
    if not (directory / RECORD).is_file():
        return []
    own, names = str(read_record(directory)["fingerprint"]), _names_in_report(directory.parent)
    found = []
    for file in sorted({*directory.parent.glob("*/metrics.json"), *directory.parent.glob("*/*/metrics.json")}):
        result = _read(file, own, names)
        if result is not None:
            found.append(result)
    settings = {result.setting for result in found if result.is_model}
    return [result for result in found if result.setting in settings]


def _read(file: Path, own: str, names: dict[Path, str]) -> Result | None:
    """None for what is no complete evaluation: the neighbours of a model are not its concern."""
    try:
        record = read_record(file.parent)
        metrics = json.loads(file.read_text(encoding="utf-8"))
        model, dataset, _ = metrics["model"], metrics["dataset"], metrics["overall"]["iou"]
    except (UserError, OSError, ValueError, KeyError, TypeError):
        return None
    if record.get("stage") != "evaluate":
        return None
    is_model = record["inputs"].get(model) == own
    system = names.get(file.parent) or ("this model" if is_model else Path(model).name)
    dataset_id = published_as(dataset) if Path(dataset).is_dir() else None if looks_local(dataset) else dataset
    return Result(system, is_model, metrics, dataset_id, str(record["inputs"].get(dataset)))


def _names_in_report(directory: Path) -> dict[Path, str]:
    """What a report beside the model calls the evaluated systems."""
    try:
        record = read_record(directory)
        systems = record["settings"]["systems"] if record.get("stage") == "report" else {}
        return {Path(path).resolve(): name for name, paths in systems.items() for path in paths}
    except (UserError, KeyError, AttributeError):
        return {}


def results_table(results: Sequence[Result]) -> str:
    """Markdown: a line a system, split and prompt; the card's model in bold."""
    if not results:
        return NOT_MEASURED
    lines = []
    for result in sorted(results, key=lambda result: (result.metrics["split"], result.metrics["prompt"])):
        metrics = result.metrics
        name = f"**{result.system}**" if result.is_model else result.system
        cells = [_with_interval(metrics, key) for key, _ in _SHOWN]
        lines.append([metrics["split"], metrics["prompt"].replace("_pm", " ±"), name, f"{metrics['n']:,}", *cells])
    table = markdown_table(["split", "prompt", "system", "prompts", *(title for _, title in _SHOWN)], lines)
    return (
        f"{table}\n\nMeans over prompts at the images' own size, bootstrap 95% intervals over images in brackets;"
        " `heldout` holds categories that nothing trained on. This model is in bold."
    )


def _with_interval(metrics: dict[str, Any], key: str) -> str:
    value, interval = metrics["overall"].get(key), (metrics.get("intervals") or {}).get(key)
    if value is None:
        return "—"
    return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else f"{value:.3f}"


def eval_results(results: Sequence[Result]) -> list[EvalResult]:
    """IoU and Dice of the model on every split it was evaluated on, for the `model-index` of its card."""
    entries = []
    for result in results:
        if not result.is_model:
            continue
        metrics = result.metrics
        where = result.dataset_id or Path(metrics["dataset"]).name
        for key, title in (("iou", "IoU"), ("dice", "Dice")):
            entries.append(
                EvalResult(
                    task_type="mask-generation",
                    task_name=f"Defect segmentation from a {metrics['prompt'].replace('_', ' ')} prompt",
                    dataset_type=where,
                    dataset_name=where,
                    dataset_split=metrics["split"],
                    dataset_config=metrics["prompt"],
                    metric_type="mean_iou" if key == "iou" else "dice",
                    metric_name=title,
                    metric_value=round(float(metrics["overall"][key]), 4),
                )
            )
    return entries


def eval_result_files(results: Sequence[Result]) -> dict[str, bytes]:
    """`.eval_results/*.yaml`, a file a data set, for data sets that have a name on the Hub."""
    entries: dict[str, list[EvalResultEntry]] = {}
    for result in results:
        if result.is_model and result.dataset_id:
            metrics = result.metrics
            for key in ("iou", "dice"):
                entry = EvalResultEntry(
                    dataset_id=result.dataset_id,
                    task_id=f"{metrics['split']}_{metrics['prompt']}_{key}",
                    value=round(float(metrics["overall"][key]), 4),
                    notes=f"{metrics['n']} prompts, mask selection: {metrics['selection']}",
                )
                entries.setdefault(result.dataset_id, []).append(entry)
    return {
        f".eval_results/{dataset.replace('/', '--')}.yaml": yaml.safe_dump(
            eval_result_entries_to_yaml(of_dataset), sort_keys=False
        ).encode()
        for dataset, of_dataset in entries.items()
    }
