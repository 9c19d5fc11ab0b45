"""What a training prints: lines for people, no dictionaries."""

from conftest import tiny_processor

from visionsam_hf import SamSFTConfig, SamSFTTrainer
from visionsam_hf.training.progress import readable


def test_a_line_of_a_log_entry():
    logs = {"loss": 0.41234, "grad_norm": 1.2, "learning_rate": 5e-5, "iou": 0.6314, "epoch": 1.0}
    assert readable(logs, 20, 100) == "step 20/100: loss 0.4123, IoU 0.631, lr 5.0e-05"
    assert readable({"eval_loss": 0.5, "eval_iou": 0.7, "eval_runtime": 3.0}, 100, 100) == (
        "step 100/100, validation: loss 0.5000, IoU 0.700"
    )
    assert readable({"train_runtime": 3.2, "train_loss": 0.3}, 100, 100) == ""


def test_a_training_prints_lines(model, segmentation, tmp_path, capsys):
    for disable in (True, False):
        args = SamSFTConfig(
            output_dir=str(tmp_path), max_steps=4, logging_steps=2, use_cpu=True, w_dice=1.0, disable_tqdm=disable,
            eval_strategy="steps", eval_steps=2,
        )
        trainer = SamSFTTrainer(model, args, segmentation, eval_dataset=segmentation, processing_class=tiny_processor())
        trainer.train()
        printed = capsys.readouterr()
        text = printed.out + printed.err
        assert "step 2/4: loss" in text and "step 4/4, validation: loss" in text and "{" not in text
