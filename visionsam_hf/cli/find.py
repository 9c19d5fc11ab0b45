"""`visionsam find CONFIG`: fit a finder on cached embeddings, and choose how its maps prompt the model."""

import time
from collections.abc import Iterator
from typing import Any

import datasets
import numpy as np
import torch

from visionsam_hf.cli.options import FindSettings
from visionsam_hf.cli.stage import StageRun, stage_run
from visionsam_hf.data.dataset_directory import load_split
from visionsam_hf.data.records import as_plain
from visionsam_hf.embeddings.cache import EmbeddingCache, open_cache
from visionsam_hf.hub.provenance import combine, parts_of_record
from visionsam_hf.inference.finders.finder import Finder, FinderConfig
from visionsam_hf.inference.finders.finder_files import OutsideMaps, finder_card, save_finder
from visionsam_hf.inference.finders.fitting import check_counts, fit_finder, set_threshold
from visionsam_hf.inference.finders.found_masks import choose_plan
from visionsam_hf.inference.finders.found_rows import EmbeddedRow, as_cells, embedded_rows, found_maps
from visionsam_hf.models.loading import encoder_fingerprint, image_side, load_model, load_processor, to_best_device

_CHOOSING = 40  # defective images that the plan is chosen on


def run(settings: FindSettings) -> None:
    """Write the finder's directory: config, weights, card."""
    with stage_run("find", settings) as stage:
        wanted: dict[str, Any] = {"kind": "segmentation", "config": settings.dataset_config}
        train = _chosen(load_split(settings.dataset, settings.train_split, **wanted), settings)
        held = load_split(settings.dataset, settings.eval_split, **wanted) if settings.eval_split else None
        defective = np.array(train["defective"])
        check_counts(settings.finder, int((~defective).sum()), int(defective.sum()))
        model = to_best_device(load_model(settings.model_name_or_path))
        processor = load_processor(settings.model_name_or_path)
        cache: EmbeddingCache | None = open_cache(settings, model, processor)
        rows, held_rows = (
            [] if data is None else list(embedded_rows(model, processor, data, cache)) for data in (train, held)
        )
        started = time.perf_counter()
        finder, source = _fitted(settings, model, rows, held_rows, stage)
        fitted = time.perf_counter()
        images = _defective(finder, source, held_rows or rows)
        finder.config.plan, reached = choose_plan(model, images)
        save_finder(finder, stage.directory)
        stage.results.update(
            images=len(rows), good=int((~defective).sum()), threshold=finder.config.threshold, plan_iou=reached,
            seconds_fitting=round(fitted - started, 3), seconds_choosing=round(time.perf_counter() - fitted, 3),
        )  # fmt: skip
        facts = {"finder": settings.finder, "photographs": len(rows), "of them good": int((~defective).sum())}
        parts = parts_of_record({"stage": "find", "settings": as_plain(settings)})
        card = finder_card(finder, title="Defect finder", license=combine(part.license for part in parts), facts=facts)
        (stage.directory / "README.md").write_text(card, encoding="utf-8")


def _chosen(rows: datasets.Dataset, settings: FindSettings) -> datasets.Dataset:
    """At most so many defective and good rows, drawn with the seed."""
    defective = np.array(rows["defective"])
    order = np.random.default_rng([settings.seed, 1]).permutation(len(rows))
    places: list[int] = []
    for kind, most in ((True, settings.max_defective_images), (False, settings.max_good_images)):
        these = order[defective[order] == kind]
        places += these[: most or None].tolist()
    return rows.select(sorted(places))


def _fitted(
    settings: FindSettings, model: Any, rows: list[EmbeddedRow], held: list[EmbeddedRow], stage: StageRun
) -> tuple[Finder, Finder | OutsideMaps]:
    """The finder, and where its maps come from."""
    config = FinderConfig(
        settings.finder, false_alarm_rate=settings.false_alarm_rate, image_size=image_side(model), maps=settings.maps
    )
    if settings.finder == "maps":
        source = OutsideMaps(settings.maps)
        _calibrate_maps(config, source, held or rows)
        return Finder(config), source
    config.encoder, config.model = encoder_fingerprint(model), settings.model_name_or_path
    config.shape = tuple(rows[0].embedding.shape)
    fitted = fit_finder(
        config, as_cells(rows), as_cells(held) if held else None,
        bank_size=settings.bank_size, folds=settings.folds, seed=settings.seed,
    )  # fmt: skip
    good = fitted.scores[~fitted.defective]
    stage.results.update(epochs=fitted.epochs, held_out_good_above=float((good > config.threshold).mean()))
    return fitted.finder, fitted.finder


def _calibrate_maps(config: FinderConfig, maps: OutsideMaps, rows: list[EmbeddedRow]) -> None:
    """Units, threshold and probability of another system's maps, on images of the split that its maps are of."""
    found = [found_maps(maps, row).whole for row in rows]
    defective = np.array([bool(row.truth.any()) for row in rows])
    check_counts("maps", int((~defective).sum()), int(defective.sum()))
    good = np.concatenate([values.ravel() for values, bad in zip(found, defective) if not bad])
    mean, scale = float(good.mean()), float(good.std()) or 1.0
    config.units["maps"] = (mean, scale)
    set_threshold(config, np.array([(values.max() - mean) / scale for values in found]), defective)


def _defective(
    finder: Finder, source: Finder | OutsideMaps, rows: list[EmbeddedRow]
) -> Iterator[tuple[torch.Tensor, np.ndarray, np.ndarray]]:
    """What the plan is chosen on."""
    for row in [row for row in rows if row.truth.any()][:_CHOOSING]:
        yield row.embedding, found_maps(source, row, finder.config.units.get("maps", (0.0, 1.0))).sharp, row.truth
