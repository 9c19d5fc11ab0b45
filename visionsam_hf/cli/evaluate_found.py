"""`visionsam evaluate --finder DIR`: what a finder, or another system's maps, finds without boxes, to `detection.json`.

    DIR/
    ├── detection.json   every figure, and the cases
    ├── images.csv       a line an image
    └── cases/0-map.jpg  pictures for the report
"""

import csv
import json
from typing import Any

from visionsam_hf.cli.options import EvaluateSettings
from visionsam_hf.cli.stage import stage_run
from visionsam_hf.data.dataset_directory import load_split, split_to_judge_by
from visionsam_hf.embeddings.cache import open_cache
from visionsam_hf.evaluation.finder_cases import write_cases
from visionsam_hf.evaluation.finder_evaluation import evaluate_finder
from visionsam_hf.evaluation.result_files import DETECTION
from visionsam_hf.inference.finders.finder import Finder
from visionsam_hf.inference.finders.finder_files import MAPS_PREFIX, OutsideMaps, check_encoder, load_finder
from visionsam_hf.inference.finders.found_rows import embedded_rows
from visionsam_hf.models.loading import load_model, load_processor, to_best_device


def run_found(settings: EvaluateSettings) -> None:
    """Write the directory."""
    with stage_run("evaluate", settings) as stage:
        split = settings.split or split_to_judge_by(settings.dataset, settings.dataset_config)
        dataset = load_split(settings.dataset, split, kind="segmentation", config=settings.dataset_config)
        finder: Finder | None = None
        source: Finder | OutsideMaps
        outside = settings.finder.startswith(MAPS_PREFIX)
        if outside:
            source = OutsideMaps(settings.finder.removeprefix(MAPS_PREFIX))
        else:
            source = finder = load_finder(settings.finder)
        model = to_best_device(load_model(settings.model_name_or_path))
        processor = load_processor(settings.model_name_or_path)
        if finder is not None:
            check_encoder(finder, model, settings.model_name_or_path)
            if finder.config.kind == "maps":
                source = OutsideMaps(finder.config.maps)
        rows = embedded_rows(model, processor, dataset, open_cache(settings, model, processor))
        names = dataset.features["category"].names
        detection = evaluate_finder(source, model, rows, names, finder)
        figures, table = detection.figures, detection.table
        asked: dict[str, Any] = {"finder": settings.finder, "model": settings.model_name_or_path}
        asked |= {"dataset": settings.dataset, "split": split}
        threshold = finder.config.threshold if finder is not None else None
        cases = write_cases(stage.directory / "cases", detection, dataset, threshold)
        text = json.dumps(asked | figures | {"cases": cases}, indent=2, allow_nan=False)
        (stage.directory / DETECTION).write_text(text + "\n", encoding="utf-8")
        with (stage.directory / "images.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(table[0]))
            writer.writeheader()
            writer.writerows(table)
        stage.results.update({key: figures[key] for key in ("image", "pixel", "category_mean", "masks") if key in figures})
