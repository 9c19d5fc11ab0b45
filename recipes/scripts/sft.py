# /// script
# requires-python = ">=3.11"
# dependencies = ["visionsam_hf"]
# [tool.uv.sources]
# visionsam_hf = { path = "../.." }
# ///
"""Stage 1 in one file: fine-tune SAM's mask decoder on masks.

    uv run recipes/scripts/sft.py --dataset_name DIR_OR_HUB_ID --output_dir outputs/sft
"""

import argparse

from datasets import load_dataset

from visionsam_hf import SamSFTConfig, SamSFTTrainer

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model_name_or_path", default="visionsam-tiny")
parser.add_argument("--dataset_name", required=True, help="segmentation data set, as visionsam build writes it")
parser.add_argument("--dataset_config")
parser.add_argument("--dataset_train_split", default="train")
parser.add_argument("--dataset_test_split", help="split to measure on at the end")
parser.add_argument("--output_dir", required=True)
parser.add_argument("--max_steps", type=int, default=150)
parser.add_argument("--learning_rate", type=float, default=1e-4)

if __name__ == "__main__":
    given = parser.parse_args()
    data = load_dataset(given.dataset_name, given.dataset_config)
    args = SamSFTConfig(
        output_dir=given.output_dir,
        max_steps=given.max_steps,
        learning_rate=given.learning_rate,
        lr_scheduler_type="cosine",
        w_dice=1.0,
        box_jitter=0.05,
        window="zoom",
        embeddings=f"{given.output_dir}/embeddings",  # every image is encoded once
    )
    held = data[given.dataset_test_split] if given.dataset_test_split else None
    trainer = SamSFTTrainer(given.model_name_or_path, args, data[given.dataset_train_split], eval_dataset=held)
    trainer.train()
    trainer.save_model()
    if held is not None:
        print(f"IoU {trainer.evaluate()['eval_iou']:.3f}")
