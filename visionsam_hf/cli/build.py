"""`visionsam build SOURCE CONFIG`: a source of images and masks becomes a segmentation data set directory."""

import dataclasses
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets_builders.coco_folder import CocoFolder
from datasets_builders.lookalikes import Leak, find_leaks
from datasets_builders.mask_folder import MaskFolder
from datasets_builders.mvtec_ad import MVTecAD
from datasets_builders.planned import PlannedBuilder, Remark
from datasets_builders.synthetic import Synthetic
from datasets_builders.vision import Vision
from visionsam_hf.cli.dataset_options import BuildSettings
from visionsam_hf.cli.stage import counted, stage_run
from visionsam_hf.data.curation import read_kept
from visionsam_hf.data.data_card import data_card, markdown_table
from visionsam_hf.data.dataset_directory import load_split, rows_of, write_card, write_splits
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.records import as_plain
from visionsam_hf.evaluation.result_files import dataset_table

logger = logging.getLogger(__name__)

_BUILDERS: dict[str, type[PlannedBuilder]] = {
    "synthetic": Synthetic,
    "masks": MaskFolder,
    "coco": CocoFolder,
    "vision": Vision,
    "mvtec_ad": MVTecAD,
}


def run(settings: BuildSettings) -> None:
    """Build the data set of `settings` into its `output_dir`.

    Raises:
        UserError: bad input (unless on_error is "skip"), or nothing left to write.
    """
    with stage_run("build", settings) as stage:
        with tempfile.TemporaryDirectory(prefix=".cache-", dir=stage.directory) as cache:
            builder = _builder(settings, cache)
            builder.download_and_prepare(num_proc=settings.num_proc)
            features = builder.info.features
            remarks = builder.remarks()
            filled = [name for name, info in builder.info.splits.items() if info.num_examples]
            if not filled:
                raise UserError(f"build: every image was skipped; the first: {remarks[0].message}")
            splits = {name: rows_of(builder.as_dataset(name)) for name in filled}
            if settings.curated:
                splits["train"] = _curated(settings.curated, builder)
            rows = write_splits(stage.directory, splits, features, card="")
        leaks = _leaks(stage.directory, filled)
        write_card(stage.directory, _card(settings, remarks, leaks), features, rows)
        counts = _counted(remarks)
        stage.results.update(rows=rows, remarks=dict(counts), leaks=len(leaks))
        stage.achieved = _told(dataset_table(stage.directory), remarks)
    for message, number in Counter(remark.message for remark in remarks if remark.kind == "warned").items():
        logger.warning("%d of %d images: %s", number, sum(rows.values()), message)
    if leaks:
        pairs = "; ".join(f"{leak.first} = {leak.second}" for leak in leaks[:3])
        logger.warning(
            "%d pairs of images in two splits look alike (%s%s); %s/README.md lists them,"
            " group_pattern or group_similar keeps them together",
            *(len(leaks), pairs, "; ..." if len(leaks) > 3 else "", settings.output_dir),
        )
    if counts["skipped"]:
        logger.warning("%d images were left out; %s/README.md says why", counts["skipped"], settings.output_dir)


def _told(table: list[dict[str, Any]], remarks: list[Remark]) -> str:
    """What was built in a few words: images, objects, and what was left out, by reason."""
    objects = sum(of["objects"] for of in table)
    told = f"{counted({of['split']: of['images'] for of in table})} images, {objects:,} objects"
    reasons: Counter[str] = Counter()
    for remark in remarks:
        if remark.kind == "dropped":
            reasons[remark.message] += remark.count
    skipped = _counted(remarks)["skipped"]
    parts = [f"{skipped} images left out"] * bool(skipped) + [f"{count} x {reason}" for reason, count in reasons.items()]
    return f"{told}; dropped: {', '.join(parts)}" if parts else told


def _builder(settings: BuildSettings, cache: str) -> PlannedBuilder:
    Builder = _BUILDERS[settings.source]
    known = {field.name for field in dataclasses.fields(Builder.BUILDER_CONFIG_CLASS)}
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    return Builder(cache_dir=cache, **{name: value for name, value in values.items() if name in known})


_SUMMARIES = {
    "synthetic": "Parametric products with rendered defects; every mask is exact, because the renderer made it.",
    "painted": "Photographs of good parts with painted defects; every mask is exact, because the painter made it.",
    "masks": "Photographs with pixel masks, from a local folder.",
    "coco": "Photographs with COCO annotations, from a local folder.",
    "vision": "The labelled images of VISION (VISION-Workshop/VISION-Datasets): industrial products with defects.",
    "mvtec_ad": "Images of MVTec AD (MVTec Software GmbH): industrial products and textures with defects.",
}

_LICENCES = {
    "vision": "Access to VISION is by request, and a secondary source names CC BY-NC 4.0: treat the images as not"
    " redistributable, keep this data set private, and do not use it or what was trained on it commercially.",
    "mvtec_ad": "MVTec AD is CC BY-NC-SA 4.0: name its authors, share under the same licence, not commercially. Cite"
    " P. Bergmann, M. Fauser, D. Sattlegger, C. Steger, 'MVTec AD', CVPR 2019.",
}


def _curated(manifest: str, builder: PlannedBuilder) -> Iterator[dict[str, Any]]:
    """The train rows that the manifest keeps. Held-out images are in another split, so it cannot ask for them."""
    wanted = set(read_kept(manifest))
    size = getattr(builder.info.splits.get("train"), "num_examples", 0)
    train = builder.as_dataset("train") if size else None
    missing = sorted(wanted - set(train["image_id"] if train else []))
    if missing:
        raise UserError(f"{manifest}: keeps '{missing[0]}', which is no image of the train split; remove the line")
    return (row for row in rows_of(train) if row["image_id"] in wanted)


def _leaks(directory: Path, splits: list[str]) -> list[Leak]:
    """Pairs across splits, read from what was written."""
    if len(splits) < 2:
        return []

    def images(split: str) -> Iterator[tuple[str, bytes]]:
        dataset = load_split(directory.absolute(), split, kind="segmentation", streaming=True)
        for row in rows_of(dataset.select_columns(["image_id", "image"])):
            yield row["image_id"], row["image"]["bytes"]

    return find_leaks({split: images(split) for split in splits})


def _card(settings: BuildSettings, remarks: list[Remark], leaks: list[Leak]) -> str:
    source, painted = settings.source, bool(getattr(settings, "background_dir", ""))
    kept_out = ("output_dir", "num_proc", "title", "license", "data_dir", "background_dir", "curated", "annotations")
    shown = [(f"`{key}`", f"`{value}`") for key, value in as_plain(settings).items() if key not in kept_out]
    sections = {"Licence": _LICENCES[source]} if source in _LICENCES else {}
    sections["Left out, dropped, changed or predicted"] = _remarks_text(remarks)
    sections["Look-alikes across splits"] = _leaks_text(leaks)
    sections["Settings of the build"] = markdown_table(("setting", "value"), shown)
    # Rendered pixels belong to nobody else.
    is_rendered = source == "synthetic" and not painted
    license = "apache-2.0" if is_rendered and settings.license == "unknown" else settings.license
    return data_card(
        "segmentation",
        title=settings.title or f"Defect segmentation: {'painted' if painted else source}",
        summary=_SUMMARIES["painted" if painted else source],
        license=license,
        creators=["machine-generated" if source == "synthetic" or _counted(remarks)["predicted"] else "expert-generated"],
        sections=sections,
    )


def _leaks_text(leaks: list[Leak], shown: int = 50) -> str:
    if not leaks:
        return "None found, by pixels and by a perceptual hash."

    table = markdown_table(("pair", "", "how"), [(leak.first, leak.second, leak.kind) for leak in leaks[:shown]])
    more = f"\n\n... and {len(leaks) - shown:,} more." if len(leaks) > shown else ""
    return f"{len(leaks):,} pairs. Scores on the second split are flattered by them.\n\n{table}{more}"


def _counted(remarks: list[Remark]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for remark in remarks:
        counts[remark.kind] += remark.count
    return counts


def _remarks_text(remarks: list[Remark], shown: int = 50) -> str:
    if not remarks:
        return "Nothing."

    counts = _counted(remarks)
    words = {"skipped": "images left out", "changed": "images changed", "dropped": "regions dropped", "warned": "warnings",
             "predicted": "masks predicted by a model, not drawn"}  # fmt: skip
    summary = ", ".join(f"{counts[kind]:,} {words.get(kind, kind)}" for kind in sorted(counts))
    table = markdown_table(
        ("what", "image", "why"), [(remark.kind, remark.image, _without_folder(remark)) for remark in remarks[:shown]]
    )
    more = f"\n\n... and {len(remarks) - shown:,} more." if len(remarks) > shown else ""
    return f"{summary}.\n\n{table}{more}"


def _without_folder(remark: Remark) -> str:
    """The message without the path before it: a card is published, and says nothing of the machine it was made on."""
    head, colon, tail = remark.message.partition(": ")
    return tail if colon and "/" in head else remark.message
