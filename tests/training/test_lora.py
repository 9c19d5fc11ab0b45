"""LoRA: the adapter alone moves, and what is saved loads with plain peft, merges, and trains on."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from closeness import assert_close
from conftest import tiny_processor
from peft import PeftModel
from transformers import SamModel

from visionsam_hf import SamDPOConfig, SamDPOTrainer, SamSFTConfig, SamSFTTrainer, load_model
from visionsam_hf.data.errors import UserError
from visionsam_hf.models.loading import load_processor, save_model

COMMON = dict(
    max_steps=4, per_device_train_batch_size=2, learning_rate=1e-2, logging_steps=1, disable_tqdm=True, use_cpu=True,
    use_peft=True, lora_r=2, lora_alpha=4,
)


def sft(model, rows, directory, **settings):
    args = SamSFTConfig(output_dir=str(directory), **{**COMMON, **settings})
    return SamSFTTrainer(str(model), args, rows, eval_dataset=rows)


def dpo(model, rows, directory, **settings):
    args = SamDPOConfig(output_dir=str(directory), **{**COMMON, "loss_type": "region", **settings})
    return SamDPOTrainer(str(model), args, rows)


def finished(trainer, directory):
    trainer.train()
    save_model(trainer.model, trainer.processor, directory)
    return directory


def masks(model, seed=0):
    """Logits of three boxes on one random image, through the library's own forward."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(1, 3, 64, 64, generator=generator)
    boxes = torch.tensor([[[4.0, 6, 40, 50], [10, 10, 30, 60], [20, 2, 60, 30]]])
    with torch.no_grad():
        return SamModel.forward(model, pixel_values=pixels, input_boxes=boxes).pred_masks


@pytest.mark.parametrize("trainable", ["mask_decoder", "all"])
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_the_adapter_alone_moves(model_dir, segmentation, preferences, tmp_path, stage, trainable):
    make, rows = (sft, segmentation) if stage == "sft" else (dpo, preferences)
    trainer = make(model_dir, rows, tmp_path / "out", trainable=trainable)
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.train()
    moved = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and moved == {name for name in before if "lora_" in name}
    assert any("vision_encoder" in name for name in moved) == (trainable == "all")
    trained = {name for name, value in trainer.model.named_parameters() if value.requires_grad}
    assert moved == trained


def test_losses_are_logged_as_without_an_adapter(model_dir, segmentation, tmp_path, caplog):
    trainer = sft(
        model_dir,
        segmentation,
        tmp_path / "out",
        embeddings=str(tmp_path / "cache"),
        eval_strategy="steps",
        eval_steps=2,
    )
    trainer.train()
    names = {key for entry in trainer.state.log_history for key in entry}
    assert {"loss", "iou", "eval_loss", "eval_iou"} <= names
    assert "label_names" not in caplog.text


def test_saved_adapters_load_with_plain_peft(model_dir, segmentation, tmp_path):
    """In a process that never imports this package, and equal to `load_model`'s merged weights."""
    directory = finished(sft(model_dir, segmentation, tmp_path / "out"), tmp_path / "adapter")
    assert not (directory / "model.safetensors").exists()
    assert (directory / "adapter_model.safetensors").stat().st_size < (
        model_dir / "model.safetensors"
    ).stat().st_size / 2
    script = (
        "import sys, torch; from peft import PeftConfig, PeftModel; from transformers import SamModel, SamProcessor\n"
        "SamProcessor.from_pretrained(sys.argv[1])\n"
        "base = SamModel.from_pretrained(PeftConfig.from_pretrained(sys.argv[1]).base_model_name_or_path)\n"
        "model = PeftModel.from_pretrained(base, sys.argv[1]).eval()\n"
        "pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))\n"
        "boxes = torch.tensor([[[4.0, 6, 40, 50], [10, 10, 30, 60], [20, 2, 60, 30]]])\n"
        "with torch.no_grad(): logits = model(pixel_values=pixels, input_boxes=boxes).pred_masks\n"
        "assert 'visionsam_hf' not in sys.modules\n"
        "torch.save(logits, sys.argv[2])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, directory, tmp_path / "logits.pt"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    adapted = torch.load(tmp_path / "logits.pt")
    merged = load_model(str(directory))
    assert type(merged) is SamModel and not any("lora" in name for name in merged.state_dict())
    torch.testing.assert_close(masks(merged), adapted, rtol=1e-4, atol=1e-5)
    assert (masks(load_model(str(model_dir))) - adapted).abs().max() > 1e-3


def test_merged_models_are_plain_and_tune_further(model_dir, segmentation, tmp_path):
    directory = finished(sft(model_dir, segmentation, tmp_path / "out"), tmp_path / "adapter")
    merged = load_model(str(directory))
    save_model(merged, load_processor(str(directory)), tmp_path / "merged")
    again = SamModel.from_pretrained(tmp_path / "merged")
    assert_close(masks(again), masks(merged))
    # Without use_peft the merged weights train themselves; with it a new adapter goes on top of them.
    trainer = sft(directory, segmentation, tmp_path / "full", use_peft=False)
    trainer.train()
    assert type(trainer.model) is SamModel
    assert isinstance(sft(tmp_path / "merged", segmentation, tmp_path / "second").model, PeftModel)


def test_the_reference_is_the_adapter_switched_off(model_dir, preferences, tmp_path):
    trainer = dpo(model_dir, preferences, tmp_path / "out", lora_dropout=0.5)
    trainer.train()
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(3)])
    trainer.model.eval()
    with torch.no_grad():
        tuned = trainer.forward(trainer.model, batch)[0][:, 0]
        with trainer.model.disable_adapter():
            off = trainer.forward(trainer.model, batch)[0][:, 0]
    stored = torch.from_numpy(trainer._reference["train"][:3].astype(np.float32))
    torch.testing.assert_close(stored, off, rtol=1e-3, atol=1e-3)
    assert (tuned - off).abs().max() > 1e-2


def test_a_saved_adapter_trains_on_and_keeps_its_base(model_dir, segmentation, preferences, tmp_path):
    first = finished(sft(model_dir, segmentation, tmp_path / "sft"), tmp_path / "adapter")
    trainer = dpo(first, preferences, tmp_path / "dpo", embeddings=str(tmp_path / "cache"))
    start = masks(load_model(str(first)))
    torch.testing.assert_close(masks(trainer.model.get_base_model()), start, rtol=1e-4, atol=1e-5)
    # The reference is where it starts, not the base.
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(2)])
    losses, _ = trainer.prompt_losses(trainer.model.train(), batch)
    torch.testing.assert_close(losses, torch.full((2,), float(np.log(2))), atol=2e-2, rtol=0)
    second = finished(trainer, tmp_path / "second")
    assert (masks(load_model(str(second))) - start).abs().max() > 1e-3
    from peft import PeftConfig

    assert PeftConfig.from_pretrained(second).base_model_name_or_path == str(model_dir)
    with pytest.raises(UserError, match="lora_r: 4, but the adapter in .* has 2"):
        dpo(first, preferences, tmp_path / "out", lora_r=4)
    with pytest.raises(UserError, match="trainable: all, but the adapter in .* has mask_decoder"):
        dpo(first, preferences, tmp_path / "out", trainable="all")


def test_training_resumes_with_its_adapter(model_dir, segmentation, tmp_path):
    settings = dict(save_strategy="steps", save_steps=2, max_steps=4)
    whole = sft(model_dir, segmentation, tmp_path / "whole", **settings)
    whole.train()
    resumed = sft(model_dir, segmentation, tmp_path / "again", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (dict(trainable="mask_decoder+prompt_encoder"), "trainable"),
        (dict(lora_r=0), "lora_r"),
        (dict(lora_alpha=0.0), "lora_alpha"),
        (dict(lora_dropout=1.0), "lora_dropout"),
        (dict(trainable="all", embeddings="cache"), "embeddings"),
    ],
)
@pytest.mark.parametrize("config", [SamSFTConfig, SamDPOConfig])
def test_wrong_settings_name_the_key(tmp_path, config, settings, key):
    with pytest.raises(UserError, match=key):
        config(output_dir=str(tmp_path), use_peft=True, **settings)


def test_an_adapter_needs_a_base_with_weights(model_dir, segmentation, tmp_path):
    (model_dir / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has no model.safetensors"):
        sft(model_dir, segmentation, tmp_path / "out")


def test_models_given_as_objects_take_adapters_too(model, segmentation, tmp_path):
    args = SamSFTConfig(output_dir=str(tmp_path), **COMMON)
    trainer = SamSFTTrainer(model, args, segmentation, processing_class=tiny_processor())
    assert isinstance(trainer.model, PeftModel)
