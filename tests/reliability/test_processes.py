"""Two processes, on one machine or as two, do what one does at the same global batch; a process that dies ends the run."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.closeness import assert_close
from tests.reliability.counts import is_long, record
from tests.reliability.fixtures import project  # noqa: F401
from tests.reliability.forked import fork
from tests.reliability.tiny_project import strays
from tests.reliability.two_processes import commands
from visionsam_hf.cli import command_line as cli
from visionsam_hf.evaluation.per_sample import FILE, read_columns

# ruff: noqa: F811
ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "accelerate_configs"
PATIENCE = 600


def launch(*words, config="multi_cpu.yaml", **environment):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", CONFIGS / config, *words]
    # A process of its own group, so that what it leaves behind can be found.
    return subprocess.Popen(
        [str(word) for word in command], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def losses(directory):
    log = json.loads((directory / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in log if "loss" in entry]


@pytest.fixture(scope="module")
def one(project, tmp_path_factory):
    """What one process gives, with a batch of 8."""
    out = tmp_path_factory.mktemp("one")
    for stage, words in commands(project, out, 8).items():
        ending = fork(
            lambda words=words, stage=stage: cli.main([*words, "--output_dir", str(out / stage)]), log=out / "log"
        )
        assert ending.code == 0, ending.text
    (out / "log").unlink()
    (out / "log.changes").unlink()
    return out


def compare(one, two):
    for stage in ("sft", "dpo"):
        np.testing.assert_allclose(losses(two / stage), losses(one / stage), rtol=2e-4)
        weights, others = (load_file(out / stage / "model.safetensors") for out in (one, two))
        for name, value in weights.items():
            torch.testing.assert_close(others[name], value, rtol=1e-3, atol=2e-4)
    alone, together = (read_columns(out / "evaluate" / FILE) for out in (one, two))
    for name, column in alone.items():
        assert_close(together[name], column, where=name)
    ours, theirs = (json.loads((out / "evaluate" / "metrics.json").read_text()) for out in (one, two))
    assert_close(theirs, ours)
    assert ours["n"] == 12
    counts = [json.loads((out / "embed" / "stage.json").read_text())["results"] for out in (one, two)]
    assert counts[0]["images"] == counts[1]["images"] and counts[0]["encoded"] == counts[1]["encoded"]
    # Each result was written once, by one process.
    assert list(strays(two)) == [] and sorted(os.listdir(one)) == sorted(os.listdir(two))
    for stage in ("sft", "dpo", "evaluate"):
        assert sorted(os.listdir(one / stage)) == sorted(os.listdir(two / stage))


def test_two_processes_give_the_numbers_of_one(project, one, tmp_path):
    started = launch("-m", "tests.reliability.two_processes", project.root, tmp_path / "two", 4)
    text, _ = started.communicate(timeout=PATIENCE)
    assert started.returncode == 0, text[-4000:]
    compare(one, tmp_path / "two")
    steps = len(losses(one / "sft")) + len(losses(one / "dpo"))
    record("processes", {"stages": 4, "losses compared": steps, "prompts compared": 12})


def test_two_machines_give_the_numbers_of_one(project, one, tmp_path):
    """Two nodes as two process groups that meet at a port of this machine."""
    port, out = free_port(), tmp_path / "two"
    nodes = [
        launch(
            "--mixed_precision",
            "no",
            "--num_machines",
            2,
            "--num_processes",
            2,
            "--machine_rank",
            rank,
            "--main_process_ip",
            "127.0.0.1",
            "--main_process_port",
            port,
            "-m",
            "tests.reliability.two_processes",
            project.root,
            out,
            4,
            config="multi_node.yaml",
            ACCELERATE_USE_CPU="true",
        )  # fmt: skip
        for rank in range(2)
    ]
    texts = [node.communicate(timeout=PATIENCE)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], texts[0][-3000:] + texts[1][-3000:]
    compare(one, out)


@pytest.mark.parametrize("stage", ["embed", "sft", "dpo", "evaluate"] if is_long("soak") else ["sft"])
def test_a_process_that_dies_ends_the_run_with_a_message(stage, project, tmp_path):
    started = time.monotonic()
    run = launch("-m", "tests.reliability.two_processes", project.root, tmp_path / "two", 4, DIE_IN=stage)
    text, _ = run.communicate(timeout=PATIENCE)
    assert (
        run.returncode not in (0, None)
        and "exitcode" in text.replace(" ", "")
        and time.monotonic() - started < PATIENCE
    )
    assert not (tmp_path / "two" / stage).exists()


@pytest.mark.parametrize("name", sorted(path.name for path in CONFIGS.glob("*.yaml")))
def test_every_configuration_is_understood(name):
    """accelerate reads it, knows every key, and makes a launch of it."""
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(CONFIGS / name))
    assert config.num_processes >= 1 and set(yaml.safe_load((CONFIGS / name).read_text())) <= set(vars(config))
