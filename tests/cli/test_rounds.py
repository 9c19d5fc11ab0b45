import json
from pathlib import Path

import pytest
from conftest import initialise, tiny_config, tiny_processor

from visionsam_hf.cli import command_line as cli
from visionsam_hf.cli.pipeline import numbered, read_stages, run_pipeline, stage_settings, write_out
from visionsam_hf.data.errors import UserError
from visionsam_hf.models.loading import save_model

GROUP = [
    {"name": "candidates", "run": "candidates"},
    {"name": "annotate", "run": "annotate oracle"},
    {"name": "dpo", "run": "dpo"},
]
VALUES = [
    {"model_name_or_path": "out/sft", "dataset": "out/data", "output_dir": "out/candidates", "seed": 3},
    {"candidates": "out/candidates", "output_dir": "out/preferences", "store": "out/answers.sqlite"},
    {"model_name_or_path": "out/sft", "dataset": "out/preferences", "output_dir": "out/dpo", "embeddings": "out/cache"},
]


def test_a_round_reads_what_it_wrote_and_the_last_rounds_model():
    stages = write_out(GROUP, VALUES, 2)
    assert [stage["name"] for stage in stages] == [
        "candidates-1", "annotate-1", "dpo-1", "candidates-2", "annotate-2", "dpo-2",
    ]  # fmt: skip
    assert stages[0]["set"] == {"output_dir": "out/candidates-1"}
    assert stages[2]["set"] == {"dataset": "out/preferences-1", "output_dir": "out/dpo-1"}
    assert stages[3]["set"] == {"model_name_or_path": "out/dpo-1", "output_dir": "out/candidates-2"}
    assert stages[4]["set"] == {
        "candidates": "out/candidates-2", "output_dir": "out/preferences-2", "store": "out/answers-2.sqlite",
    }  # fmt: skip
    assert stages[5]["set"]["model_name_or_path"] == "out/dpo-1"


def test_numbers_go_before_a_files_ending():
    assert numbered("out/dpo", 2) == "out/dpo-2"
    assert numbered("out.d/answers.sqlite", 3) == "out.d/answers-3.sqlite"
    assert numbered("postgresql+psycopg://me@host/answers", 1) == "postgresql+psycopg://me@host/answers-1"


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Two rounds on a random model, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "recipe"
    folder.mkdir()
    save_model(initialise(tiny_config(), seed=0), tiny_processor(), tmp_path / "model")
    files = {
        "build": "output_dir: out/data\nimage_size: 64\nimages: {train: 4, heldout: 2}\nheldout_categories: [lens]\n",
        "candidates": "model_name_or_path: model\ndataset: out/data\nembeddings: out/cache\noutput_dir: out/candidates\n"
        "candidate_source: [tokens, otsu, grabcut]\n",
        "annotate": "candidates: out/candidates\noutput_dir: out/preferences\nannotators: 2\n",
        "dpo": "model_name_or_path: model\ndataset: out/preferences\nembeddings: out/cache\noutput_dir: out/dpo\n"
        "max_steps: 2\nlearning_rate: 1e-3\nuse_cpu: true\ndisable_tqdm: true\n",
        "pipeline": "stages:\n  - {name: build, run: build synthetic}\n  - rounds: 2\n    stages:\n"
        "      - {name: candidates, run: candidates}\n      - {name: annotate, run: annotate oracle}\n"
        "      - {name: dpo, run: dpo}\n",
    }
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def test_rounds_run_skip_and_tell_their_cost(recipe, capsys):
    run_pipeline(recipe)
    printed = capsys.readouterr().out
    record = json.loads(Path("out/dpo-2/stage.json").read_text())
    assert record["settings"]["model_name_or_path"] == "out/dpo-1"
    assert record["settings"]["dataset"] == "out/preferences-2"
    costs = [json.loads(Path(f"out/preferences-{number}/stage.json").read_text())["results"] for number in (1, 2)]
    rankings = [cost["label_cost"]["rankings"] for cost in costs]
    assert f"labelling: {sum(rankings)} rankings ({rankings[0]} + {rankings[1]})" in printed and min(rankings) > 0
    # A change of one round's training re-runs that round and those that build on it, nothing else.
    run_pipeline(recipe, changes={"dpo-2": {"learning_rate": "2e-3"}})
    printed = capsys.readouterr().out
    assert printed.count("skipped") == 6 and "dpo-2: dpo -> out/dpo-2" in printed


def test_rounds_wait_for_people_and_go_on(recipe, capsys):
    """Each round stops at a store of its own until that is filled, here by simulated annotators in people's place."""
    (recipe / "annotate.yaml").write_text(
        "store: out/answers.sqlite\ncandidates: out/candidates\noutput_dir: out/preferences\nkind: oracle\n"
    )
    pipeline = (recipe / "pipeline.yaml").read_text()
    (recipe / "pipeline.yaml").write_text(pipeline.replace("annotate oracle", "annotate export"))
    for number in (1, 2):
        with pytest.raises(UserError, match=f"out/answers-{number}.sqlite: no such store"):
            run_pipeline(recipe)
        cli.run_stage(
            "annotate oracle",
            ["--candidates", f"out/candidates-{number}", "--output_dir", f"out/oracle-{number}", "--annotators", "2"]
            + ["--store", f"out/answers-{number}.sqlite"],
        )
    capsys.readouterr()
    run_pipeline(recipe)
    assert "labelling: " in capsys.readouterr().out
    costs = []
    for number in (1, 2):
        record = json.loads(Path(f"out/preferences-{number}/stage.json").read_text())
        costs.append(record["results"]["label_cost"]["rankings"])
    assert min(costs) > 0 and Path("out/dpo-2/model.safetensors").is_file()


def test_a_stage_in_rounds_is_named_with_or_without_its_number(recipe, monkeypatch):
    seen = []
    monkeypatch.setattr("visionsam_hf.cli.pipeline.execute", lambda command, values: seen.append(values))
    run_pipeline(recipe, only=["dpo"], changes={"dpo": {"beta": "3"}, "dpo-2": {"beta": "4"}})
    assert [(values.output_dir, values.beta) for values in seen] == [("out/dpo-1", 3.0), ("out/dpo-2", 4.0)]
    seen.clear()
    run_pipeline(recipe, only=["annotate-2"])
    assert [values.output_dir for values in seen] == ["out/preferences-2"]


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ("{rounds: 0, stages: [{name: a, run: sft}]}", "'rounds' is 0"),
        ("{rounds: two, stages: [{name: a, run: sft}]}", "'rounds' is 'two'"),
        ("{rounds: 2}", "beside one list 'stages'"),
        ("{rounds: 2, stages: [{name: a}]}", "needs 'name' and 'run'"),
        ("{rounds: 2, name: a, stages: [{name: a, run: sft}]}", "nothing else"),
    ],
)
def test_wrong_rounds_get_one_line(recipe, group, message):
    (recipe / "pipeline.yaml").write_text(f"stages: [{group}]")
    with pytest.raises(UserError, match=message):
        run_pipeline(recipe)


def test_two_stages_cannot_write_one_directory(recipe):
    with pytest.raises(UserError, match="'dpo-1' and 'dpo-2' both write out/here"):
        run_pipeline(recipe, changes={"dpo": {"output_dir": "out/here"}})
    settings = [stage_settings(recipe, stage, {}) for stage in read_stages(recipe)]
    assert len({values.output_dir for values in settings}) == len(settings)
