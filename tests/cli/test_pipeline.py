import json
from pathlib import Path

import pytest
from conftest import initialise, tiny_config, tiny_processor

from visionsam_hf.cli.pipeline import read_stages, run_pipeline, stage_settings
from visionsam_hf.data.errors import UserError
from visionsam_hf.models.loading import save_model

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe of two real stages in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "recipe"
    folder.mkdir()
    save_model(initialise(tiny_config(), seed=0), tiny_processor(), tmp_path / "model")
    (folder / "build.yaml").write_text(
        "output_dir: out/data\nimage_size: 64\nimages: {train: 3, heldout: 2}\nheldout_categories: [lens]\n"
    )
    (folder / "embed.yaml").write_text(
        "model_name_or_path: model\ndataset: out/data\nembeddings: out/cache\nsplits: [train, heldout]\noutput_dir: out/embed\n"
    )
    (folder / "pipeline.yaml").write_text(
        "stages:\n  - {name: build, run: build synthetic}\n  - {name: embed, run: embed, set: {batch_size: 2}}\n"
    )
    return folder


def test_runs_in_order_and_skips_what_is_done(recipe, capsys):
    run_pipeline(recipe)
    assert json.loads(Path("out/embed/stage.json").read_text())["results"]["encoded"] == 5
    capsys.readouterr()
    run_pipeline(recipe)
    assert capsys.readouterr().out.count("done before, skipped") == 2
    run_pipeline(recipe, changes={"build": {"seed": "1"}})
    printed = capsys.readouterr().out
    assert "skipped" not in printed
    assert json.loads(Path("out/embed/stage.json").read_text())["results"]["encoded"] == 5


def test_only_runs_what_is_named(recipe):
    run_pipeline(recipe, only=["build"])
    assert Path("out/data/README.md").is_file() and not Path("out/embed").exists()


def test_everything_is_checked_before_the_first_stage(recipe):
    (recipe / "embed.yaml").write_text("model_name_or_pth: model\n")
    with pytest.raises(UserError, match="did you mean 'model_name_or_path'"):
        run_pipeline(recipe)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("stages: []", "no list 'stages'"),
        ("stages: [{name: a}]", "needs 'name' and 'run'"),
        ("stages: [{name: a, run: sft, sett: {}}]", "unknown key 'sett'"),
        ("stages: [{name: a, run: sft}, {name: a, run: sft}]", "two stages are called 'a'"),
        ("stages: [{name: a, run: shoot}]", "which is no command"),
    ],
)
def test_wrong_recipes_get_one_line(recipe, content, message):
    (recipe / "pipeline.yaml").write_text(content)
    with pytest.raises(UserError, match=message):
        run_pipeline(recipe)


def test_unknown_stages_are_named(recipe):
    for given in (dict(only=["embd"]), dict(changes={"embd": {"x": "1"}})):
        with pytest.raises(UserError, match="no stage 'embd'; it has build, embed"):
            run_pipeline(recipe, **given)


@pytest.mark.parametrize("name", sorted(path.parent.name for path in RECIPES.glob("*/pipeline.yaml")))
def test_every_shipped_recipe_parses(name):
    recipe = RECIPES / name
    used = {"pipeline.yaml"}
    for stage in read_stages(recipe):
        settings = stage_settings(recipe, stage, {})
        assert settings.output_dir
        used.add(stage.get("config", f"{stage['run'].split()[0]}.yaml"))
    assert {path.name for path in recipe.glob("*.yaml")} == used


def test_the_papers_recipe_says_what_the_paper_says():
    stages = {
        stage["name"]: stage_settings(RECIPES / "visionsam", stage, {}) for stage in read_stages(RECIPES / "visionsam")
    }
    sft, dpo, rlhf = stages["sft"], stages["dpo"], stages["rlhf"]
    assert sft.model_name_or_path == "facebook/sam-vit-base" and sft.max_train_images == 500
    assert (sft.w_bce, sft.w_dice, sft.w_iou, sft.trainable, sft.mask_output) == (
        1.0,
        0.0,
        0.0,
        "mask_decoder",
        "single",
    )
    assert sft.prompt_mix == {"box": 1.0} and sft.box_jitter == 0.0
    assert (dpo.loss_type, dpo.beta, dpo.sft_weight, dpo.kl_weight) == (
        "paper",
        1.0,
        0.0,
        0.0,
    ) and not dpo.needs_reference
    assert dpo.model_name_or_path == sft.output_dir and rlhf.model_name_or_path == "facebook/sam-vit-base"


def test_the_papers_first_steps_on_a_small_model(tmp_path, monkeypatch):
    """recipes/visionsam on a folder in VISION's layout, with a random SAM of another size: nothing in it says 1024 or 256."""
    import numpy as np
    from conftest import photograph

    monkeypatch.chdir(tmp_path)
    for category in ("Cable", "Ring"):
        for part in ("train", "val"):
            folder = tmp_path / "vision" / category / part
            folder.mkdir(parents=True)
            images, annotations = [], []
            for index in range(5):
                x1, y1, x2, y2 = 10 + 5 * index, 15, 30 + 5 * index, 40
                mask = np.zeros((60, 80), bool)
                mask[y1:y2, x1:x2] = True
                photograph(mask, index).save(folder / f"{index:06d}.jpg")
                images.append({"id": index, "file_name": f"{index:06d}.jpg", "height": 60, "width": 80})
                polygon = [x1, y1, x2, y1, x2, y2, x1, y2]
                annotations.append(
                    {"id": index, "image_id": index, "category_id": 1, "segmentation": [polygon], "iscrowd": 0,
                     "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
                )
            coco = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "Break"}]}
            (folder / "_annotations.coco.json").write_text(json.dumps(coco))
    save_model(initialise(tiny_config(), seed=0), tiny_processor(), "model")
    short = {"max_steps": "2", "use_cpu": "true", "learning_rate": "1e-3"}
    run_pipeline(
        RECIPES / "visionsam",
        changes={
            "build": {"data_dir": "vision", "heldout_categories": "[Ring]", "validation": "0.2", "num_proc": "1"},
            "embed": {"model_name_or_path": "model"},
            "sft": {"model_name_or_path": "model", **short},
            "dpo": short,
            "rlhf": {"model_name_or_path": "model", **short},
            "evaluate-sam": {"model_name_or_path": "model"},
        },
    )
    systems = json.loads(Path("outputs/visionsam/report.json").read_text())["systems"]
    assert {"SAM", "SFT-SAM", "VisionSAM", "RLHF-SAM"} <= set(systems)
    assert Path("outputs/visionsam/report.html").stat().st_size > 10_000
