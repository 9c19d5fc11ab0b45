"""Every shipped recipe beyond the paper parses, and says what it changes."""

from pathlib import Path

import pytest
from studies.objectives import ObjectiveStudy

from visionsam_hf.cli.pipeline import read_stages, stage_settings
from visionsam_hf.cli.study_options import EvidenceSettings
from visionsam_hf.data.records import pretrained_name
from visionsam_hf.data.settings import build_settings, read_yaml

BEYOND = Path(__file__).parents[2] / "recipes" / "beyond"
RECIPES = sorted(path.parent.name for path in BEYOND.glob("*/pipeline.yaml"))
# Every study: those that a pipeline runs, as it changes them, and those that stand alone.
STUDIES = [
    pytest.param(stage_settings(BEYOND / name, stage, {}), stage["name"].startswith("sweep"), id=f"{name}/{stage['name']}")
    for name in RECIPES
    for stage in read_stages(BEYOND / name)
    if stage["run"] == "evidence"
] + [
    pytest.param(
        build_settings(EvidenceSettings, read_yaml(path), source=path),
        path.name.startswith("sweep"),
        id=f"{path.parent.name}/{path.name}",
    )
    for path in sorted(BEYOND.glob("evidence_*/*.yaml"))
    if not (path.parent / "pipeline.yaml").is_file()
]


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
        reads += [*getattr(settings, "training", {}).values(), *getattr(settings, "directories", [])]
        reads += getattr(settings, "folds", {}).values() if stage["run"] == "evidence" else []
        reads += [place for place in [getattr(settings, "finder", "")] if stage["run"] == "evaluate" and ":" not in place]
        assert {place for place in reads if place and not pretrained_name(place)} <= written, stage["name"]
        written.add(settings.output_dir)
        used.add(stage.get("config", f"{stage['run'].split()[0]}.yaml"))
    assert {path.name for path in recipe.glob("*.yaml")} == {name for name in used if "/" not in name}
    assert name in (BEYOND / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("settings", "is_sweep"), STUDIES)
def test_studies_are_sound(settings, is_sweep):
    study = ObjectiveStudy(settings)
    objectives = study.objectives
    chosen = objectives[settings.recommended]
    assert chosen.settings["loss_type"] == "sft"
    if "paper" in objectives:
        # The paper's objective, run exactly: its loss, its candidates, its targets.
        paper = objectives["paper"]
        assert paper.settings["loss_type"] == "paper" and paper.sources == ("tokens",) and paper.start == "sft"
        assert paper.settings["target_resize"] == "nearest" and "paper" in settings.compare_with
        assert paper.rounds == chosen.rounds  # equal labelling cost
    if is_sweep:
        assert settings.splits == ["validation"]
    else:
        assert set(settings.splits) == {"heldout", "test"} and study.cells
        assert not settings.rlhf or objectives[settings.rlhf].start == "sam"


def test_the_sweep_tries_the_papers_own_rate():
    tried = read_yaml(BEYOND / "evidence_magnetic_tile" / "sweep.yaml")["objectives"]["paper"]
    assert tried["learning_rate"] == read_yaml(BEYOND.parent / "visionsam" / "dpo.yaml")["learning_rate"] == 1e-5


def test_the_main_study_has_three_seeds():
    assert len(read_yaml(BEYOND / "evidence_magnetic_tile" / "evidence.yaml")["seeds"]) >= 3


def test_no_seed_is_shared_with_what_settings_were_chosen_on():
    folder = BEYOND / "evidence_magnetic_tile"
    evidence = read_yaml(folder / "evidence.yaml")
    for path in folder.glob("sweep*.yaml"):
        assert not set(read_yaml(path)["seeds"]) & set(evidence["seeds"])


def test_both_studies_have_the_same_settings():
    tiles, synthetic = (read_yaml(BEYOND / name / "evidence.yaml") for name in ("evidence_magnetic_tile", "evidence_synthetic"))
    for key in ("masks", "max_ranked", "recommended"):
        assert tiles[key] == synthetic[key], key
    for key in ("sft", "preference"):
        assert synthetic[key].items() <= tiles[key].items(), key
    assert tiles["objectives"].items() <= synthetic["objectives"].items()
