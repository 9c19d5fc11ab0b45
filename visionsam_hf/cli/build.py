"""`visionsam build SOURCE CONFIG`: a source of images and masks becomes a segmentation data set directory."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visionsam_hf.cli.run import stage_run
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.settings import as_plain, setting

if TYPE_CHECKING:
    from datasets_builders.lookalikes import Leak
    from datasets_builders.planned import PlannedBuilder, Remark

logger = logging.getLogger(__name__)


@dataclass
class BuildSettings:
    """What every source needs."""

    source: str = setting("", "the source")
    output_dir: str = setting("", "directory of the data set to write", required=True)
    seed: int = setting(0, "seed of every draw")
    on_error: str = setting("stop", "at bad input: stop, or skip it and count it in the card")
    num_proc: int = setting(1, "processes; the result is the same on any number")
    curated: str = setting("", "manifest.csv of curate: the train split keeps only the images it keeps", input=True)
    title: str = setting("", "the card's heading (default: made from the source)")
    license: str = setting("unknown", "licence of the images, as the Hub spells it, e.g. cc-by-4.0")


@dataclass
class SyntheticSettings(BuildSettings):
    """Rendered products, or defects painted on good photographs."""

    source: str = setting("synthetic", "this source")
    image_size: int = setting(256, "side of a rendered image in pixels; photographs keep their size")
    images: dict[str, int] = setting({"train": 200, "validation": 20, "test": 40}, "number of images per split")
    categories: list[str] = setting([], "products to render, or folders of background_dir to use (default: all)")
    heldout_categories: list[str] = setting([], "categories that only the heldout split shows")
    target: str = setting("defects", "what the masks show: defects, objects (products and their parts), or both")
    shapes_share: float = setting(0.0, "share of train images with generic shapes (target objects or both)")
    good_share: float = setting(0.0, "share of images without a defect")
    background_dir: str = setting("", "paint on the good photographs in this folder instead of rendering", input=True)
    category: str = setting("", "category of every photograph (default: the folder it lies in)")
    defects: list[str] = setting([], "defect types to paint on photographs, of docs/data.md (default: all)")
    defect_count: list[int] = setting([1, 3], "fewest and most painted defects on a photograph")
    defect_size: float = setting(0.075, "typical extent of a painted defect, as a share of the longer side")
    defect_contrast: float = setting(0.17, "typical change of brightness or colour of a painted defect, 0 to 1")
    foreground: str = setting(
        "estimate", "where to paint: estimate (the product on a plain background), margin, or a folder of masks"
    )
    margin: float = setting(0.0, "share of the shorter side that stays free along the border (foreground margin)")


@dataclass
class MasksSettings(BuildSettings):
    """A folder of one's own images and masks."""

    source: str = setting("masks", "this source")
    data_dir: str = setting("", "folder with images and masks (layouts: docs/data.md)", required=True, input=True)
    category: str = setting("", "category of images in no class folder (default: the folder's name)")
    heldout_categories: list[str] = setting([], "categories that go to the heldout split, whole")
    validation: float = setting(0.1, "share of the other images for validation")
    test: float = setting(0.2, "share of the other images for test")
    group_pattern: str = setting("", "regular expression on the stem; its first group says which piece an image shows")
    group_similar: bool = setting(False, "images that look alike show one piece: keep them in one split")
    mask_threshold: int = setting(127, "mask values above it are defect")
    objects: str = setting("components", "components: each connected region is an object; image: the whole mask is one")
    min_area: int = setting(10, "regions of fewer pixels are dropped and counted")
    max_objects: int = setting(32, "the largest regions of an image that are kept")
    keep_good: bool = setting(True, "keep images whose mask is empty")


@dataclass
class VisionSettings(BuildSettings):
    """The VISION data set, from archives or unpacked folders."""

    source: str = setting("vision", "this source")
    data_dir: str = setting("", "folder with <Category>.tar.gz or <Category>/", required=True, input=True)
    categories: list[str] = setting([], "categories to take (default: all that are there)")
    heldout_categories: list[str] = setting([], "categories that go to the heldout split, whole")
    validation: float = setting(0.1, "share of VISION's train images for validation; its val images are test")
    license: str = setting("cc-by-nc-4.0", "licence of the images, as the Hub spells it")


@dataclass
class MVTecADSettings(MasksSettings):
    """The MVTec AD data set."""

    source: str = setting("mvtec_ad", "this source")
    data_dir: str = setting("", "folder with the category folders", required=True, input=True)
    categories: list[str] = setting([], "categories to take (default: all that are there)")
    sample_per_category: int = setting(0, "that many defective images of each category, drawn by seed; 0: all")
    validation: float = setting(0.0, "share of the defective images for validation")
    test: float = setting(1.0, "share of the defective images for test")
    keep_good: bool = setting(False, "add the good images, to train and test as MVTec AD has them")
    license: str = setting("cc-by-nc-sa-4.0", "licence of the images, as the Hub spells it")


SETTINGS: dict[str, type[BuildSettings]] = {
    "synthetic": SyntheticSettings,
    "masks": MasksSettings,
    "vision": VisionSettings,
    "mvtec_ad": MVTecADSettings,
}


def run(source: str, settings: BuildSettings) -> None:
    """Build the data set of `settings` into its `output_dir`.

    Args:
        source: a key of `SETTINGS`.
        settings: of that class.

    Raises:
        UserError: an unknown source, bad input (unless on_error is "skip"), or nothing left to write.
    """
    if source not in SETTINGS or not isinstance(settings, SETTINGS[source]):
        raise UserError(f"build: no source '{source}'; choose {', '.join(SETTINGS)}")
    if settings.source != source:
        raise UserError(f"source: the settings say '{settings.source}', the command '{source}'; make them agree")
    if settings.num_proc < 1:
        raise UserError(f"num_proc: {settings.num_proc} is not a number of processes; use 1 or more")
    with stage_run("build", settings) as stage:
        from visionsam_hf.data.dataset_directory import rows_of, write_card, write_splits

        with tempfile.TemporaryDirectory(prefix=".cache-", dir=stage.directory) as cache:
            builder = _builder(source, settings, cache)
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
        write_card(stage.directory, _card(source, settings, remarks, leaks), features, rows)
        counts = _counted(remarks)
        stage.results.update(rows=rows, remarks=dict(counts), leaks=len(leaks))
    if leaks:
        pairs = "; ".join(f"{leak.first} = {leak.second}" for leak in leaks[:3])
        logger.warning(
            "%d pairs of images in two splits look alike (%s%s); %s/README.md lists them,"
            " group_pattern or group_similar keeps them together",
            *(len(leaks), pairs, "; ..." if len(leaks) > 3 else "", settings.output_dir),
        )
    if counts["skipped"]:
        logger.warning("%d images were left out; %s/README.md says why", counts["skipped"], settings.output_dir)


def _builder(source: str, settings: BuildSettings, cache: str) -> PlannedBuilder:
    if source == "synthetic":
        from datasets_builders.synthetic import Synthetic as Builder
    elif source == "vision":
        from datasets_builders.vision import Vision as Builder
    elif source == "mvtec_ad":
        from datasets_builders.mvtec_ad import MVTecAD as Builder
    else:
        from datasets_builders.masks import MaskFolder as Builder
    known = {field.name for field in dataclasses.fields(Builder.BUILDER_CONFIG_CLASS)}
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    return Builder(cache_dir=cache, **{name: value for name, value in values.items() if name in known})


_SUMMARIES = {
    "synthetic": "Parametric products with rendered defects; every mask is exact, because the renderer made it.",
    "painted": "Photographs of good parts with painted defects; every mask is exact, because the painter made it.",
    "masks": "Photographs with pixel masks, from a local folder.",
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
    from visionsam_hf.data.curation import read_kept
    from visionsam_hf.data.dataset_directory import rows_of

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
    from datasets_builders.lookalikes import find_leaks
    from visionsam_hf.data.dataset_directory import load_split, rows_of

    def images(split: str) -> Iterator[tuple[str, bytes]]:
        dataset = load_split(directory.absolute(), split, kind="segmentation", streaming=True)
        for row in rows_of(dataset.select_columns(["image_id", "image"])):
            yield row["image_id"], row["image"]["bytes"]

    return find_leaks({split: images(split) for split in splits})


def _card(source: str, settings: BuildSettings, remarks: list[Remark], leaks: list[Leak]) -> str:
    from visionsam_hf.data.data_card import data_card, markdown_table

    painted = bool(getattr(settings, "background_dir", ""))
    kept_out = ("output_dir", "num_proc", "title", "license", "data_dir", "background_dir", "curated")
    shown = [(f"`{key}`", f"`{value}`") for key, value in as_plain(settings).items() if key not in kept_out]
    sections = {"Licence": _LICENCES[source]} if source in _LICENCES else {}
    sections["Left out, dropped or changed"] = _remarks_text(remarks)
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
        creators=["machine-generated"] if source == "synthetic" else ["expert-generated"],
        sections=sections,
    )


def _leaks_text(leaks: list[Leak], shown: int = 50) -> str:
    if not leaks:
        return "None found, by pixels and by a perceptual hash."
    from visionsam_hf.data.data_card import markdown_table

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
    from visionsam_hf.data.data_card import markdown_table

    counts = _counted(remarks)
    words = {"skipped": "images left out", "changed": "images changed", "dropped": "regions dropped"}
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
