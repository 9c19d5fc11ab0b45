"""`visionsam distil`: a small encoder learns a teacher's embeddings, from images without a label."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import Dataset, Features, Image, Value

from datasets_builders.photographs import image_files, read_photograph
from visionsam_hf.cli.options import DistilInputs
from visionsam_hf.cli.train import choose_images, train_stage, trainer_arguments
from visionsam_hf.data.dataset_directory import load_split, split_names
from visionsam_hf.data.errors import UserError
from visionsam_hf.training.distil_trainer import SamDistilConfig, SamDistilTrainer
from visionsam_hf.training.sam_trainer import SamTrainer


@dataclass
class DistilStage(DistilInputs, SamDistilConfig):
    """Settings of `visionsam distil`: its inputs, the student, and every field of `transformers.TrainingArguments`."""


def run(settings: DistilStage) -> None:
    """Train a student and write its model directory."""
    train, held = images_to_learn_from(settings)

    def make_trainer(directory: Path) -> SamTrainer:
        arguments = trainer_arguments(SamDistilConfig, settings, directory)
        return SamDistilTrainer(settings.model_name_or_path, arguments, train, eval_dataset=held)

    train_stage("distil", settings, make_trainer)


def images_to_learn_from(settings: Any) -> tuple[Dataset, Dataset | None]:
    """Images to learn from, and those to measure on: of `eval_split`, else a share drawn with the seed."""
    folder = Path(settings.dataset)
    if folder.is_dir() and not split_names(folder):
        if settings.eval_split:
            raise UserError(f"eval_split: {folder} is a folder of photographs, which has no splits; set eval_share instead")
        rows = _photographs(folder)
    else:
        load = {"kind": "segmentation", "config": settings.dataset_config}
        rows = load_split(settings.dataset, settings.train_split, **load).select_columns(["image", "image_id"])
        if settings.eval_split:
            held = load_split(settings.dataset, settings.eval_split, **load).select_columns(["image", "image_id"])
            return choose_images(rows, settings), held
    order = np.random.default_rng([settings.seed, 2]).permutation(len(rows))
    count = max(1, round(settings.eval_share * len(rows))) if settings.eval_share else 0
    if count == len(rows):
        raise UserError(f"{settings.dataset}: has {len(rows)} images; give more, or a lower eval_share")
    held, train = (rows.select(sorted(part.tolist())) for part in (order[:count], order[count:]))
    return choose_images(train, settings), held if count else None


def _photographs(folder: Path) -> datasets.Dataset:
    """A folder's photographs, upright and 8-bit, in the data sets' cache."""
    files = [str(path) for path in image_files(folder)]
    if not files:
        raise UserError(f"{folder}: holds no photographs; give a folder with some, or a data set's directory")
    return Dataset.from_generator(
        _read, features=Features({"image": Image(), "image_id": Value("string")}), gen_kwargs={"files": files}
    )


def _read(files: list[str]) -> Iterator[dict[str, Any]]:
    for file in files:
        yield {"image": read_photograph(Path(file)).stored, "image_id": Path(file).stem}
