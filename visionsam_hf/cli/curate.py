"""`visionsam curate CONFIG`: keep the images of a data set that show their anomaly best.

Writes the data set again with a smaller train split, `manifest.csv` with every image's scores and the reason for its
fate, and `contact_sheet.png` of picked and refused ones. Edit the manifest and give it back as `manifest`.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import IterableDataset

from visionsam_hf.cli.dataset_options import CurateSettings
from visionsam_hf.cli.stage import stage_run
from visionsam_hf.data.curation import (
    MANIFEST,
    Scored,
    choose_for_sheet,
    draw_sheet,
    measure,
    pick,
    read_kept,
    write_manifest,
)
from visionsam_hf.data.data_card import data_card, markdown_table, split_front
from visionsam_hf.data.dataset_directory import load_split, rows_of, split_names, write_splits
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.masks import decode_mask
from visionsam_hf.data.overlays import TRUTH, Overlay, thumbnail

SHEET = "contact_sheet.png"
_METHOD = """Clarity is the contrast of a defect with the ring round it, clutter the share of edges elsewhere; the
score is the mean of an image's ranks by both among its category. Categories, sizes and shapes of defects took turns.
`manifest.csv` holds every image's scores and the reason for its fate. Other splits are unchanged."""


def run(settings: CurateSettings) -> None:
    """Curate `settings.dataset` into `settings.output_dir`.

    Raises:
        UserError: no such data set or train split, no defective image in it, a manifest that names other images.
    """
    with stage_run("curate", settings) as stage:
        name = settings.dataset
        splits = split_names(name)
        loaded = {split: load_split(name, split, kind="segmentation", streaming=True) for split in splits}
        if "train" not in loaded:
            raise UserError(f"{name}: has no train split to pick from; it has {', '.join(splits)}")
        train = loaded["train"]
        scored = list(_measured(train))
        if not scored:
            raise UserError(f"{name}: no image of its train split shows a defect; build it with defects")
        images = pick(scored, settings.count)
        if settings.manifest:
            images = _as_edited(images, read_kept(settings.manifest), settings.manifest)
        kept = {image.image_id for image in images if image.keep}
        write_manifest(stage.directory / MANIFEST, images)
        rows = {split: rows_of(dataset) for split, dataset in loaded.items()}
        rows["train"] = (row for row in rows["train"] if row["image_id"] in kept)
        counts = write_splits(stage.directory, rows, train.features, card=_card(settings, images))
        _draw_sheet(train, images, settings.seed).save(stage.directory / SHEET, optimize=True)
        stage.results.update(rows=counts, picked=len(kept), refused=len(images) - len(kept))
        stage.achieved, stage.page = f"{len(kept)} of {len(images)} defective train images kept", SHEET


def _measured(train: IterableDataset) -> Iterator[Scored]:
    names = train.features["category"].names
    for row in train:
        mask = decode_mask(row["mask"])
        if mask.any():
            yield measure(row["image_id"], names[row["category"]], np.asarray(row["image"].convert("RGB")), mask)


def _as_edited(images: list[Scored], kept: list[str], path: str) -> list[Scored]:
    """The manifest's choice, with the scores at hand. Held-out images are in no train split, so not in `images`."""
    known = {image.image_id for image in images}
    for image_id in kept:
        if image_id not in known:
            raise UserError(f"{path}: keeps '{image_id}', no defective image of the train split; remove the line")
    chosen = set(kept)
    return [
        image
        if image.keep == (image.image_id in chosen)
        else replace(image, keep=not image.keep, reason="chosen by hand" if not image.keep else "refused by hand")
        for image in images
    ]


def _card(settings: CurateSettings, images: list[Scored]) -> str:
    license, source = "unknown", Path(settings.dataset)
    if (source / "README.md").is_file():
        front, _ = split_front((source / "README.md").read_text(encoding="utf-8"))
        license = front.get("license", license)
    kinds = Counter((image.category, image.scale, image.shape) for image in images if image.keep)
    kept = f"{sum(kinds.values())} of the {len(images)} defective train images of `{source.name}` were kept.\n"
    sections = {
        "How it was curated": f"{kept}{_METHOD}",
        "What was kept": markdown_table(
            ("category", "size", "shape", "images"), [(*kind, number) for kind, number in sorted(kinds.items())]
        ),
    }
    summary = f"A curated train split of `{source.name}`, with its other splits."
    title = f"Curated: {source.name}"
    return data_card("segmentation", title=title, summary=summary, license=license, sections=sections)


def _draw_sheet(train: IterableDataset, images: list[Scored], seed: int) -> Any:
    shown = choose_for_sheet(images, seed=seed)
    wanted = {image.image_id for image in shown}
    pictures = {
        row["image_id"]: thumbnail(row["image"], [Overlay(decode_mask(row["mask"]), TRUTH)], side=160)
        for row in train
        if row["image_id"] in wanted
    }
    picked = sum(image.keep for image in images)
    return draw_sheet(shown, pictures, picked=picked, refused=len(images) - picked)
