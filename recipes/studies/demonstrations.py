"""A study of demonstrations: what SFT learns from. None, painted ones, n real masks, or painted and then real ones.

Every class is held out in turn: the figures of `heldout` are those of a class whose masks no training saw. All folds
share one cache of embeddings and, for each seed, one painted model.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from filelock import FileLock

from datasets_builders.mask_folder import MaskFolder
from studies.analysis import summarise_demonstrations
from studies.design import PAINTED, REAL, UNTRAINED, Cell, StudySettings, Task, key_of
from studies.evidence_figures import write_figures
from studies.fitting import Base, fit, load_base, with_cache
from studies.folds import Fold, object_counts
from studies.run_files import Results, score_model
from visionsam_hf.data.dataset_directory import load_split
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.files import written_directory
from visionsam_hf.data.records import fingerprint
from visionsam_hf.data.settings import build_settings
from visionsam_hf.models.loading import save_model
from visionsam_hf.training.sft_trainer import SamSFTConfig, SamSFTTrainer


class DemonstrationStudy:
    """Demonstrations x numbers of real masks x seeds x held-out classes.

    Args:
        settings: of `visionsam evidence`.
        build: called with a command ("build masks", "build synthetic") and its settings; builds what is not there.

    Raises:
        UserError: unknown or wrong training settings, or fewer than two classes with masks.
    """

    untrained = UNTRAINED

    def __init__(self, settings: StudySettings, build: Callable[[str, Mapping[str, Any]], None]) -> None:
        self.settings = settings
        for key, values in (("painted", settings.painted), ("sft", settings.sft)):
            build_settings(SamSFTConfig, values, source=key)
        self.home = Path(settings.runs)
        self.painted_data = str(self.home / "painted")
        classes = settings.classes or classes_with_masks(settings.data_dir)
        if len(classes) < 2:
            raise UserError(
                f"{settings.data_dir}: one class cannot be held out and learnt from; give masks of two or more"
            )
        paint = {"background_dir": settings.background_dir, **settings.paint, "output_dir": self.painted_data}
        build("build synthetic", paint)
        self.folds = {name: str(self.home / "folds" / name) for name in classes}
        masks = {"data_dir": settings.data_dir, "keep_good": False, **settings.build}
        for name, directory in self.folds.items():
            build("build masks", {**masks, "heldout_categories": [name], "output_dir": directory})
        self.painted_key = {"painted": settings.painted, "painted data": fingerprint(self.painted_data)}
        self.cells = {
            Cell(fold, seed, masks): [PAINTED, REAL] if masks else [PAINTED]
            for seed in settings.seeds
            for masks in (0, *settings.label_budgets)
            for fold in classes
        }

    def describe(self, system: str, cell: Cell) -> dict[str, Any]:
        """What the result of a cell's system depends on, beside its data and the study's model."""
        painted = self.painted_key if system == PAINTED else {}
        return {"system": system, "cell": asdict(cell), "sft": self.settings.sft if cell.masks else None, **painted}

    def in_order(self, missing: list[Task]) -> list[Task]:
        """Each seed's first painted task trains its model; what needs no painted model is done meanwhile."""
        single = [(cell, (system,)) for cell, systems in missing if cell is not None for system in systems]
        painted = [task for task in single if task[1] == (PAINTED,)]
        first = list({task[0].seed: task for task in reversed(painted)}.values())
        others = [task for task in missing if task[0] is None] + [task for task in single if task[1] == (REAL,)]
        return [*first, *others, *(task for task in painted if task not in first)]

    def check(self, cell: Cell, fold: Fold) -> None:
        """Refuse a cell before an hour of other cells."""
        if cell.masks > len(fold.train):
            raise UserError(
                f"label_budgets: {fold.name} held out leaves {len(fold.train)} images to train on, not {cell.masks}"
            )

    def untrained_rows(self, fold: Fold) -> Mapping[str, datasets.Dataset]:
        """On what the untrained systems answer."""
        return fold.measured

    def train(self, cell: Cell, fold: Fold, systems: tuple[str, ...], base: Base) -> Iterator[tuple[str, list]]:
        """Each system with its one record."""
        # The first n of one draw, so that more masks always include the fewer.
        order = np.random.default_rng([cell.seed, 3]).permutation(len(fold.train))[: cell.masks]
        real = fold.train.select(sorted(order.tolist()))
        for system in systems:
            started = time.perf_counter()
            start = load_base(self.settings, self._painted_model(cell.seed, base)) if system == PAINTED else base
            model = start.model.eval()
            if cell.masks:
                model, _ = fit(SamSFTTrainer, SamSFTConfig, start, real, self.settings.sft, seed=cell.seed)
            tuned = with_cache(self.settings, model, base.processor)
            splits = {
                name: score_model(model, base.processor, rows, tuned.cache).as_json()
                for name, rows in fold.measured.items()
            }
            cost = {"images": len(real), "masks": sum(object_counts(real)), "rankings": 0}
            seconds = round(time.perf_counter() - started, 2)
            yield system, [{"cost": cost, "splits": splits, "seconds": seconds}]

    def report(self, results: Results, directory: Path) -> dict[str, Any]:
        """What `evidence.json` holds; draws the figure."""
        evidence = summarise_demonstrations(results, self.settings, self.folds, self.untrained)
        write_figures(evidence, directory)
        return evidence

    def _painted_model(self, seed: int, base: Base) -> str:
        """The directory of the model after SFT on painted demonstrations, trained by whoever needs it first."""
        key = key_of(model=fingerprint(self.settings.model_name_or_path, "model"), seed=seed, **self.painted_key)
        directory = self.home / "models" / f"painted-{seed}-{key[:12]}"
        directory.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(directory.with_suffix(".lock")):
            if not directory.is_dir():
                rows = load_split(self.painted_data, "train", kind="segmentation")
                model, _ = fit(SamSFTTrainer, SamSFTConfig, base, rows, self.settings.painted, seed=seed)
                with written_directory(directory) as unfinished:
                    save_model(model, base.processor, unfinished)
        return str(directory)


def classes_with_masks(data_dir: str) -> list[str]:
    """The class folders that have a mask of something; good parts have none, or empty ones."""
    with tempfile.TemporaryDirectory() as cache:
        builder = MaskFolder(cache_dir=cache, data_dir=data_dir, keep_good=False, validation=0.0, test=0.0)
        names = builder.info.features["category"].names
        builder.download_and_prepare()
        return sorted({names[label] for label in builder.as_dataset("train")["category"]})
