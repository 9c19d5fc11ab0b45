"""Push and load back over real sockets, with the real clients, against the project's double of the Hub.

HUB_DOUBLE=path/to/another/double.py runs the same against another one, which must take --port 0 and print its address;
what only the project's own can do, failing on demand, is then left out.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from closeness import assert_same_masks

HERE = Path(__file__).resolve().parent
OWN = HERE.parent / "hubdouble.py"
DOUBLE = Path(os.environ.get("HUB_DOUBLE", OWN))
TOKEN = "hf_" + "DoNotPrintOrWriteMe" + "0123456789"
only_own = pytest.mark.skipif(DOUBLE != OWN, reason="this double cannot be told to fail")


def python(script, *words, env):
    done = subprocess.run([sys.executable, script, *words], env=env, capture_output=True, text=True, cwd=HERE.parent)
    assert TOKEN not in done.stdout + done.stderr
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """The directory of a whole scenario, played once: seen.json, local_masks.npz, and a stranger's stranger.npz."""
    directory = tmp_path_factory.mktemp("hub")
    server = subprocess.Popen([sys.executable, DOUBLE, "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        env = os.environ | {"HF_ENDPOINT": server.stdout.readline().strip(), "HF_TOKEN": TOKEN}
        env |= {"HF_HOME": str(directory / "hf"), "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
        env |= {"HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"}
        env |= {"FAULTS": str(int(DOUBLE == OWN)), "PYTHONPATH": str(HERE.parent.parent)}
        (directory / "work").mkdir()
        python(HERE / "scenario.py", directory / "work", env=env)
        python(HERE / "stranger.py", "tester/sft", "v1", directory / "work" / "stranger.npz", env=env)
    finally:
        server.kill()
        server.wait()
    return directory / "work"


@pytest.fixture(scope="module")
def seen(there):
    return json.loads((there / "seen.json").read_text())


def test_without_a_token_one_line_says_how_to_log_in(seen):
    said = seen["no token"]
    assert said["code"] == 2 and said["err"].count("\n") == 0 and not said["out"]
    assert "hf auth login" in said["err"] and "HF_TOKEN" in said["err"]


def test_a_dry_run_needs_no_token_and_lists_what_would_go(seen):
    said = seen["dry run"]
    assert said["code"] == 0 and "Nothing was sent" in said["out"]
    for name in ("README.md", "model.safetensors", "stage.json", "private", "cc-by-nc-4.0"):
        assert name in said["out"]


def test_a_name_that_cannot_be_is_refused_before_anything_else(seen):
    assert seen["bad name"]["code"] == 2 and "give OWNER/NAME" in seen["bad name"]["err"]


@pytest.mark.parametrize(
    "name", ["base", "model", "adapter", "data", "pairs", "next tag", "stale shard", "resumed", "auto"]
)
def test_pushes_succeed_and_say_where_it_is(seen, name):
    assert seen[name]["code"] == 0, seen[name]["err"]
    repos = {"model": "sft", "adapter": "lora", "next tag": "sft", "stale shard": "data", "resumed": "late"}
    repo = repos.get(name, name)
    kind = "datasets/" if repo in ("data", "pairs") else ""
    assert f"/{kind}tester/{repo}" in seen[name]["out"]
    assert ("load_dataset(" if kind else "from_pretrained(") in seen[name]["out"]


def test_a_second_push_is_a_no_op(seen):
    for name in ("model", "adapter", "data", "pairs"):
        assert seen[f"{name} again"]["code"] == 0 and "Nothing to send" in seen[f"{name} again"]["out"]
    assert seen["model commits"] == [2, 2]


def test_private_unless_public(seen):
    assert seen["model private"] and not seen["base private"] and not seen["stranger sees it"]
    mistake = seen["public by mistake"]
    assert mistake["code"] == 2 and "is public; push with --public" in mistake["err"]
    assert seen["not two"]["code"] == 2 and "not both" in seen["not two"]["err"]


def test_only_what_belongs_to_a_model_is_there(seen):
    both = {".gitattributes", "README.md", "examples.png", "processor_config.json", "stage.json", "trainer_state.json"}
    # Evaluated on a data set that was pushed before, so its figures have a place on the Hub.
    assert set(seen["model files"]) == both | {"config.json", "model.safetensors", ".eval_results/tester--data.yaml"}
    assert set(seen["adapter files"]) == both | {"adapter_config.json", "adapter_model.safetensors"}


def test_a_model_comes_back_as_it_was_by_its_tag(seen):
    assert seen["model weights"] and seen["printed lines"] and seen["predict"] and seen["tags differ"]
    assert seen["tag taken"]["code"] == 2 and "'v1' of tester/sft marks something else" in seen["tag taken"]["err"]


def test_a_stranger_without_this_package_gets_the_same_masks(there):
    local, stranger = np.load(there / "local_masks.npz"), np.load(there / "stranger.npz")
    for name in ("box", "pipeline"):
        assert_same_masks(stranger[name], local[name])
        assert local[name].any() and not local[name].all()
    assert len(local["pipeline"]) > 1


def test_an_adapter_comes_back_through_peft(seen):
    assert seen["adapter weights"] and seen["adapter moved"]
    assert '"tester/base"' in seen["adapter"]["out"] and "PeftModel" in seen["adapter"]["out"]


@pytest.mark.parametrize(
    ("name", "splits"), [("data", {"train": 6, "validation": 3, "heldout": 3}), ("pairs", {"train": 6})]
)
def test_data_sets_come_back_row_for_row_also_as_a_stream(seen, name, splits):
    assert seen[f"{name} splits"] == splits
    assert seen[f"{name} features"] and seen[f"{name} rows"] and seen[f"{name} streamed"] and seen[f"{name} lines"]


def test_shards_of_an_earlier_push_do_not_stay(seen):
    assert "removed 1" in seen["stale shard"]["out"] and seen["rows after stale"] == 6


def test_a_killed_push_leaves_nothing_half_there_and_goes_on(seen):
    assert seen["killed"]["code"] == 130
    assert seen["killed files"] == [".gitattributes"] and seen["killed tags"] == 0
    assert seen["resumed weights"]


@only_own
def test_a_hub_that_fails_is_one_line_and_nothing_is_sent_twice(seen):
    for name, words in (("hub fails", "the Hub refused"), ("hub dies", "the connection to the Hub broke")):
        assert seen[name]["code"] == 2 and words in seen[name]["err"] and "repeat the command" in seen[name]["err"]
    assert seen["hub is back"]["code"] == 0 and seen["sent twice"] == 0 and seen["back weights"]


def test_cards_are_valid_and_linked(seen):
    cards = {name: card["data"] for name, card in seen["cards"].items()}
    for name in ("sft", "lora", "auto"):
        assert cards[name]["license"] == "cc-by-nc-4.0" and cards[name]["pipeline_tag"] == "mask-generation"
    # Pushed after base and data, so the card can name them.
    for name, relation in (("lora", "adapter"), ("auto", "finetune")):
        assert cards[name]["base_model"] == "tester/base" and cards[name]["datasets"] == ["tester/data"]
        assert cards[name]["base_model_relation"] == relation
    (model,) = cards["sft"]["model-index"]
    assert {metric["name"] for metric in model["results"][0]["metrics"]} == {"IoU", "Dice"}
    for name, card in seen["cards"].items():
        assert "](examples.png)" in card["text"] and f"tester/{name}" in card["text"] and "path/to" not in card["text"]


@only_own
def test_the_double_does_refuse_a_bad_card(seen):
    assert "license" in seen["bad card"]


def test_training_pushes_like_the_command_with_its_own_card(seen):
    assert seen["no id"]["code"] == 2 and "hub_model_id" in seen["no id"]["err"]
    assert seen["auto commits"] == ["Model from visionsam_hf", "initial commit"]
    assert "checkpoint-1/model.safetensors" not in seen["auto files"] and "stage.json" in seen["auto files"]
    assert "This model is a fine-tuned version of" not in seen["cards"]["auto"]["text"]


def test_the_token_is_nowhere(there, seen):
    assert seen["token written"] == []
    assert TOKEN not in (there / "seen.json").read_text()
