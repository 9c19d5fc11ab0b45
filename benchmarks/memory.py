"""Resident memory of training on 100 and on 10,000 cached images (small shape): it must not grow with the data.

    python benchmarks/memory.py [--short]
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from measuring import arguments, only_results, report, say
from shapes import photographs, sam

from visionsam_hf import EmbeddingCache, SamSFTConfig, SamSFTTrainer

_TARGET_MB = 50.0


def _resident_mb() -> dict[str, float]:
    """Resident memory of this process: all of it, and what is its own and not a file's."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return {
        name: round(int(lines[key].split()[0]) / 1024, 1) for name, key in (("all", "VmRSS"), ("anonymous", "RssAnon"))
    }


def _train(directory: str, steps: int) -> None:
    """In a process of its own: train, and print what is resident at the end."""
    import datasets

    rows = datasets.load_from_disk(directory + "/rows")
    model, processor = sam("small")
    args = SamSFTConfig(
        output_dir=directory + "/out", embeddings=directory + "/cache", max_steps=steps, per_device_train_batch_size=16,
        report_to="none", logging_strategy="no", disable_tqdm=True, use_cpu=True,
    )
    trainer = SamSFTTrainer(model, args, rows, processing_class=processor)
    trainer.train()
    say(_resident_mb())


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--train", nargs=2, metavar=("DIRECTORY", "STEPS"), help="for the processes that are measured")
    options = parser.parse_args()
    if options.train:
        _train(options.train[0], int(options.train[1]))
        return
    counts = (100, 1000) if options.short else (100, 10_000)
    # As many steps for both, enough to read every image of the larger set.
    steps = counts[-1] // 16 + 1
    model, processor = sam("small")
    resident = {}
    for count in counts:
        work = tempfile.mkdtemp(prefix="visionsam-bench-")
        rows = photographs(count, 128, 1)
        rows.save_to_disk(work + "/rows")
        EmbeddingCache(work + "/cache", model, processor).add(rows, batch_size=16)
        command = [sys.executable, os.path.abspath(__file__), "--train", work, str(steps)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        resident[str(count)] = json.loads(done.stdout.splitlines()[-1])
        shutil.rmtree(work)
    few, many = (resident[str(count)] for count in counts)
    growth = {kind: round(many[kind] - few[kind], 1) for kind in few}
    report("memory", options, {"resident_mb": resident, "growth_mb": growth, "target_mb": _TARGET_MB, "steps": steps})


if __name__ == "__main__":
    with only_results():
        main()
