"""`visionsam convert`, and what it writes going through every stage."""

import json
import sys
from pathlib import Path

import pytest
import torch
from defect_examples import write_discs
from transformers import AutoModel

sys.path.append(str(Path(__file__).parents[1] / "models"))
from small_models import meta_weights, mobile_config, random_model  # noqa: E402

from visionsam_hf.cli.command_line import main  # noqa: E402
from visionsam_hf.models.loading import load_model, load_processor  # noqa: E402
from visionsam_hf.models.mobile_sam import MobileSamModel  # noqa: E402


@pytest.fixture
def checkpoint(tmp_path):
    torch.save(meta_weights(random_model(mobile_config(64))), tmp_path / "mobile_sam.pt")
    return tmp_path / "mobile_sam.pt"


def test_a_converted_checkpoint_goes_through_every_stage(checkpoint, tmp_path, capsys):
    assert main(["convert", str(checkpoint), "--output_dir", str(tmp_path / "sam"), "--image_size", "64"]) == 0
    assert "MobileSAM" in capsys.readouterr().out
    assert isinstance(load_model(str(tmp_path / "sam")), MobileSamModel)
    data = str(write_discs(tmp_path / "data", train=4, heldout=2))

    def run(*words):
        assert main([str(word) for word in words]) == 0, capsys.readouterr().err

    cached = ("--embeddings", tmp_path / "embeddings")
    quick = (*cached, "--max_steps", "2", "--per_device_train_batch_size", "2", "--disable_tqdm", "--use_cpu")
    run("embed", "--model_name_or_path", tmp_path / "sam", "--dataset", data, *cached, "--output_dir", tmp_path / "embed")
    run("sft", "--model_name_or_path", tmp_path / "sam", "--dataset", data, "--output_dir", tmp_path / "sft", *quick)
    run("candidates", "--model_name_or_path", tmp_path / "sft", "--dataset", data, *cached,
        "--candidate_source", "thresholds", "shapes", "--output_dir", tmp_path / "candidates")
    run("annotate", "oracle", "--candidates", tmp_path / "candidates", "--output_dir", tmp_path / "pairs")
    run("dpo", "--model_name_or_path", tmp_path / "sft", "--dataset", tmp_path / "pairs", "--use_peft",
        "--output_dir", tmp_path / "dpo", *quick)
    run("merge", tmp_path / "dpo", "--output_dir", tmp_path / "merged")
    run("evaluate", "--model_name_or_path", tmp_path / "merged", "--dataset", data, *cached, "--output_dir", tmp_path / "e")
    assert json.loads((tmp_path / "e" / "metrics.json").read_text())["n"] > 0
    before, after = load_model(str(tmp_path / "sam")), load_model(str(tmp_path / "merged"))
    assert isinstance(after, MobileSamModel) and isinstance(AutoModel.from_pretrained(tmp_path / "merged"), MobileSamModel)
    assert torch.equal(before.vision_encoder.neck.conv1.weight, after.vision_encoder.neck.conv1.weight)
    assert not torch.equal(before.mask_decoder.upscale_conv1.weight, after.mask_decoder.upscale_conv1.weight)
    assert load_processor(str(tmp_path / "merged")).image_processor.size == {"longest_edge": 64}
    capsys.readouterr()


def test_what_is_there_is_not_replaced(checkpoint, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    assert main(["convert", str(checkpoint), "--output_dir", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.strip() == (
        f"visionsam: {tmp_path / 'out'}: is there already; remove it, or choose another output_dir"
    )
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_a_model_that_is_not_here_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VISIONSAM_MODELS", str(tmp_path / "models"))
    data = str(write_discs(tmp_path / "data", train=1, heldout=1))
    words = ["--dataset", data, "--output_dir", str(tmp_path / "out")]
    assert main(["evaluate", "--model_name_or_path", "mobile-sam", *words]) == 2
    message = capsys.readouterr().err.strip().splitlines()
    assert len(message) == 1 and "visionsam convert FILE_OR_DIR" in message[0]
    assert not (tmp_path / "out").exists()
