"""Every command with windows, from embed to predict: named once, remembered by the model, the same everywhere."""

import json

import numpy as np
import pytest
from PIL import Image

from visionsam_hf.cli import command_line as cli
from visionsam_hf.data.dataset_directory import load_split
from visionsam_hf.data.windows import WindowRule, object_windows
from visionsam_hf.embeddings.shards import read_shard
from visionsam_hf.evaluation.per_sample import read_columns

RULES = {"zoom": WindowRule("zoom"), "tiles": WindowRule("tiles", side=64)}


@pytest.fixture(scope="module", params=RULES)
def project(request, tmp_path_factory):
    """Every stage once; only `embed` and `sft` are told the window."""
    root, rule = tmp_path_factory.mktemp("project"), RULES[request.param]
    words = {
        "build synthetic": "image_size 128 images {train:6,validation:2,heldout:3} heldout_categories [lens] output_dir data",
        "embed": f"model_name_or_path visionsam-tiny dataset data splits [train,heldout] embeddings cache output_dir embed"
        f" window {rule.window} window_side {rule.side}",
        "sft": f"model_name_or_path visionsam-tiny dataset data eval_split validation embeddings cache output_dir sft"
        f" window {rule.window} window_side {rule.side} max_steps 2 use_cpu true",
        "candidates": "model_name_or_path sft dataset data embeddings cache output_dir candidates"
        " candidate_source [tokens,box_jitter,shapes]",
        "annotate oracle": "candidates candidates output_dir preferences",
        "dpo": "model_name_or_path sft dataset preferences embeddings cache output_dir dpo max_steps 2 use_cpu true"
        " loss_type region",
        "evaluate": "model_name_or_path dpo dataset data embeddings cache output_dir evaluation",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for command, keys in words.items():
            pairs = keys.split(" ")
            asked = [word for key, value in zip(pairs[::2], pairs[1::2]) for word in (f"--{key}", value.replace(":", ": "))]
            assert cli.main([*command.split(), *asked]) == 0, command
    return root, rule


def test_every_stage_saw_the_same_windows(project):
    root, rule = project
    remembered = {"window": rule.window, "multiple": 3.0, "side": rule.side}
    for name in ("sft", "dpo"):
        assert json.loads((root / name / "processor_config.json").read_text())["image_processor"]["window"] == remembered
        record, card = json.loads((root / name / "stage.json").read_text()), (root / name / "README.md").read_text()
        assert record["results"]["window"] == str(rule) and f"it was tuned to be shown {rule}" in card
    keys = set()
    for file in (root / "cache").glob("*/*.safetensors"):
        found = read_shard(file).keys
        assert not keys & set(found)
        keys |= set(found)
    expected = 0
    for split in ("train", "validation", "heldout"):
        for row in load_split(str(root / "data"), split, kind="segmentation"):
            expected += len(set(object_windows(row["objects"], rule)))
    # No stage needed another window than those of the boxes, and each was encoded once.
    assert len(keys) == expected


def test_predict_gives_the_masks_that_were_evaluated(project, monkeypatch):
    root, rule = project
    monkeypatch.chdir(root)
    columns = read_columns(root / "evaluation" / "per_sample.parquet")
    rows = load_split("data", "heldout", kind="segmentation")
    row, box = rows[0], [float(value) for value in rows[0]["objects"][0]["box"]]
    row["image"].save("photograph.png")
    words = ["--image", "photograph.png", "--output", "predicted", "--box", *map(str, box)]
    assert cli.main(["predict", "--model", "dpo", *words]) == 0
    mask = np.asarray(Image.open("predicted/mask.png"))
    place = int(np.flatnonzero((columns["row"] == 0) & (columns["object_index"] == 0))[0])
    assert mask.shape == (128, 128)
    # The cache holds 16 bits, predict computes in float32.
    assert abs(int(mask.sum()) - int(columns["predicted"][place, 0])) <= 0.05 * max(mask.sum(), 20)


def test_another_window_than_the_tuned_one_warns(project, monkeypatch, caplog):
    root, rule = project
    monkeypatch.chdir(root)
    asked = ["--model_name_or_path", "dpo", "--dataset", "data", "--output_dir", "as-whole", "--window", "whole"]
    assert cli.main(["evaluate", *asked]) == 0
    assert f"window: the model was tuned on {rule}, and is now shown the whole photograph" in caplog.text
