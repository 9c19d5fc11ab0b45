"""Run by `accelerate launch`: embed, sft, dpo and evaluate in one process group, so that it is set up once.

python -m tests.reliability.two_processes PROJECT OUT BATCH
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for tests/conftest.py

from tests.reliability.tiny_project import Project  # noqa: E402
from visionsam_hf.cli import command_line as cli  # noqa: E402
from visionsam_hf.cli.stage import leave_launched  # noqa: E402


def commands(project: Project, out: Path, batch: int) -> dict[str, list[str]]:
    """Stage -> the words of its command; `batch` samples a process and step."""
    model, common = ["--model_name_or_path", project.model], ["--use_cpu", "true", "--disable_tqdm", "true"]
    # Five steps over 12 prompts in batches of 8: the last batch of an epoch is uneven on two processes.
    train = [
        "--max_steps",
        "5",
        "--learning_rate",
        "1e-3",
        "--logging_steps",
        "1",
        "--per_device_train_batch_size",
        str(batch),
    ]
    cache = ["--embeddings", str(out / "cache"), "--embedding_dtype", "float32"]
    return {
        "embed": [
            "embed",
            *model,
            "--dataset",
            project.data,
            "--splits",
            "[train, heldout]",
            "--batch_size",
            "3",
            *cache,
        ],
        "sft": ["sft", *model, "--dataset", project.data, *train, *common, *cache, "--w_dice", "1"],
        "dpo": ["dpo", *model, "--dataset", project.preferences, *train, *common, "--loss_type", "region"],
        "evaluate": ["evaluate", *model, "--dataset", project.data, "--split", "train"],
    }


def main() -> int:
    project, out, batch = Project(Path(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3])
    dying = os.environ.get("DIE_IN", "")
    for stage, words in commands(project, out, batch).items():
        if dying == stage and os.environ.get("RANK") == "1":
            os._exit(7)
        if dying and dying != stage:
            continue
        code = cli.main([*words, "--output_dir", str(out / stage)])
        if code:
            return code
    return 0


if __name__ == "__main__":
    leave_launched(main())
