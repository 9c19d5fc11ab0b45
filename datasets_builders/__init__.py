"""One module a source, each with a `datasets.GeneratorBasedBuilder`; imported when asked for."""

from importlib import import_module
from typing import Any

_SOURCES = {"Vision": "vision", "MVTecAD": "mvtec_ad", "MaskFolder": "mask_folder", "Synthetic": "synthetic"}

__all__ = ["MVTecAD", "MaskFolder", "Synthetic", "Vision"]


def __getattr__(name: str) -> Any:
    # The renderer in datasets_builders.world needs numpy and OpenCV only, and starts faster without the rest.
    if name not in _SOURCES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_SOURCES[name]}"), name)
