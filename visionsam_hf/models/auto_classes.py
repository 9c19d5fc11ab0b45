"""The Auto classes of transformers and the models of this package: what importing this module tells them, and the code that
goes with a saved model.

Importing it makes `AutoModel`, `AutoProcessor` and the like know MobileSAM and LiteMedSAM. Where this package is not
installed they take the code from beside the weights (`trust_remote_code=True`): `save_pretrained` puts it there. Those files
import only each other and public packages, and register nothing by themselves, so that a second model's copy is not
taken for the first's.
"""

import json
from pathlib import Path
from typing import Any

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForMaskGeneration,
    AutoProcessor,
    SamProcessor,
)

from visionsam_hf.models.image_processing import MinMaxSamImageProcessor
from visionsam_hf.models.mobile_sam import MobileSamModel
from visionsam_hf.models.mobile_sam_config import MobileSamConfig

_MODEL_CODE = ("mobile_sam.py", "mobile_sam_config.py", "tiny_vit.py")
_PROCESSOR_CODE = ("image_processing.py",)


def code_files(directory: str | Path) -> list[Path]:
    """This package's files that transformers needs beside a saved model or adapter; none for a plain SAM.

    An adapter's are those of its processor: its base model's lie beside the base model.
    """
    names: tuple[str, ...] = ()
    if _read(directory, "config.json").get("model_type") == MobileSamConfig.model_type:
        names += _MODEL_CODE
    images = _read(directory, "processor_config.json").get("image_processor") or {}
    if images.get("image_processor_type") == MinMaxSamImageProcessor.__name__:
        names += _PROCESSOR_CODE
    return [Path(__file__).with_name(name) for name in names]


def needs_code(directory: str | Path) -> bool:
    """Whether transformers alone loads a saved model, or an adapter with its base model, only with `trust_remote_code`."""
    base = _read(directory, "adapter_config.json").get("auto_mapping") or {}
    return bool(code_files(directory)) or base.get("base_model_class") == MobileSamModel.__name__


def _read(directory: str | Path, name: str) -> dict[str, Any]:
    path = Path(directory, name)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


AutoConfig.register(MobileSamConfig.model_type, MobileSamConfig)
AutoModel.register(MobileSamConfig, MobileSamModel)
AutoModelForMaskGeneration.register(MobileSamConfig, MobileSamModel)
AutoProcessor.register(MobileSamConfig, SamProcessor)
# Under both of the library's backends, so that it is also found where torchvision is installed. SAM's own image processor
# is not named here: that would change how plain SAM checkpoints find theirs.
AutoImageProcessor.register(
    MobileSamConfig, image_processor_classes={"pil": MinMaxSamImageProcessor, "torchvision": MinMaxSamImageProcessor}
)
