"""Write the card and its figure beside a model that was just trained, so that its directory can be pushed as it is."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from visionsam_hf.data import load_split
from visionsam_hf.modeling import load_model, load_processor, to_best_device
from visionsam_hf.publishing.licences import allows_pictures
from visionsam_hf.publishing.model_card import FIGURE, card_path, model_card
from visionsam_hf.publishing.pictures import Example, choose_examples, draw_examples, draw_training, with_prediction
from visionsam_hf.publishing.provenance import parts_of_record
from visionsam_hf.stage import read_record

_EXAMPLES = 3
_KINDS = {"sft": "segmentation", "dpo": "preference"}


TRAINED = ("sft", "dpo", "merge")  # the stages that make models


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
    card_path(directory).write_text(model_card(record, figure=figure, is_adapter=is_adapter), encoding="utf-8")


def _figure(directory: Path, record: dict[str, Any]) -> tuple[str, bytes | None]:
    if record["stage"] == "merge":
        return "", None
    data = [part for part in parts_of_record(record) if part.repo_type == "dataset"]
    if not all(allows_pictures(part.license) for part in data):
        told = "Loss over the training. The licence of the photographs is not known, so none is shown."
        return told, draw_training(directory)
    settings = record["settings"]
    kind, split = _KINDS[record["stage"]], settings.get("eval_split") or settings["train_split"]
    examples = choose_examples(load_split(settings["dataset"], split, kind=kind), kind, _EXAMPLES)
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
