"""SIGTERM, Ctrl-C, a second run, clocks that jump, workers that die, NaN in a batch."""

import multiprocessing
import os
import shutil
import signal
import time

import numpy as np
import pytest
from safetensors.torch import load_file

from tests.reliability.fixtures import project  # noqa: F401
from tests.reliability.forked import fork
from tests.reliability.test_full_disks import one_line
from tests.reliability.tiny_project import snapshot, strays
from visionsam_hf.cli import command_line as cli
from visionsam_hf.training.sft_trainer import SamSFTTrainer

# ruff: noqa: F811


def run(command, tmp_path, **moment):
    return fork(lambda: cli.main(command), log=tmp_path / "log", **moment)


def when_step(step, act):
    """A `SamSFTTrainer.prompt_losses` that calls `act(trainer, inputs)` once, in that step."""
    real, done = SamSFTTrainer.prompt_losses, []

    def losses(trainer, model, inputs):
        if trainer.state.global_step == step and model.training and not done:
            done.append(act(trainer, inputs))
        return real(trainer, model, inputs)

    return losses


def patched(command, step, act):
    def body():
        SamSFTTrainer.prompt_losses = when_step(step, act)
        return cli.main(command)

    return body


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_training_asked_to_stop_saves_and_says_how_to_go_on(number, project, tmp_path):
    out = tmp_path / "out"
    command = [*project.commands(out)["sft"], "--save_strategy", "no"]
    assert run(command, tmp_path).code == 0
    wanted = snapshot(out)
    weights = load_file(out / "result" / "model.safetensors")
    (out / "result").rename(tmp_path / "undisturbed")

    def ask(trainer, inputs):
        os.kill(os.getpid(), number)

    ending = fork(patched(command, 3, ask), log=tmp_path / "log")
    assert ending.code == 128 + number, ending.text
    told = ending.text.splitlines()[-1]
    assert "saved at step 4" in told and "the same command goes on" in told and "Traceback" not in ending.text
    assert (out / "result.partial" / "checkpoint-4" / "complete.json").is_file() and not (out / "result").exists()
    assert run(command, tmp_path).code == 0
    assert snapshot(out) == wanted and list(strays(out)) == []
    again = load_file(out / "result" / "model.safetensors")
    assert all((again[name] == value).all() for name, value in weights.items())


def test_other_stages_leave_nothing_half_written(project, tmp_path):
    from visionsam_hf.evaluation import evaluator

    out = tmp_path / "out"

    def body():
        real = evaluator.score_prompt

        def score_then_stop(*arguments):
            os.kill(os.getpid(), signal.SIGTERM)
            return real(*arguments)

        evaluator.score_prompt = score_then_stop
        return cli.main(project.commands(out)["evaluate"])

    ending = fork(body, log=tmp_path / "log")
    assert ending.code == 143 and "the same command starts it again" in ending.text.splitlines()[-1], ending.text
    assert list(out.iterdir()) == []


def test_a_second_run_is_refused_with_the_first_ones_number(project, tmp_path):
    out = tmp_path / "out"
    command = project.commands(out)["sft"]

    def second(trainer, inputs):
        child = fork(lambda: cli.main(command), log=tmp_path / "second")
        one_line(child, f"another run (process {os.getpid()}) is writing it")

    first = fork(patched(command, 1, second), log=tmp_path / "log")
    assert first.code == 0, first.text
    assert (tmp_path / "second").read_text() and list(strays(out)) == []


@pytest.mark.parametrize(
    ("stage", "file"),
    [("evaluate", "metrics.json"), ("find", "model.safetensors"), ("predict --finder", "verdicts.csv")],
)
def test_runs_that_start_together_end_with_one_result(stage, file, project, tmp_path):
    out = tmp_path / "out"
    assert run(project.commands(out)[stage], tmp_path).code == 0
    wanted = snapshot(out)
    shutil.rmtree(out)

    def both():
        children = []
        for number in range(4):
            if (child := os.fork()) == 0:
                os._exit(fork(lambda: cli.main(project.commands(out)[stage]), log=tmp_path / f"log{number}").code)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert set(codes) <= {0, 2} and 0 in codes, codes
        return 0

    ending = fork(both, log=tmp_path / "log")
    assert ending.code == 0, ending.text + (tmp_path / "log0").read_text()
    assert (out / "result" / file).is_file() and snapshot(out) == wanted and list(strays(out)) == []


def test_a_clock_that_jumps_changes_no_result(project, tmp_path):
    out = tmp_path / "out"
    command = project.commands(out)["sft"]
    assert run(command, tmp_path).code == 0
    wanted = snapshot(out)
    (out / "result").rename(tmp_path / "undisturbed")

    def body():
        real, jumps = time.time, iter(range(10**9))
        # An hour back at every look: no checkpoint is younger than the one before it.
        time.time = lambda: real() - 3600 * next(jumps)
        return cli.main(command)

    def die(trainer, inputs):
        for place, checkpoint in enumerate(sorted((out / "result.partial").glob("checkpoint-*"))):
            os.utime(checkpoint, (1e9 - 1e6 * place,) * 2)
        os.kill(os.getpid(), signal.SIGKILL)

    assert fork(patched(command, 5, die), log=tmp_path / "log").code == -9
    ending = fork(body, log=tmp_path / "log")
    assert ending.code == 0, ending.text
    assert snapshot(out) == wanted


def test_a_dead_data_loader_worker_is_one_line_and_the_repeat_goes_on(project, tmp_path):
    out = tmp_path / "out"
    # Six steps an epoch: in step 7 the second epoch's worker has just begun.
    command = [*project.commands(out)["sft"], "--dataloader_num_workers", "1", "--max_steps", "14"]

    def kill_worker(trainer, inputs):
        for worker in multiprocessing.active_children():
            os.kill(worker.pid, signal.SIGKILL)
        time.sleep(0.2)

    told = one_line(fork(patched(command, 7, kill_worker), log=tmp_path / "log"), "a data loader worker died")
    assert "dataloader_num_workers" in told and list((out / "result.partial").glob("checkpoint-*/complete.json"))
    repeated = run(command, tmp_path)
    assert repeated.code == 0 and list(strays(out)) == [], repeated.text


def test_nan_in_a_batch_names_the_sample_and_keeps_the_checkpoint(project, tmp_path):
    out = tmp_path / "out"
    command = project.commands(out)["sft"]

    def spoil(trainer, inputs):
        (tmp_path / "spoiled").write_text(trainer.train_dataset.image_id(int(inputs["item"][1])))
        inputs["pixel_values"][1] = float("nan")

    ending = fork(patched(command, 5, spoil), log=tmp_path / "log")
    told = one_line(ending, "the loss is nan")
    assert f"'{(tmp_path / 'spoiled').read_text()}'" in told and "step 5" in told
    assert (out / "result.partial" / "checkpoint-4" / "complete.json").is_file()
    repeated = run(command, tmp_path)
    assert repeated.code == 0, repeated.text
    assert np.isfinite(load_file(out / "result" / "model.safetensors")["mask_decoder.iou_token.weight"].numpy()).all()
