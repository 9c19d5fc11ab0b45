import re
from dataclasses import dataclass
from typing import Literal

import pytest

from visionsam_hf.data.errors import UserError
from visionsam_hf.data.records import as_plain, inputs_of
from visionsam_hf.data.settings import Count, Share, build_settings, read_yaml, setting


@dataclass
class Example:
    dataset: str = setting("", "the data", required=True, input=True)
    learning_rate: float = setting(1e-4, "peak")
    steps: int | None = setting(None, "how many")
    revision: str = setting("main", "which")
    splits: list[str] = setting(["train"], "which splits")
    others: dict[str, list[str]] = setting({}, "more data", input=True)
    hub_token: str | None = None
    model: str = setting("", "a model", input="model")
    rubric: Literal["quick", "full"] = setting("quick", "how")
    overlap: Count = setting(3, "how many")
    rates: list[Share] = setting([], "how often")
    cache: str | None = setting(None, "where")


def test_values_are_coerced():
    made = build_settings(
        Example, {"dataset": "d", "learning_rate": "1e-3", "revision": 2024}, {"steps": "10", "splits": "[a, b]"}
    )
    assert made == Example("d", 1e-3, 10, "2024", ["a", "b"])


def test_the_command_line_wins_over_the_yaml_and_strings_stay_strings():
    made = build_settings(Example, {"dataset": "d", "revision": "x"}, {"revision": "1.0", "dataset": "12"})
    assert (made.revision, made.dataset) == ("1.0", "12")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dataset": "d", "learning_rte": 1}, "unknown key 'learning_rte'; did you mean 'learning_rate'?"),
        ({"dataset": "d", "steps": "ten"}, "key 'steps' has the value 'ten'"),
        ({}, "missing key 'dataset' (the data); add it, or pass --dataset"),
    ],
)
def test_mistakes_name_the_key(values, message):
    with pytest.raises(UserError) as caught:
        build_settings(Example, values, source="sft.yaml")
    assert message in str(caught.value) and "sft.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rubric": "fast"}, "x.yaml: key 'rubric' is 'fast'; give 'quick' or 'full'"),
        ({"overlap": 0}, "x.yaml: key 'overlap' is 0; give at least 1"),
        ({"rates": [0.5, 1.5]}, "x.yaml: key 'rates' holds 1.5; give at most 1"),
    ],
)
def test_choices_and_ranges_are_said_in_one_line(values, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        build_settings(Example, {"dataset": "d", **values}, source="x.yaml")


def test_one_word_is_a_list_of_one_and_null_is_nothing():
    assert build_settings(Example, {"dataset": "d", "splits": "train"}).splits == ["train"]
    made = build_settings(Example, {"dataset": "d", "cache": "x"}, {"splits": "null-split", "cache": "null", "rates": "0.5"})
    assert (made.splits, made.cache, made.rates) == (["null-split"], None, [0.5])


@dataclass
class Broken:
    steps: int = 0

    def __post_init__(self):
        if self.steps > 1:
            raise ValueError("a bug")
        len(self.steps)


@pytest.mark.parametrize("steps", [1, 2])
def test_our_own_bugs_are_not_blamed_on_the_user(steps):
    with pytest.raises((TypeError, ValueError)):
        build_settings(Broken, {"steps": steps})


def test_what_transformers_refuses_is_the_users_mistake():
    from visionsam_hf.training.sft_trainer import SamSFTConfig

    for refused in ({"optim": "none such"}, {"accelerator_config": {"none_such": 1}}):
        with pytest.raises(UserError, match=r"^x.yaml: .*none.such"):
            build_settings(SamSFTConfig, {"output_dir": "o", **refused}, source="x.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [("a: [1", ":1:"), ("- a\n- b", "must be a mapping"), ("a: !!python/object/apply:os.system [ls]", "constructor")],
)
def test_bad_yaml_names_the_file(tmp_path, content, message):
    path = tmp_path / "x.yaml"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value) and message in str(caught.value)
    with pytest.raises(UserError, match="no such file"):
        read_yaml(tmp_path / "missing.yaml")


def test_inputs_and_plain_values():
    made = Example("d", others={"x": ["e", "f"]}, hub_token="hf_secret")
    assert inputs_of(made) == {"d": "dataset", "e": "dataset", "f": "dataset"}
    assert inputs_of(Example("d", model="m")) == {"d": "dataset", "m": "model"}
    assert "hf_secret" not in str(as_plain(made))


def test_no_password_is_ever_written():
    @dataclass
    class Settings:
        store: str = "postgresql+psycopg://ada:s3cret@host/db"
        hub: str = "https://example.org/a:b@c"

    written = as_plain(Settings())
    assert written == {"store": "postgresql+psycopg://ada:***@host/db", "hub": "https://example.org/a:b@c"}
