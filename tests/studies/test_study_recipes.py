"""Every shipped recipe beyond the paper parses, and says what it changes."""

from pathlib import Path

import pytest
from studies.objectives import ObjectiveStudy

from visionsam_hf.cli.pipeline import read_stages, stage_settings
from visionsam_hf.cli.study_options import EvidenceSettings
from visionsam_hf.data.settings import build_settings, read_yaml

BEYOND = Path(__file__).parents[2] / "recipes" / "beyond"
RECIPES = sorted(path.parent.name for path in BEYOND.glob("*/pipeline.yaml"))
STUDIES = [path for path in sorted(BEYOND.glob("evidence_*/*.yaml")) if path.name != "pipeline.yaml"]


@pytest.mark.parametrize("name", RECIPES)
def test_stages_read_what_earlier_stages_wrote(name):
    recipe = BEYOND / name
    stages = read_stages(recipe)
    written = {"visionsam-tiny", "facebook/sam-vit-base"}
    used = {"pipeline.yaml"}
    for stage in stages:
        settings = stage_settings(recipe, stage, {})
        reads = [getattr(settings, key, None) for key in ("model_name_or_path", "dataset", "candidates", "preferences")]
        reads += [place for of in getattr(settings, "systems", {}).values() for place in of]
        reads += [*getattr(settings, "training", {}).values(), *getattr(settings, "folds", {}).values()]
        assert {place for place in reads if place} <= written, stage["name"]
        written.add(settings.output_dir)
        used.add(stage.get("config", f"{stage['run'].split()[0]}.yaml"))
    assert {path.name for path in recipe.glob("*.yaml")} == {name for name in used if "/" not in name}
    assert name in (BEYOND / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_studies_are_sound(path):
    settings = build_settings(EvidenceSettings, read_yaml(path), source=path)
    study = ObjectiveStudy(settings)
    objectives = study.objectives
    paper = objectives["paper"]
    # The paper's objective, run exactly: its loss, its candidates, its targets, its learning rate in recipes/visionsam.
    assert paper.settings["loss_type"] == "paper" and paper.sources == ("tokens",) and paper.start == "sft"
    assert paper.settings["target_resize"] == "nearest" and paper.settings["learning_rate"] == 1e-5
    assert {"paper", "chosen only"} <= {settings.recommended, *settings.compare_with}
    if path.name.startswith("sweep"):
        assert settings.splits == ["validation"]
    else:
        assert len(settings.seeds) == 5 and set(settings.splits) == {"heldout", "test"}
        assert objectives[settings.rlhf].start == "sam"
        # Equal labelling cost.
        assert len({objectives[name].rounds for name in ("paper", "chosen only", settings.recommended)}) == 1
        assert study.cells


def test_no_seed_is_shared_with_what_settings_were_chosen_on():
    folder = BEYOND / "evidence_magnetic_tile"
    evidence = read_yaml(folder / "evidence.yaml")
    for path in folder.glob("sweep*.yaml"):
        assert not set(read_yaml(path)["seeds"]) & set(evidence["seeds"])


def test_both_studies_have_the_same_settings():
    tiles, synthetic = (read_yaml(BEYOND / name / "evidence.yaml") for name in ("evidence_magnetic_tile", "evidence_synthetic"))
    for key in ("sft", "preference", "masks", "max_ranked", "recommended"):
        assert tiles[key] == synthetic[key], key
    assert tiles["objectives"].items() <= synthetic["objectives"].items()
