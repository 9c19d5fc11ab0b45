"""What the commands that make or look at segmentation data sets can be told; the others: options.py."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from visionsam_hf.data.errors import UserError
from visionsam_hf.data.records import looks_local
from visionsam_hf.data.settings import Count, setting


@dataclass
class BuildSettings:
    """What every source needs."""

    source: str = setting("", "the source")
    output_dir: str = setting("", "directory of the data set to write", required=True)
    seed: int = setting(0, "seed of every draw")
    on_error: Literal["stop", "skip"] = setting("stop", "at bad input: stop, or skip it and count it in the card")
    num_proc: Count = setting(1, "processes; the result is the same on any number")
    curated: str = setting("", "manifest.csv of curate: the train split keeps only the images it keeps", input=True)
    title: str = setting("", "the card's heading (default: made from the source)")
    license: str = setting("unknown", "licence of the images, as the Hub spells it, e.g. cc-by-4.0")

    def __post_init__(self) -> None:
        if self.source != type(self).source:
            raise UserError(f"key 'source' is '{self.source}', but the command is 'build {type(self).source}'")


@dataclass
class SyntheticSettings(BuildSettings):
    """Rendered products, or defects painted on good photographs."""

    source: str = setting("synthetic", "this source")
    image_size: int = setting(256, "side of a rendered image in pixels; photographs keep their size")
    images: dict[str, int] = setting({"train": 200, "validation": 20, "test": 40}, "number of images per split")
    categories: list[str] = setting([], "products to render, or folders of background_dir to use (default: all)")
    heldout_categories: list[str] = setting([], "categories that only the heldout split shows")
    target: Literal["defects", "objects", "both"] = setting(
        "defects", "what the masks show: defects, objects (products and their parts), or both"
    )
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
    invert_masks: bool = setting(False, "mask values above it are background: black is the defect")
    objects: Literal["components", "image"] = setting(
        "components", "components: each connected region is an object; image: the whole mask is one"
    )
    min_area: int = setting(10, "regions of fewer pixels are dropped and counted")
    max_objects: int = setting(32, "the largest regions of an image that are kept")
    keep_good: bool = setting(True, "keep images whose mask is empty")


@dataclass
class CocoSettings(BuildSettings):
    """A folder of one's own images and COCO annotations, as Label Studio, CVAT, Roboflow and predict write them."""

    source: str = setting("coco", "this source")
    data_dir: str = setting("", "folder with the images, at any depth", required=True, input=True)
    annotations: list[str] = setting([], "COCO files (default: every one below data_dir)", input=True)
    category: str = setting("", "category of every image (default: the class most of its annotations have)")
    heldout_categories: list[str] = setting([], "categories that go to the heldout split, whole")
    validation: float = setting(0.1, "share for validation, of images that no file called val or test assigns")
    test: float = setting(0.2, "share for test, likewise")
    keep_good: bool = setting(False, "keep images without an annotation, as good ones")
    min_score: float = setting(0.0, "leave out images with a predicted mask (predict's coco.json) of a lower score; 0: none")


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


@dataclass
class CurateSettings:
    """Keep the images of a data set that show their anomaly best."""

    dataset: str = setting("", "segmentation data set to pick from", required=True, input=True)
    output_dir: str = setting("", "directory of the curated data set", required=True)
    count: Count = setting(500, "images to keep in the train split")
    manifest: str = setting("", "an edited manifest.csv: keep what it says, instead of scoring", input=True)
    seed: int = setting(0, "of the choice of refused images on the contact sheet")


@dataclass
class InspectSettings:
    """What a data set holds, as a table here and as a page of pictures, inspect.html."""

    dataset: str = setting("", "DIR: directory or Hub id of any of the three kinds", required=True, input=True)
    output_dir: str = setting("", "where inspect.html goes (default: DATASET-inspect beside a local data set)")
    samples: int = setting(24, "samples to show per split")

    def __post_init__(self) -> None:
        base = Path(self.dataset)
        beside = base.parent if looks_local(self.dataset) else Path()
        self.output_dir = self.output_dir or str(beside / f"{base.name}-inspect")
