"""Data that anyone can have: rendered products with defects, or defects painted on one's own good photographs."""

import hashlib
import io
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datasets_builders.photographs import image_files, read_mask, read_photograph
from datasets_builders.planned import SPLITS, Plan, PlannedBuilder, PlannedConfig, Remark, assign_splits
from datasets_builders.world.scene import (
    ALL_DEFECTS,
    PRODUCTS,
    PaintSettings,
    Region,
    Scene,
    estimate_foreground,
    paint_defects,
    render_product,
    render_shapes,
)
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.masks import encode_mask
from visionsam_hf.data.schema import object_row

SHAPES = "shapes"
FOREGROUNDS = ("estimate", "margin")
_WORLD = Path(__file__).parent / "world"
# What a seed is derived for.
_CONTENT, _PAINT, _ORDER = range(3)


@dataclass(frozen=True)
class Sample:
    """One row to make: the index-th of its split, of a category, on a photograph if there is one."""

    split: str
    index: int
    category: str
    photograph: Path | None = None


@dataclass
class SyntheticConfig(PlannedConfig):
    """Settings of `Synthetic`.

    Attributes:
        image_size: side of a rendered image; photographs keep their size.
        images: how many per split.
        categories: the products to render (default: all 14); with `background_dir`, the folders to use.
        heldout_categories: those that `heldout` shows, and no other split.
        target: "defects"; "objects": the product and its parts, for a base model; or "both".
        shapes_share: share of train images with generic shapes instead of a product (target "objects" only).
        good_share: share of images without a defect.
        background_dir: paint on the good photographs in this folder instead of rendering.
        category: of every photograph; default: the folder that it lies in, under background_dir.
        defects: the types that are painted (default: all of `painter.ALL_DEFECTS`).
        defect_count: fewest and most on an image.
        defect_size: typical extent, as a share of the photograph's longer side; few are much larger.
        defect_contrast: typical change of brightness or colour, 0 to 1; most are fainter, few much stronger.
        foreground: where they may lie: "estimate" finds the product on a plain background, "margin" allows the whole
            photograph, a folder holds masks of the product, NAME.png for each photograph NAME.
        margin: share of the shorter side that stays free along the border, with foreground "margin".
    """

    image_size: int = 256
    images: dict[str, int] = field(default_factory=lambda: {"train": 200, "validation": 20, "test": 40})
    categories: list[str] = field(default_factory=list)
    heldout_categories: list[str] = field(default_factory=list)
    target: str = "defects"
    shapes_share: float = 0.0
    good_share: float = 0.0
    background_dir: str = ""
    category: str = ""
    defects: list[str] = field(default_factory=list)
    defect_count: list[int] = field(default_factory=lambda: [1, 3])
    defect_size: float = 0.075
    defect_contrast: float = 0.17
    foreground: str = "estimate"
    margin: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target not in ("defects", "objects", "both"):
            raise UserError(f"target: {self.target!r} is not a choice; choose defects, objects or both")
        for split in self.images:
            if split not in SPLITS:
                raise UserError(f"images: unknown split '{split}'; the splits are {', '.join(SPLITS)}")
        if self.image_size < 32:
            raise UserError(f"image_size: {self.image_size} is too small to show a defect; use at least 32")
        for name in ("shapes_share", "good_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}: {getattr(self, name)} is not a share; use a number from 0 to 1")
        if self.shapes_share and self.target == "defects":
            raise UserError(
                "shapes_share: generic shapes have no defects; set target to objects or both, or shapes_share to 0"
            )
        if self.background_dir and self.target != "defects":
            raise UserError("background_dir: photographs have no object masks; set target to defects")
        if self.images.get("heldout") and not self.heldout_categories:
            raise UserError("heldout_categories: images asks for a heldout split; name its categories, or ask for none")
        self.paint_settings()
        if self.defects and not self.background_dir:
            raise UserError("defects: chosen for photographs only; set background_dir, or leave defects out")

    def paint_settings(self) -> PaintSettings:
        """How defects are painted. Raises `UserError` naming the key that cannot be."""
        if len(self.defect_count) != 2 or not 1 <= self.defect_count[0] <= self.defect_count[1]:
            raise UserError(f"defect_count: {self.defect_count} is no range; give the fewest and the most, e.g. [1, 3]")
        if not 0.01 <= self.defect_size <= 0.4:
            raise UserError(f"defect_size: {self.defect_size} is not in [0.01, 0.4], a share of the longer side")
        if not 0.02 <= self.defect_contrast <= 0.6:
            raise UserError(f"defect_contrast: {self.defect_contrast} is not in [0.02, 0.6]; 1 is black to white")
        if not 0 <= self.margin < 0.5:
            raise UserError(f"margin: {self.margin} is not in [0, 0.5), a share of the shorter side")
        return PaintSettings(
            defects=tuple(self.defects or ALL_DEFECTS),
            count=(self.defect_count[0], self.defect_count[1]),
            size=self.defect_size,
            contrast=self.defect_contrast,
            margin=self.margin,
        )

    def source_manifest(self) -> str:
        """The renderer's source, and name, size and time of every photograph."""
        digest = hashlib.sha256()
        for path in sorted(_WORLD.glob("*.py")):
            digest.update(path.read_bytes())
        masks = image_files(Path(self.foreground)) if self.foreground not in FOREGROUNDS else []
        for path in (*good_photographs(self.background_dir), *masks):
            status = path.stat()
            digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
        return digest.hexdigest()[:32]


class Synthetic(PlannedBuilder):
    """Rendered products (datasets_builders.world) or painted photographs, with exact masks.

    The same settings give the same rows on any number of processes: a row depends on seed, split and index alone.
    With `background_dir`, a photograph serves one split only.

    Example:
        builder = Synthetic(images={"train": 100, "heldout": 20}, heldout_categories=["lens", "wood"])
        builder.download_and_prepare(num_proc=2)
        endless = builder.as_streaming_dataset("train")     # renders as it is read
    """

    BUILDER_CONFIG_CLASS = SyntheticConfig

    def plan(self) -> Plan:
        """Which category, and which photograph, each row shows."""
        return self._painted_plan() if self.config.background_dir else self._rendered_plan()

    def _rendered_plan(self) -> Plan:
        config = self.config
        for name in (*config.categories, *config.heldout_categories):
            if name not in PRODUCTS:
                raise UserError(f"categories: there is no product '{name}'; the products are {', '.join(PRODUCTS)}")
        wanted = {*(config.categories or PRODUCTS), *config.heldout_categories}
        names = [name for name in PRODUCTS if name in wanted]
        trained = [name for name in names if name not in config.heldout_categories]
        held = [name for name in names if name in config.heldout_categories]
        splits: dict[str, list[Any]] = {}
        for split, count in config.images.items():
            choice = held if split == "heldout" else trained
            if count and not choice:
                raise UserError(f"heldout_categories: no category is left for split '{split}'; hold out fewer")
            splits[split] = [Sample(split, index, self._drawn(split, index, choice)) for index in range(count)]
        return Plan(names + [SHAPES] * bool(config.shapes_share), splits)

    def _drawn(self, split: str, index: int, choice: list[str]) -> str:
        if split == "train" and self._rng(_CONTENT, split, index).random() < self.config.shapes_share:
            return SHAPES
        return choice[index % len(choice)]

    def _painted_plan(self) -> Plan:
        config = self.config
        root = Path(config.background_dir)
        if not root.is_dir():
            raise UserError(f"{root}: no such folder; set background_dir to a folder of good photographs")
        if config.foreground not in FOREGROUNDS and not Path(config.foreground).is_dir():
            raise UserError(f"foreground: {config.foreground!r} is neither estimate, nor margin, nor a folder of masks")
        photographs: dict[Path, str] = {}
        for path in good_photographs(config.background_dir):
            parts = path.relative_to(root).parts
            name = config.category or (parts[0] if len(parts) > 1 else root.name)
            if not config.categories or name in (*config.categories, *config.heldout_categories):
                photographs[path] = name
        if not photographs:
            raise UserError(f"{root}: no photograph to paint on; put JPEG or PNG images of good parts there")
        total = sum(count for split, count in config.images.items() if split != "heldout")
        assigned = assign_splits(
            [(name, str(path)) for path, name in photographs.items()],
            heldout=config.heldout_categories,
            validation=config.images.get("validation", 0) / max(1, total),
            test=config.images.get("test", 0) / max(1, total),
            seed=config.seed,
        )
        pools: dict[str | None, list[Path]] = defaultdict(list)
        for path, split in zip(photographs, assigned):
            pools[split].append(path)
        splits: dict[str, list[Any]] = {}
        for split, count in config.images.items():
            pool = pools[split]
            if count and not pool:
                raise UserError(f"{root}: its {len(photographs)} photographs leave none for split '{split}'; add more")
            order = self._rng(_ORDER, split, 0).permutation(len(pool))
            chosen = [pool[order[index % len(pool)]] for index in range(count)]
            splits[split] = [Sample(split, index, photographs[path], path) for index, path in enumerate(chosen)]
        return Plan(sorted(set(photographs.values())), splits)

    def image_id(self, record: Sample) -> str:
        """Split, category and index."""
        return f"{record.split}/{record.category}/{record.index:06d}"

    def row(self, record: Sample) -> tuple[dict[str, Any], list[Remark]]:
        """Render, or paint, one row."""
        wants_defect = self._rng(_CONTENT, record.split, record.index).random() >= self.config.good_share
        remarks: list[Remark] = []
        if record.photograph is not None:
            pixels, regions, remarks = self._painted(record, wants_defect)
            defective, source = bool(regions), f"painted on {Path(self.config.background_dir).name}"
        else:
            scene = self._scene(record, wants_defect)
            pixels, defective, source = scene.image, bool(scene.defects), "synthetic"
            of_target = {"defects": scene.defects, "objects": scene.objects, "both": (*scene.objects, *scene.defects)}
            regions = of_target[self.config.target]
        masks = [region.mask for region in regions]
        row = {
            "image": {"bytes": _png(pixels), "path": f"{record.index:06d}.png"},
            "mask": encode_mask(np.logical_or.reduce(masks) if masks else np.zeros(pixels.shape[:2], bool)),
            "image_id": self.image_id(record),
            "source": source,
            "category": record.category,
            "defective": defective,
            "objects": [object_row(region.mask, region.kind) for region in regions],
        }
        return row, remarks

    def _scene(self, record: Sample, defective: bool) -> Scene:
        # Splits are worlds apart: the same index in two of them must not show the same part.
        seed = int(np.random.SeedSequence([self.config.seed, SPLITS.index(record.split)]).generate_state(1)[0])
        place = {"size": self.config.image_size, "seed": seed, "index": record.index}
        if record.category == SHAPES:
            return render_shapes(**place)
        return render_product(record.category, **place, defective=defective)

    def _painted(self, record: Sample, defective: bool) -> tuple[np.ndarray, tuple[Region, ...], list[Remark]]:
        assert record.photograph is not None  # the plan of painted samples names one each
        photograph = read_photograph(record.photograph)
        remarks = [Remark("changed", str(record.photograph.name), change) for change in photograph.changes]
        image = Image.open(io.BytesIO(photograph.stored["bytes"]))
        pixels, regions = np.asarray(image.convert("RGB")), tuple[Region, ...]()
        if defective:
            rng = self._rng(_PAINT, record.split, record.index)
            allowed = self._foreground(record.photograph, pixels)
            settings = self.config.paint_settings()
            pixels, regions = paint_defects(pixels, rng=rng, settings=settings, foreground=allowed)
        if image.mode == "L":  # a grey camera sees no coloured stains
            pixels = np.asarray(Image.fromarray(pixels).convert("L"))
        return pixels, regions, remarks

    def _foreground(self, photograph: Path, pixels: np.ndarray) -> np.ndarray | None:
        """(H, W) bool, where defects may lie, or None for all but the margin."""
        if self.config.foreground == "margin":
            return None
        if self.config.foreground == "estimate":
            return estimate_foreground(pixels)
        mask = Path(self.config.foreground) / photograph.relative_to(self.config.background_dir).with_suffix(".png")
        return read_mask(mask, size=(pixels.shape[1], pixels.shape[0]))

    def _rng(self, purpose: int, split: str, index: int) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, purpose, SPLITS.index(split), index])


def good_photographs(folder: str | Path) -> list[Path]:
    """The photographs of a folder, sorted; a PNG beside a JPEG of its name, or NAME_mask, is a mask and passed over."""
    if not folder or not Path(folder).is_dir():
        return []
    files = [path for path in image_files(Path(folder)) if not path.stem.endswith("_mask")]
    jpegs = {path.with_suffix("") for path in files if path.suffix.lower() in (".jpg", ".jpeg")}
    return [path for path in files if path.suffix.lower() != ".png" or path.with_suffix("") not in jpegs]


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
