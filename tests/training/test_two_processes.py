"""Two processes share the encoding and follow the trajectory of one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from visionsam_hf.embeddings.shards import read_shard

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import json, sys
import datasets
from visionsam_hf import SamSFTConfig, SamSFTTrainer
from visionsam_hf.cli.stage import leave_launched
work, batch, out, window = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
args = SamSFTConfig(
    output_dir=out, embeddings=out + "/cache", embedding_dtype="float32", per_device_train_batch_size=batch, max_steps=4,
    w_dice=1.0, box_jitter=0.1, variants=2, learning_rate=1e-3, logging_steps=1, disable_tqdm=True, prompts_per_image=2,
    per_device_eval_batch_size=batch, window=window, window_multiple=1.5, window_side=16,
)
rows = datasets.load_from_disk(work + "/rows")
trainer = SamSFTTrainer(work + "/model", args, rows, eval_dataset=rows.select([0, 2, 1, 3, 5]))
trainer.train()
evaluation = trainer.evaluate()
if trainer.is_world_process_zero():
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(json.dumps({"processes": trainer.accelerator.num_processes, "losses": losses, "evaluation": evaluation}))
leave_launched(0)
"""


def run(work, out, batch, processes, window="whole"):
    (work / "script.py").write_text(SCRIPT)
    launched = (
        [] if processes == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    )
    done = subprocess.run(
        [sys.executable, *launched, work / "script.py", work, str(batch), out, window],
        capture_output=True, text=True, cwd=work,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "",
             "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"processes"')))


def test_two_processes_encode_once_and_train_as_one(tmp_path, model_dir, segmentation):
    segmentation.save_to_disk(tmp_path / "rows")
    one = run(tmp_path, tmp_path / "one", 4, 1)
    two = run(tmp_path, tmp_path / "two", 2, 2)
    assert (one["processes"], two["processes"]) == (1, 2)
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4) and len(set(one["losses"])) == 4
    for key in ("eval_loss", "eval_iou"):  # 8 prompts of 5 images: uneven batches, a repeat
        assert two["evaluation"][key] == pytest.approx(one["evaluation"][key], rel=1e-4)
    indices = [list(read_shard(path).keys) for path in (tmp_path / "two" / "cache").glob("*/*.safetensors")]
    # Each took its share, and nobody what another had.
    assert sorted(map(len, indices)) == [6, 6] and len(set(sum(indices, []))) == 12


def test_two_processes_share_the_windows(tmp_path, model_dir, segmentation):
    segmentation.save_to_disk(tmp_path / "rows")
    one = run(tmp_path, tmp_path / "one", 4, 1, "zoom")
    two = run(tmp_path, tmp_path / "two", 2, 2, "zoom")
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    for key in ("eval_loss", "eval_iou"):
        assert two["evaluation"][key] == pytest.approx(one["evaluation"][key], rel=1e-4)
    of_one, of_two = (
        [key for path in (tmp_path / name / "cache").glob("*/*.safetensors") for key in read_shard(path).keys]
        for name in ("one", "two")
    )
    # Every window once, whoever encoded it; looks of two of them.
    assert sorted(of_one) == sorted(of_two) and len(of_two) == len(set(of_two))
    assert sum("-w" in key for key in of_two) > len(of_two) / 2
