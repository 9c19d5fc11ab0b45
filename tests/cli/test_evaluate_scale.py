"""Evaluation on several processes, and on thousands of prompts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from closeness import assert_close
from conftest import initialise, tiny_config, tiny_processor
from defect_examples import write_discs

from visionsam_hf.cli.evaluate import EvaluateSettings, run
from visionsam_hf.data.settings import build_settings
from visionsam_hf.models.loading import save_model

ROOT = Path(__file__).resolve().parents[2]


def test_three_processes_give_the_numbers_of_one(tmp_path):
    save_model(initialise(tiny_config(), seed=0), tiny_processor(), tmp_path / "model")
    data = write_discs(tmp_path / "data", heldout=40)  # three pieces
    values = {"model_name_or_path": str(tmp_path / "model"), "dataset": str(data), "batch_size": 1}
    run(build_settings(EvaluateSettings, {**values, "output_dir": str(tmp_path / "one")}))
    options = [word for key, value in values.items() for word in (f"--{key}", str(value))]
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch",
         "--config_file", ROOT / "accelerate_configs" / "multi_cpu.yaml", "--num_processes", "3",
         "-m", "visionsam_hf", "evaluate", *options, "--output_dir", tmp_path / "three"],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    one, three = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "three"))
    assert_close(three, one)
    assert one["n"] > 40
    tables = [pq.read_table(tmp_path / name / "per_sample.parquet") for name in ("one", "three")]
    assert tables[0].schema == tables[1].schema
    assert_close(tables[1].to_pylist(), tables[0].to_pylist())
    written = sorted(path.name for path in (tmp_path / "three").iterdir())
    assert written == ["metrics.json", "per_sample.parquet", "stage.json"]


@pytest.mark.skipif(not os.environ.get("VISIONSAM_STRESS"), reason="takes minutes; set VISIONSAM_STRESS=1")
@pytest.mark.parametrize("streaming", [False, True])
def test_memory_does_not_grow_with_the_prompts(tmp_path, streaming):
    """2,000 prompts hold at most 300 MB more than 100 do."""
    save_model(initialise(tiny_config(), seed=0), tiny_processor(), tmp_path / "model")
    data = write_discs(tmp_path / "data", heldout=1700)
    peak = {}
    for prompts in (100, 2000):
        done = subprocess.run(
            [sys.executable, "-m", "visionsam_hf", "evaluate", "--model_name_or_path", tmp_path / "model",
             "--dataset", data, "--max_prompts", str(prompts), "--streaming", str(streaming),
             "--output_dir", tmp_path / str(prompts)],
            capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        record = json.loads((tmp_path / str(prompts) / "stage.json").read_text())
        assert record["results"]["n"] == prompts
        peak[prompts] = record["peak_memory_mb"]
    print(f"peak memory: {peak}")
    assert peak[2000] <= peak[100] + 300
