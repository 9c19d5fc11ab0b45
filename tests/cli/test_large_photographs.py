"""A photograph of 48 megapixels costs less than a gigabyte, whichever way it is shown to the model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import CATEGORIES
from PIL import Image

from visionsam_hf.data.dataset_directory import write_splits
from visionsam_hf.data.masks import encode_mask
from visionsam_hf.data.schema import object_row, segmentation_features

ROOT = Path(__file__).resolve().parents[2]
SIZE = 6000, 8000
BOXES = [(700 * place + 100, 500 * place + 60, 700 * place + 160, 500 * place + 130) for place in range(4)]
# Added to what loading the model and encoding something small takes.
SCRIPT = """
import resource, sys
from visionsam_hf.cli.command_line import main
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
first, words = sys.argv[1].split("|"), sys.argv[2].split("|")
assert main(first) == 0
before = peak()
assert main(words) == 0
print("added", peak() - before)
"""


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A small and a large photograph, alone and as data sets."""
    root = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(0)
    for name, (height, width) in (("small", (300, 400)), ("large", SIZE)):
        coarse = rng.integers(0, 255, (height // 20, width // 20, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((width, height)).save(root / f"{name}.jpg")
        masks = []
        for x1, y1, x2, y2 in BOXES if name == "large" else BOXES[:1]:
            masks.append(np.zeros((height, width), bool))
            masks[-1][y1:y2, x1:x2] = True
        row = {
            "image": {"bytes": (root / f"{name}.jpg").read_bytes(), "path": f"{name}.jpg"},
            "mask": encode_mask(masks[0]), "image_id": name, "source": "test", "category": 0, "defective": True,
            "objects": [object_row(mask, "stain") for mask in masks],
        }  # fmt: skip
        write_splits(root / name, {"train": [row]}, segmentation_features(CATEGORIES), card="")
    prompts = [json.dumps({"image": "large.jpg", "box": box}) for box in BOXES]
    (root / "prompts.jsonl").write_text("\n".join(prompts))
    return root


@pytest.mark.parametrize("window", ["whole", "zoom", "tiles"])
@pytest.mark.parametrize("command", ["embed", "predict"])
def test_48_megapixels_in_less_than_a_gigabyte(photographs, tmp_path, command, window):
    def words(name):
        if command == "embed":
            asked = f"embed|--model_name_or_path|visionsam-tiny|--dataset|{photographs / name}|--embeddings|{tmp_path / name}"
            return f"{asked}|--output_dir|{tmp_path}/{name}-out|--window|{window}"
        asked = f"predict|--model|visionsam-tiny|--output|{tmp_path}/{name}-out|--window|{window}"
        if name == "small":
            return f"{asked}|--image|{photographs}/small.jpg|--box|100|60|160|130"
        return f"{asked}|--image|{photographs}|--prompts|{photographs}/prompts.jsonl"

    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, words("small"), words("large")], capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "hf")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    added = float(done.stdout.split()[-1])
    print(f"{command} {window}: {added:.0f} MB")
    assert 0 <= added < 1000, f"{added:.0f} MB"
    if command == "predict":
        lines = (tmp_path / "large-out" / "predictions.jsonl").read_text().splitlines()
        assert len(lines) == len(BOXES)
