"""recipes/beyond/finding in small: photographs in MVTec AD's layout, and another system's maps as anomalib leaves them."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import disc, initialise, photograph, tiny_config, tiny_processor
from PIL import Image

from visionsam_hf.cli.pipeline import run_pipeline
from visionsam_hf.models.loading import save_model

RECIPE = Path(__file__).parents[2] / "recipes" / "beyond" / "finding"
_GOOD = np.zeros((48, 64), bool)


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture
def product(tmp_path):
    """A product of MVTec AD's layout, and maps of its test images."""
    root, maps = tmp_path / "mvtec" / "plate", tmp_path / "maps" / "images" / "plate"
    for number in range(8):
        save(photograph(_GOOD, number), root / "train" / "good" / f"{number:03}.png")
    for number in range(30):
        kind, mask = ("good", _GOOD) if number < 4 else ("hole", disc(48, 64, 12 + number, 24, 6))
        save(photograph(mask, 100 + number), root / "test" / kind / f"{number:03}.png")
        save(Image.fromarray(mask), maps / kind / f"{number:03}.png")
        if kind == "hole":
            save(Image.fromarray(mask), root / "ground_truth" / kind / f"{number:03}_mask.png")
    return root.parent


def test_a_finder_and_another_systems_maps_stand_in_one_report(product, tmp_path, monkeypatch):
    save_model(initialise(tiny_config(), seed=0), tiny_processor(), tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    changes = {name: {"model_name_or_path": str(tmp_path / "model")} for name in ("embed", "sft")}
    changes["sft"] |= {"max_steps": "2", "use_cpu": "true"}
    changes["build"] = {"data_dir": str(product)}
    changes["find"] = {"bank_size": "50", "folds": "2"}
    changes["evaluate-other"] = {"finder": f"maps:{tmp_path / 'maps'}"}
    run_pipeline(RECIPE, changes=changes)
    told = json.loads(Path("outputs/finding/report/report.json").read_text())["finders"]
    ours, other = (told[f"outputs/finding/evaluate/{name}"] for name in ("finder", "other"))
    assert ours["masks"]["good"] == 4 and ours["images"] == other["images"] > 4
    assert other["image"]["auroc"] == 1 and other["pixel"]["aupro"] > 0.9
