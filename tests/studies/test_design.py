from types import SimpleNamespace

import pytest
from studies.design import Cell, chain, key_of, plan_cells, read_objectives
from studies.objectives import ObjectiveStudy

from visionsam_hf.cli.study_options import EvidenceSettings
from visionsam_hf.data.errors import UserError


def test_common_settings_give_way_to_an_objectives_own():
    found = read_objectives(
        {"region": {"loss_type": "region", "rounds": 2, "sources": ["thresholds"], "learning_rate": 1e-4}},
        {"learning_rate": 1e-5, "beta": 2.0},
    )["region"]
    assert (found.start, found.sources, found.rounds) == ("sft", ("thresholds",), 2)
    assert found.settings == {"loss_type": "region", "learning_rate": 1e-4, "beta": 2.0}


def test_a_chain_runs_its_first_step_first():
    found = read_objectives({"a": {"start": "sam"}, "b": {"start": "a"}, "c": {"start": "b"}}, {})
    assert [step.name for step in chain(found, "c")] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"a": {"start": "b"}}, "start 'b' is none of sft, sam, a"),
        ({"a": {"start": "b"}, "b": {"start": "a"}}, "starts from itself"),
        ({"a": {"rounds": 0}}, "rounds 0"),
        ({"SAM": {}}, "a name the study uses itself"),
        ({"a": {"people": {"circle": 2}}}, "people: circle, which is no setting of theirs"),
    ],
)
def test_wrong_objectives_get_one_line(given, message):
    with pytest.raises(UserError, match=message):
        read_objectives(given, {})


def test_what_people_do_is_part_of_a_result_s_name_and_silence_is_not():
    settings = EvidenceSettings(
        model_name_or_path="m", folds={"x": "d"}, runs="r", embeddings="e", output_dir="o", recommended="a",
        objectives={"a": {"loss_type": "sft"}, "b": {"loss_type": "sft", "people": {"minutes": 2, "order": "uncertain"}}},
    )  # fmt: skip
    study = ObjectiveStudy(settings)
    silent, told = (study.describe(name, Cell("x", 0, 50, 3))["system"][0] for name in "ab")
    assert "people" not in silent, "or every run from before would be run again"
    assert told == silent | {"people": {"minutes": 2, "order": "uncertain"}}


def test_what_two_experiments_share_is_planned_once():
    settings = SimpleNamespace(
        folds={"x": "", "y": ""}, seeds=[0, 1], masks=50, annotators=3, objectives={"a": {}, "b": {}},
        label_budgets=[10, 50], budget_objectives=["a"], budget_seeds=[0],
        flip_rates=[0.0, 0.2], flip_objectives=["b"], flip_seeds=[0], flip_annotators=1,
    )  # fmt: skip
    cells = plan_cells(settings)
    assert cells[Cell("x", 0, 50, 3)] == ["SFT-SAM", "a", "b"]
    assert cells[Cell("y", 0, 10, 3)] == ["SFT-SAM", "a"]
    assert cells[Cell("y", 0, 50, 1, 0.2)] == ["SFT-SAM", "b"]
    assert len(cells) == 4 + 2 + 4


def test_a_key_is_of_the_values_not_of_their_order():
    assert key_of(a=1, b={"c": 2, "d": 3}) == key_of(b={"d": 3, "c": 2}, a=1) != key_of(a=1, b={"c": 2, "d": 4})
