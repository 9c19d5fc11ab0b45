"""What people know from TRL works here: trainers without arguments, a `LoraConfig`, TRL's names of keys, `report_to`."""

import pytest
from conftest import tiny_processor
from peft import LoraConfig, PeftModel

from visionsam_hf import SamDPOTrainer, SamSFTConfig, SamSFTTrainer
from visionsam_hf.cli.command_line import parse_stage
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.settings import build_settings


def test_trainers_need_no_arguments(model, segmentation, preferences, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = SamSFTTrainer(model, train_dataset=segmentation, processing_class=tiny_processor())
    assert isinstance(trainer.args, SamSFTConfig) and trainer.args.per_device_train_batch_size == 8
    lora = LoraConfig(r=4, lora_alpha=12)
    trainer = SamDPOTrainer(model, train_dataset=preferences, processing_class=tiny_processor(), peft_config=lora)
    assert isinstance(trainer.model, PeftModel)
    adapter = trainer.model.peft_config["default"]
    assert (adapter.r, adapter.lora_alpha) == (4, 12)
    with pytest.raises(UserError, match="train_dataset"):
        SamSFTTrainer(model, processing_class=tiny_processor())
    with pytest.raises(UserError, match="target_modules"):
        elsewhere = LoraConfig(target_modules=["q_proj"])
        SamSFTTrainer(model, train_dataset=segmentation, processing_class=tiny_processor(), peft_config=elsewhere)


def test_trls_names_of_keys_are_read():
    words = ["--dataset_name", "a", "--dataset-train-split=b", "--dataset_test_split", "c", "--model_name_or_path", "m"]
    found = parse_stage("sft", words)
    assert (found.dataset, found.train_split, found.eval_split) == ("a", "b", "c")
    evaluated = parse_stage("evaluate", [*words[:2], *words[3:], "--output_dir", "o"])
    assert (evaluated.dataset, evaluated.split) == ("a", "c")
    same = build_settings(type(evaluated), {"dataset_name": "a", "model_name_or_path": "m", "output_dir": "o"})
    assert same.dataset == "a"


def test_metrics_go_to_tensorboard(model, segmentation, tmp_path, monkeypatch):
    """The one that needs no account. Its files lie under the output directory, or where TENSORBOARD_LOGGING_DIR says."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    args = SamSFTConfig(
        output_dir=str(tmp_path), max_steps=2, logging_steps=1, use_cpu=True, report_to=["tensorboard"], disable_tqdm=True
    )
    SamSFTTrainer(model, args, segmentation, processing_class=tiny_processor()).train()
    (file,) = (tmp_path / "board").rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file)).Reload()
    assert {"train/loss", "train/iou"} <= set(events.Tags()["scalars"])
    assert len(events.Scalars("train/loss")) == 2
