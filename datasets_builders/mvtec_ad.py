"""MVTec AD: 15 products and textures, good images to train on, defects with masks to test on."""

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from datasets_builders.mask_folder import MaskFolder, MaskFolderConfig, Pair
from datasets_builders.photographs import image_files
from datasets_builders.planned import Plan, Remark, assign_splits, files_digest


@dataclass
class MVTecADConfig(MaskFolderConfig):
    """Settings of `MVTecAD`; those of `MaskFolder`, with other defaults, and:

    Attributes:
        data_dir: the folder with the 15 category folders.
        categories: those to take (default: all that are there).
        sample_per_category: that many defective images of each category, drawn by seed; 0 takes all.
        keep_good: add the good images of `train/good` to the train split, and those of `test/good` to test.
        validation, test: shares of the defective images; all are for testing unless you say otherwise.
    """

    categories: list[str] = field(default_factory=list)
    sample_per_category: int = 0
    validation: float = 0.0
    test: float = 1.0
    keep_good: bool = False

    def source_manifest(self) -> str:
        """The content of the masks; name, size and time of every image."""
        root = self.root()
        return files_digest(root, image_files(root), lambda path: "ground_truth" in path.relative_to(root).parts)


class MVTecAD(MaskFolder):
    """MVTec AD as a segmentation data set.

        DATA_DIR/
        └── bottle/
            ├── train/good/000.png
            ├── test/good/000.png
            ├── test/broken_large/000.png
            └── ground_truth/broken_large/000_mask.png

    The zero-shot study's 210 images are 15 of each of 14 categories:

        MVTecAD(data_dir="mvtec_ad", categories=[...14 names...], sample_per_category=15, seed=0)
    """

    BUILDER_CONFIG_CLASS = MVTecADConfig

    def plan(self) -> Plan:
        """Pair the files, draw the sample and the splits."""
        config, root = self.config, self.config.root()
        folders = {path.name: path for path in sorted(root.iterdir()) if (path / "test").is_dir()}
        problems: list[Remark] = []
        defective: list[Pair] = []
        good: dict[str, list[Pair]] = defaultdict(list)
        for category, folder in self.chosen(folders).items():
            pairs = self._defective(root, folder, problems)
            if config.sample_per_category:
                rng = np.random.default_rng([config.seed, int(hashlib.sha256(category.encode()).hexdigest()[:8], 16)])
                order = np.sort(rng.permutation(len(pairs))[: config.sample_per_category])
                pairs = [pairs[place] for place in order]
            defective += pairs
            for part in ("train", "test") if config.keep_good else ():
                split = "heldout" if category in config.heldout_categories else part
                for path in image_files(folder / part / "good"):
                    good[split].append(Pair(_id(root, path), path, None, category, "good"))
        splits = assign_splits(
            [(pair.category, pair.image_id) for pair in defective],
            heldout=config.heldout_categories,
            validation=config.validation,
            test=config.test,
            seed=config.seed,
        )
        planned: dict[str, list[Any]] = defaultdict(list)
        for pair, drawn in zip(defective, splits):
            planned[str(drawn)].append(pair)
        for split, pairs in good.items():
            planned[split] += pairs
        names = sorted({pair.category for pairs in planned.values() for pair in pairs})
        return Plan(names, dict(planned), tuple(problems))

    def _defective(self, root: Path, folder: Path, problems: list[Remark]) -> list[Pair]:
        pairs = []
        for path in image_files(folder / "test"):
            defect = path.parent.name
            if defect == "good":
                continue
            mask = folder / "ground_truth" / defect / f"{path.stem}_mask.png"
            if mask.is_file():
                pairs.append(Pair(_id(root, path), path, mask, folder.name, defect))
                continue
            message = f"{path}: its mask {mask} is missing; unpack the data set again, or pass --on_error skip"
            self.leave_out(problems, _id(root, path), message)
        return pairs


def _id(root: Path, path: Path) -> str:
    return path.relative_to(root).with_suffix("").as_posix()
