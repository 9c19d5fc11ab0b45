"""One module a source (mask_folder, coco_folder, mvtec_ad, vision, synthetic), each with a `datasets.GeneratorBasedBuilder`.

The others are what sources share: coco reads its annotations, photographs reads image files, lookalikes finds pieces that
were photographed twice, planned writes splits. A new source is a builder here, its settings in
`visionsam_hf/cli/dataset_options.py`, one line in `COMMANDS` and one in `visionsam_hf/cli/build.py`.
"""

from importlib import import_module
from typing import Any

_SOURCES = {
    "CocoFolder": "coco_folder",
    "Vision": "vision",
    "MVTecAD": "mvtec_ad",
    "MaskFolder": "mask_folder",
    "Synthetic": "synthetic",
}

__all__ = ["CocoFolder", "MVTecAD", "MaskFolder", "Synthetic", "Vision"]


def __getattr__(name: str) -> Any:
    # The renderer in datasets_builders.world needs numpy and OpenCV only, and starts faster without the rest.
    if name not in _SOURCES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_SOURCES[name]}"), name)
