# /// script
# requires-python = ">=3.11"
# dependencies = ["visionsam_hf"]
# [tool.uv.sources]
# visionsam_hf = { path = "../.." }
# ///
"""Stage 2 in one file: tune SAM on ranked masks.

    uv run recipes/scripts/dpo.py --model_name_or_path outputs/sft --dataset_name DIR_OR_HUB_ID --output_dir outputs/dpo
"""

import argparse

from datasets import load_dataset

from visionsam_hf import SamDPOConfig, SamDPOTrainer

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model_name_or_path", default="visionsam-tiny", help="model of stage 1")
parser.add_argument("--dataset_name", required=True, help="preference data set, as visionsam annotate writes it")
parser.add_argument("--dataset_config")
parser.add_argument("--dataset_train_split", default="train")
parser.add_argument("--dataset_test_split", help="split to measure on at the end")
parser.add_argument("--output_dir", required=True)
parser.add_argument("--max_steps", type=int, default=60)
parser.add_argument("--learning_rate", type=float, default=1e-4)
parser.add_argument("--loss_type", nargs="+", default=["sft"])
parser.add_argument("--loss_weights", nargs="+", type=float)

if __name__ == "__main__":
    given = parser.parse_args()
    data = load_dataset(given.dataset_name, given.dataset_config)
    args = SamDPOConfig(
        output_dir=given.output_dir,
        max_steps=given.max_steps,
        learning_rate=given.learning_rate,
        lr_scheduler_type="cosine",
        loss_type=given.loss_type,
        loss_weights=given.loss_weights,
        embeddings=f"{given.output_dir}/embeddings",  # every image is encoded once
    )
    held = data[given.dataset_test_split] if given.dataset_test_split else None
    trainer = SamDPOTrainer(given.model_name_or_path, args, data[given.dataset_train_split], eval_dataset=held)
    trainer.train()
    trainer.save_model()
    if held is not None:
        print(f"IoU with the chosen masks {trainer.evaluate()['eval_iou/chosen']:.3f}")
