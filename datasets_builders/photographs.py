"""Images, masks and archives that somebody else made, read with suspicion.

A photograph comes out upright and in 8 bits, a mask as bool. An archive is unpacked only where its entries are plain files,
only inside the target, and only to so many bytes.
"""

import contextlib
import hashlib
import io
import shutil
import tarfile
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from visionsam_hf.data.errors import UserError
from visionsam_hf.data.files import written_directory
from visionsam_hf.data.masks import encode_mask
from visionsam_hf.data.schema import object_row

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
# Above any inspection camera's frame, below what takes a machine's memory.
MAX_PIXELS = 100_000_000

# Photographs hardly shrink in an archive; a file that grows more than this is meant to fill the disk.
MAX_GROWTH = 50
# Below this size no growth is a danger.
ALWAYS_ALLOWED_BYTES = 64 << 20
_COPY_BYTES = 1 << 20

_ORIENTATION = 0x0112
_KEPT_AS_THEY_ARE = {("JPEG", "RGB"), ("JPEG", "L"), ("PNG", "RGB"), ("PNG", "L")}


@dataclass(frozen=True)
class Photograph:
    """An upright 8-bit photograph as the data set stores it.

    Attributes:
        stored: {"bytes", "path"} for an `Image` column; the file's own bytes where they can stay.
        size: (width, height) in pixels.
        changes: what had to be changed, for the card.
    """

    stored: dict[str, Any]
    size: tuple[int, int]
    changes: tuple[str, ...]

    def row(
        self, mask: np.ndarray, objects: list[dict[str, Any]], *, image_id: str, source: str, category: str
    ) -> dict[str, Any]:
        """Its row of the segmentation schema: the union (H, W) bool of its defects, and each of them."""
        return {
            "image": self.stored,
            "mask": encode_mask(mask),
            "image_id": image_id,
            "source": source,
            "category": category,
            "defective": bool(objects),
            "objects": objects,
        }


def is_image_file(path: Path) -> bool:
    """Whether a file of a folder is meant as an image: by its suffix, and not macOS's `._` shadow of one."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def image_files(root: Path) -> list[Path]:
    """Every image file under a folder, sorted; hidden files and folders are passed over."""
    found = (path for path in root.rglob("*") if is_image_file(path) and path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts))


def path_inside(root: Path, name: str, listed_in: str | Path) -> Path:
    """The path of a file named by a list; a name that leads out of the root is a `UserError`."""
    path = root / name
    if not name or not path.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{listed_in}: the file name {name!r} leaves {root}; use names inside that folder")
    return path


def read_photograph(path: Path) -> Photograph:
    """The photograph in a file, turned upright and brought to 8 bits a channel.

    16-bit values are shifted down by the image's own bit depth (10, 12, 14 or 16), as cameras store them.

    Raises:
        UserError: no file, zero bytes, not an image, truncated, more than 100 megapixels.
    """
    with _opened(path, "image") as image:
        changes = []
        name = path.name
        upright = image.getexif().get(_ORIENTATION, 1) in (0, 1)
        if (image.format, image.mode) in _KEPT_AS_THEY_ARE and upright:
            return Photograph({"bytes": path.read_bytes(), "path": name}, image.size, ())
        if not upright:
            image = ImageOps.exif_transpose(image)
            changes.append("turned upright by its EXIF orientation")
        if image.mode not in ("RGB", "L"):
            changes.append(f"converted from mode {image.mode} to 8 bits")
            image = _eight_bits(image)
        pixels = Image.fromarray(np.asarray(image))  # without the metadata, which would turn it again
    buffer = io.BytesIO()
    pixels.save(buffer, "PNG")
    return Photograph({"bytes": buffer.getvalue(), "path": f"{path.stem}.png"}, pixels.size, tuple(changes))


def read_mask(path: Path, *, size: tuple[int, int], threshold: int = 127) -> np.ndarray:
    """The mask in a file: pixels above the threshold, in any channel; of a coloured palette, those not black.

    Args:
        path: the file.
        size: (width, height) that it must have: its image's, upright.
        threshold: on 8-bit values.

    Returns:
        (H, W) bool.

    Raises:
        UserError: as `read_photograph`; another size; values that are all below the threshold, yet not 0.
    """
    with _opened(path, "mask") as image:
        if image.size != size:
            raise UserError(
                f"{path}: the mask is {image.width}x{image.height} pixels, its image (upright) {size[0]}x{size[1]};"
                " export the mask at the image's size"
            )
        if image.mode == "P":
            colours = np.asarray(image.convert("RGB"))
            is_grey = bool((colours[..., 0] == colours[..., 1]).all() and (colours[..., 1] == colours[..., 2]).all())
            levels = colours.max(-1) if is_grey else np.where(colours.any(-1), 255, 0)
        else:
            values = np.asarray(_eight_bits(image))
            levels = values.max(-1) if values.ndim == 3 else values
    mask = levels > threshold
    brightest = int(levels.max(initial=0))
    if 0 < brightest <= threshold and not mask.any():
        raise UserError(
            f"{path}: no value of the mask is above mask_threshold {threshold} (the highest is {brightest});"
            f" set mask_threshold below {brightest}"
        )
    return mask


@contextlib.contextmanager
def _opened(path: Path, role: str) -> Iterator[Image.Image]:
    """A fully read image; every way that a file can be bad as one line."""
    try:
        if path.stat().st_size == 0:
            raise UserError(f"{path}: the {role} is empty (0 bytes); copy it again, or pass --on_error skip")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise _too_big(path, role, image.width * image.height)
                image.load()
                yield image
    except Image.DecompressionBombError:
        raise _too_big(path, role, 2 * (Image.MAX_IMAGE_PIXELS or MAX_PIXELS)) from None
    except UnidentifiedImageError:
        raise UserError(f"{path}: the {role} is not an image file; replace it, or pass --on_error skip") from None
    except FileNotFoundError:
        raise UserError(f"{path}: the {role} is missing; add the file, or pass --on_error skip") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(
            f"{path}: the {role} is truncated or damaged ({error}); copy it again, or pass --on_error skip"
        ) from None


def _too_big(path: Path, role: str, pixels: int) -> UserError:
    return UserError(
        f"{path}: the {role} has at least {pixels / 1e6:.0f} megapixels, more than the {MAX_PIXELS / 1e6:.0f} allowed;"
        " scale it down"
    )


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        if image.mode == "F" or values.min(initial=0) < 0:
            raise ValueError(f"mode {image.mode} with values that are not 16-bit grey")
        bits = max(8, int(values.max(initial=0)).bit_length())
        bits += bits % 2
        return Image.fromarray((values.astype(np.uint32) >> (bits - 8)).astype(np.uint8))
    return image if image.mode in ("RGB", "L") else image.convert("L" if image.mode in ("1", "LA", "La") else "RGB")


def mask_objects(
    mask: np.ndarray, defect: str, *, objects: str, min_area: int, max_objects: int
) -> tuple[list[dict[str, Any]], np.ndarray, int]:
    """The `objects` rows of a mask, their union, and how many regions were dropped.

    Args:
        mask: (H, W) bool.
        defect: the name of each object.
        objects: "components": each 8-connected region is an object, in scan order; "image": the whole mask is one.
        min_area: regions of fewer pixels are dropped.
        max_objects: of the rest, the largest are kept.

    Returns:
        rows for the `objects` column, (H, W) bool union of them, number of regions dropped.
    """
    if objects == "image":
        if mask.sum() >= max(1, min_area):
            return [object_row(mask, defect)], mask, 0
        return [], np.zeros_like(mask), int(mask.any())
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = statistics[:, cv2.CC_STAT_AREA]
    large = 1 + np.flatnonzero(areas[1:] >= max(1, min_area))
    kept = np.sort(large[np.argsort(-areas[large], kind="stable")][:max_objects])
    rows = [object_row(labels == label, defect) for label in kept]
    return rows, np.isin(labels, kept), count - 1 - len(kept)


def unpack(archive: Path, target_root: Path) -> Path:
    """The folder with an archive's images and JSON files, unpacked at the first call.

    Args:
        archive: a .tar or .tar.gz file.
        target_root: where the folder goes; its name carries the archive's size and time.

    Raises:
        UserError: damaged, or an entry that is a link or a device, leads outside, or unpacks to too much. Then nothing
            is left of it.
    """
    status = archive.stat()
    version = hashlib.sha256(f"{archive.resolve()}{status.st_size}{status.st_mtime_ns}".encode()).hexdigest()[:12]
    target = target_root / f"{archive.name.split('.')[0]}-{version}"
    if target.is_dir():
        return target
    try:
        with written_directory(target) as work:
            _unpack_into(archive, work, max(ALWAYS_ALLOWED_BYTES, MAX_GROWTH * status.st_size))
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise UserError(f"{archive}: the archive is damaged ({error}); download it again") from None
    return target


def _unpack_into(archive: Path, work: Path, allowed: int) -> None:
    with tarfile.open(archive, mode="r|*") as entries:
        for entry in entries:
            name = PurePosixPath(entry.name)
            if entry.isdir():
                continue
            if name.is_absolute() or ".." in name.parts or "\\" in entry.name:
                raise UserError(f"{archive}: the entry {entry.name!r} leads outside the folder; get it from its source")
            if not entry.isfile() or entry.issparse():
                raise UserError(f"{archive}: the entry {entry.name!r} is not a plain file; get it from its source")
            allowed -= entry.size
            if allowed < 0:
                size = f"more than {MAX_GROWTH} times its size"
                raise UserError(f"{archive}: unpacks to {size}, at {entry.name!r}; get it from its source")
            if name.name.startswith(".") or name.suffix.lower() not in {*IMAGE_SUFFIXES, ".json"}:
                continue  # AppleDouble shadows and whatever else is no data
            path = work.joinpath(*name.parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            source = entries.extractfile(entry)
            assert source is not None  # a plain file has content
            with path.open("xb") as file:
                shutil.copyfileobj(source, file, _COPY_BYTES)
