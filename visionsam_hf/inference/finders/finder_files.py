"""A finder's directory: `config.json`, `model.safetensors` and a card; and the maps that another system left as files.

    DIR/                                    MAPS/                       anomalib's layout, or images by name
    ├── config.json      calibration        ├── <any>/<folder>/NAME.png 8 or 16 bits
    ├── model.safetensors bank and heads    ├── NAME.tiff               float
    └── README.md        the card           └── NAME.npy                (H, W) or (1, H, W)
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import SamModel

from visionsam_hf.data.data_card import markdown_table, with_front
from visionsam_hf.data.errors import UserError, decoding
from visionsam_hf.inference.finders.cell_head import CellHead
from visionsam_hf.inference.finders.finder import Finder, FinderConfig
from visionsam_hf.inference.finders.map_prompts import PromptPlan
from visionsam_hf.models.loading import encoder_fingerprint

MODEL_TYPE = "visionsam_finder"
MAPS_PREFIX = "maps:"
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_SUFFIXES = (".png", ".tif", ".tiff", ".npy")


def save_finder(finder: Finder, directory: Path) -> None:
    """Write config and weights into a directory that is there."""
    values = {"model_type": MODEL_TYPE, **dataclasses.asdict(finder.config)}
    (directory / _CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    save_file({name: tensor.contiguous() for name, tensor in finder.state_dict().items()}, directory / _WEIGHTS)


def is_finder(directory: str | Path) -> bool:
    """Whether a directory holds a finder."""
    try:
        values = json.loads((Path(directory) / _CONFIG).read_text(encoding="utf-8"))
        return isinstance(values, dict) and values.get("model_type") == MODEL_TYPE
    except (OSError, ValueError):
        return False


def load_finder(directory: str | Path) -> Finder:
    """A finder from its directory. Raises `UserError` for anything else, or a damaged one."""
    directory = Path(directory)
    if not is_finder(directory):
        raise UserError(f"{directory}: is no finder; give the directory that 'visionsam find' wrote")
    try:
        values = json.loads((directory / _CONFIG).read_text(encoding="utf-8"))
        values.pop("model_type")
        units = {str(name): (float(mean), float(scale)) for name, (mean, scale) in values.pop("units").items()}
        config = FinderConfig(
            **{**values, "shape": tuple(values["shape"]), "units": units, "plan": PromptPlan(**values["plan"])}
        )
        weights = load_file(directory / _WEIGHTS)
        width = [weights[f"heads.{place}.reduce.weight"].shape[:2] for place in range(config.heads)]
        heads = [CellHead(channels, components) for components, channels in width]
        finder = Finder(config, weights.get("bank"), heads)
        finder.load_state_dict(weights)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        told = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise UserError(f"{directory}: is damaged ({told}); run 'visionsam find' again") from None
    return finder.eval()


def check_encoder(finder: Finder, model: SamModel, name: str) -> None:
    """Refuse a model whose encoder the finder does not know; any decoder tuned on the same frozen encoder will do."""
    if finder.config.kind != "maps" and finder.config.encoder != encoder_fingerprint(model):
        known = finder.config.model or "another model"
        raise UserError(f"{name}: has another encoder than the finder learnt from ({known}); run 'visionsam find' with it")


def finder_card(finder: Finder, *, title: str, license: str, facts: dict[str, Any]) -> str:
    """The card of a finder: what it is, how it was calibrated, how to use it, what it cannot do."""
    config = finder.config
    rows = [*facts.items(), ("threshold", f"{config.threshold:.3f}"), ("false alarm rate", config.false_alarm_rate)]
    rows += [(f"plan: {name}", value) for name, value in dataclasses.asdict(config.plan).items()]
    front = {"license": license, "library_name": "visionsam_hf", "tags": ["anomaly-detection", "visionsam", "finder"]}
    body = [
        f"# {title}",
        "Finds where a photograph looks wrong, from the embedding of a frozen SAM encoder, and says good or defective. Its"
        " regions prompt a SAM with the same encoder, which draws the masks.",
        "## How to use it\n```\nvisionsam predict --model MODEL --finder path/to/this/directory --image PHOTOS --output OUT\n```",
        "## How it was calibrated\n" + markdown_table(("what", "value"), rows),
        "## Limits\n- It knows the parts, the light and the camera that it was shown; on others, measure before you trust it."
        "\n- The rate of false alarms was set on photographs like those it was fitted on.",
    ]
    return with_front(front, "\n\n".join(body) + "\n")


class OutsideMaps:
    """Anomaly maps or masks that another system left in a folder, by the image's name.

    Args:
        directory: searched with all folders below. A name may stand in several of them, as in anomalib's
            `images/<category>/<defect>/000.png`; then the longest path in common with the image's decides.

    Raises:
        UserError: no such folder, or none of its files is a map.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        if not self.directory.is_dir():
            raise UserError(f"{directory}: no such folder of maps; give one with PNG, TIFF or NPY files by image name")
        self._files: dict[str, list[Path]] = {}
        for path in sorted(self.directory.rglob("*")):
            if path.suffix.lower() in _SUFFIXES:
                self._files.setdefault(path.stem, []).append(path)
        if not self._files:
            raise UserError(f"{directory}: holds no maps; give a folder with PNG, TIFF or NPY files by image name")

    def map_of(self, image: str, original_size: Sequence[int]) -> np.ndarray:
        """(H, W) float32 map of an image by its id or file name.

        A map of another size is enlarged where it has the image's shape (each side to a cell's rounding) or is square, as
        most systems resize to a square.

        Raises:
            UserError: no map, several that fit, a damaged one, or one whose size does not fit.
        """
        name = Path(image.replace(":", "/"))
        places = self._files.get(name.name, []) or self._files.get(name.stem, [])
        if len(places) > 1:
            wanted = name.with_suffix("").parts
            places = [path for path in places if path.relative_to(self.directory).with_suffix("").parts[-len(wanted) :] == wanted]
        if len(places) != 1:
            told = f"{len(places)} maps fit" if places else "no map fits"
            raise UserError(f"{self.directory}: {told} the image '{image}'; name maps after their images, folders included")
        with decoding(places[0]):
            found = np.load(places[0], allow_pickle=False) if places[0].suffix == ".npy" else _picture(places[0])
        found = np.squeeze(np.asarray(found, np.float32))
        return _fitted(found, original_size, places[0])


def _picture(path: Path) -> np.ndarray:
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError("no image")
    return pixels if pixels.ndim == 2 else pixels[..., :3].astype(np.float32).mean(-1)


def _fitted(found: np.ndarray, original_size: Sequence[int], path: Path) -> np.ndarray:
    height, width = original_size
    if found.ndim != 2 or not np.isfinite(found).all():
        raise UserError(f"{path}: is no (H, W) map of finite numbers; write one number a pixel")
    if found.shape == (height, width):
        return found
    scale = max(found.shape) / max(height, width)
    same_shape = all(abs(side - whole * scale) <= 1 for side, whole in zip(found.shape, original_size))
    if not (same_shape or found.shape[0] == found.shape[1]):
        size = f"{found.shape[1]} x {found.shape[0]}"
        raise UserError(f"{path}: is {size} pixels, its image {width} x {height}; write maps at the image's size, or square")
    return cv2.resize(found, (width, height), interpolation=cv2.INTER_LINEAR)
