"""What people know from TRL works here: trainers without arguments, a `LoraConfig`, TRL's names of keys, `report_to`."""

import pytest
from conftest import tiny_processor
from huggingface_hub import ModelCard
from peft import LoraConfig, PeftModel

from visionsam_hf import SamDPOTrainer, SamSFTConfig, SamSFTTrainer
from visionsam_hf.cli.command_line import COMMANDS, parse_stage
from visionsam_hf.data.dataset_directory import load_split
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


def test_a_configuration_of_a_hub_data_set_is_read(monkeypatch, tmp_path, segmentation):
    asked = []

    def load_dataset(*words, **options):
        asked.append((*words, options["split"]))
        return segmentation

    monkeypatch.setattr("visionsam_hf.data.dataset_directory.load_dataset", load_dataset)
    found = parse_stage("sft", ["--dataset_name", "somebody/parts", "--dataset_config", "small", "--model_name_or_path", "m"])
    assert load_split(found.dataset, found.train_split, kind="segmentation", config=found.dataset_config) is segmentation
    assert asked == [("somebody/parts", "small", "train")]
    for command in ("embed", "candidates", "evaluate", "dpo"):
        assert "dataset_config" in COMMANDS[command].settings.__dataclass_fields__
    with pytest.raises(UserError, match="dataset_config: is 'small'"):
        load_split(tmp_path, "train", kind="segmentation", config="small")


def test_several_objectives_are_given_as_trl_does():
    paths = ["--model_name_or_path", "m", "--dataset", "d"]
    found = parse_stage("dpo", [*paths, "--loss_type", "region", "sft", "--loss_weights", "1", "0.5"])
    assert found.objectives == {"region": 1.0, "sft": 0.5} and found.needs_reference
    assert parse_stage("dpo", [*paths, "--loss_type", "[paper, sft]"]).objectives == {"paper": 1.0, "sft": 1.0}
    one = parse_stage("dpo", [*paths, "--loss_type", "region"])
    assert one.loss_type == "region" and one.objectives == {"region": 1.0}
    with pytest.raises(UserError, match="loss_type"):
        parse_stage("dpo", [*paths, "--loss_type", "mse"])


def test_what_a_trainer_saves_has_a_card(model_dir, segmentation, tmp_path):
    args = SamSFTConfig(
        output_dir=str(tmp_path / "out"), max_steps=2, logging_steps=1, use_cpu=True, disable_tqdm=True, window="zoom", w_dice=1.0
    )
    trainer = SamSFTTrainer(str(model_dir), args, segmentation)
    trainer.train()
    assert not (tmp_path / "out" / "README.md").exists()
    trainer.save_model()
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.library_name == "transformers" and card.data.pipeline_tag == "mask-generation"
    assert card.data.base_model is None and "SamSFTTrainer" in card.text and "zoom to 3 boxes" in card.text
    assert "| `w_dice` | `1.0` |" in card.text and "| `loss` |" in card.text
    again = tmp_path / "out" / "README.md"
    text = again.read_text()
    again.unlink()
    trainer.create_model_card()
    assert again.read_text() == text
    assert trainer.evaluate(trainer.train_dataset)["eval_loss"] > 0  # the trainer still works


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
