"""`visionsam predict --finder DIR`: photographs without a prompt to verdicts, and to masks where something is found."""

import csv
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image
from tqdm.auto import tqdm

from visionsam_hf.cli.options import PredictSettings
from visionsam_hf.data.errors import UserError
from visionsam_hf.inference.finders.finder_files import check_encoder, load_finder
from visionsam_hf.inference.finders.found_masks import FoundMask, find_masks
from visionsam_hf.inference.finders.found_rows import finder_maps
from visionsam_hf.inference.prediction_files import (
    CATEGORY,
    Predicted,
    PredictionWriter,
    Prompt,
    predicted,
    replaced_directory,
    same_prompt,
)
from visionsam_hf.models.encoder import ImageEncoder
from visionsam_hf.models.loading import load_model, load_processor, to_best_device

VERDICTS = "verdicts.csv"
_COLUMNS = ("image", "verdict", "probability", "score", "masks", "area")


def run_found(settings: PredictSettings, read: Callable[[Path], Image]) -> None:
    """Masks, overlays, `coco.json`, `predictions.jsonl` and `verdicts.csv`, photograph by photograph.

    Args:
        read: a photograph's file, upright and 8-bit.
    """
    finder = load_finder(settings.finder)
    if finder.config.kind == "maps":
        raise UserError(f"{settings.finder}: knows another system's maps only; evaluate it, or fit a finder on embeddings")
    asked = same_prompt(Path(settings.image), Prompt(), "finder")
    model, processor = to_best_device(load_model(settings.model)), load_processor(settings.model)
    check_encoder(finder, model, settings.model)
    encoder, config = ImageEncoder(model), finder.to(model.device).config
    started, defective = time.perf_counter(), 0
    with replaced_directory(Path(settings.output)) as directory:
        writing = PredictionWriter(directory, {CATEGORY: 1}, model=settings.model)
        with writing as writer, (directory / VERDICTS).open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(_COLUMNS)
            for entry in tqdm(asked, desc="predict", unit="image", mininterval=0.2 if sys.stderr.isatty() else 30):
                image = read(entry.path)
                pixels = processor(images=image, return_tensors="pt")["pixel_values"].to(model.device)
                embedding = encoder(pixels)[0]
                found = finder_maps(finder, embedding, (image.height, image.width))
                score = found.score
                masks = find_masks(model, embedding, found.sharp, config.plan) if score >= config.threshold else []
                writer.add(entry, np.asarray(image), [_kept(mask) for mask in masks])
                table.writerow(_verdict(entry.name, score, masks, config))
                defective += score >= config.threshold
    seconds = time.perf_counter() - started
    answer: dict[str, Any] = {"images": len(asked), "defective": int(defective), "masks": len(writer.annotations)}
    answer["seconds_per_image"] = round(seconds / len(asked), 3)
    print(json.dumps(answer | {"output": settings.output}))


def _kept(found: FoundMask) -> Predicted:
    box, point = found.region.box, found.region.point
    prompt = Prompt(box=box) if found.kind == "box" else Prompt(point=tuple(map(float, point)))
    return predicted(prompt, found.mask, found.score)


def _verdict(name: str, score: float, masks: list[FoundMask], config: Any) -> tuple[Any, ...]:
    verdict = "defective" if score >= config.threshold else "good"
    area = int(np.logical_or.reduce([found.mask for found in masks]).sum()) if masks else 0
    return name, verdict, round(config.probability(score), 4), round(score, 4), len(masks), area
