"""The command line: dispatch, one line and exit code 2 for the user's mistakes, and help without torch."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from closeness import assert_same_masks
from conftest import CATEGORIES, photograph, segmentation_rows
from PIL import Image
from transformers import SamModel, SamProcessor

from visionsam_hf.cli import command_line as cli
from visionsam_hf.cli.build import _BUILDERS
from visionsam_hf.cli.options import EvaluateSettings
from visionsam_hf.data.dataset_directory import write_splits
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.schema import segmentation_features
from visionsam_hf.evaluation import SELECTIONS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def data_dir(tmp_path):
    rows = segmentation_rows()
    write_splits(
        tmp_path / "data", {"train": rows, "heldout": rows[:3]}, segmentation_features(CATEGORIES), card="---\n---\n"
    )
    return tmp_path / "data"


def run(*arguments, capsys):
    code = cli.main([str(argument) for argument in arguments])
    return code, capsys.readouterr()


SCRIPT = """
import io, contextlib, sys, time
from visionsam_hf.cli.command_line import COMMANDS, main
longest = 0
for words in [[], *(name.split() for name in COMMANDS), ["build"], ["annotate"]]:
    started, printed = time.process_time(), io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main([*words, "--help"]) == main([*words, "-h"]) == 0, words
    longest = max(longest, time.process_time() - started)
    command = COMMANDS.get(" ".join(words))
    for field in command.settings.__dataclass_fields__.values() if command else ():
        assert not field.init or f"--{field.name} " in printed.getvalue(), (words, field.name)
heavy = {"torch", "transformers", "datasets", "matplotlib", "cv2", "pyarrow"} & set(sys.modules)
assert not heavy, heavy
print(longest, time.process_time())
"""


def test_help_lists_every_key_and_imports_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    longest, whole = map(float, done.stdout.split())  # of the processor, whatever else the machine does
    assert longest < 1 and whole < 5


def test_the_table_holds():
    """Every command's work exists and takes its settings; every key given as a word is a key."""
    for name, command in cli.COMMANDS.items():
        module, _, function = command.work.partition(":")
        tree = ast.parse((ROOT / "visionsam_hf" / "cli" / f"{module}.py").read_text())
        assert function in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)], name
        assert set(command.words) <= set(command.settings.__dataclass_fields__) and command.help.endswith("."), name


def test_choices_agree_with_the_work():
    assert get_args(get_type_hints(EvaluateSettings)["selection"]) == SELECTIONS
    assert {name for name in cli.COMMANDS if name.startswith("build ")} == {f"build {name}" for name in _BUILDERS}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sfr"], "did you mean 'sft'?"),
        (["build", "vison", "x.yaml"], "no command 'build vison'; did you mean 'build vision'?"),
        (["annotate", "orakle"], "did you mean 'annotate oracle'?"),
        (["sft", "nothing.yaml"], "nothing.yaml: no such file"),
        (["sft", "a.yaml", "b.yaml"], "one CONFIG at a time"),
        (["candidates", "--datset", "x"], "unknown key 'datset'; did you mean 'dataset'?"),
        (["candidates", "--max-promts", "3"], "did you mean 'max_prompts'?"),
        (["candidates", "--dataset"], "expected one argument"),
        (["candidates", "--seed", "3", "4", "x.yaml"], "one CONFIG at a time, not 4 x.yaml"),
        (["candidates", "--splits", "train", "x.yaml"], "give the CONFIG before the options"),
        (["annotate", "oracle", "--candidates", "c", "--output_dir", "o", "--annotators", "0"], "give at least 1"),
        (["annotate", "users", "ad", "ann"], "key 'action' is 'ad'; give 'add', 'list' or 'revoke'"),
        (["quickstart", "recipes/quickstart"], "one word too many"),
        (["pipeline", "a", "b"], "one word too many"),
        (["evaluate", "--model_name_or_path", "outputs/missing", "--dataset", ".", "--output_dir", "o"],
         "outputs/missing: no such file"),
        (["candidates", "--dataset", "x", "--output_dir", "y"], "missing key 'model_name_or_path'"),
        (["pipeline", "recipes/nothing"], "no such file"),
        (["pipeline"], "RECIPE_DIR"),
        (["pipeline", "recipes/quickstart", "--set", "sft.seed"], "stage.key=value"),
        (
            ["predict", "--model", "visionsam-tiny", "--image", "nothing.png", "--box", "1", "2", "3", "4", "--output", "o"],
            "nothing.png",
        ),
        (["predict", "--model", "m", "--image", "x.png", "--output", "o"], "one prompt"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, printed = run(*arguments, capsys=capsys)
    assert code == 2
    assert words in printed.err and printed.err.count("\n") == 1 and "Traceback" not in printed.err


def read(name, *words):
    return cli.read_words(cli.COMMANDS[name].settings, words, name)


def test_options_take_what_their_type_takes():
    words, given = read("push", "--public", "DIR", "--dry-run", "false", "REPO", "--revision=v1")
    assert (words, given) == (["DIR", "REPO"], {"public": "true", "dry_run": "false", "revision": "v1"})
    assert read("candidates", "--seed", "3", "x.yaml") == (["x.yaml"], {"seed": "3"})
    assert read("candidates", "x.yaml", "--splits", "train", "test", "--max_prompts", "2") == (
        ["x.yaml"],
        {"splits": ["train", "test"], "max_prompts": "2"},
    )
    assert read("annotate serve", "--gate", "-1e-1")[1] == {"gate": "-1e-1"}
    assert read("predict", "--box", "-1", "2", "3.5", "4", "--no-box")[1] == {"box": ["-1", "2", "3.5", "4"], "no_box": "true"}
    assert read("pipeline", "R", "--only", "a", "b", "--set", "a.b=[c]", "a.d={e: 1}") == (
        ["R"],
        {"only": ["a", "b"], "set": ["a.b=[c]", "a.d={e: 1}"]},
    )


def test_words_options_and_yaml_together(tmp_path):
    (tmp_path / "x.yaml").write_text("model_name_or_path: m\ndataset: d\noutput_dir: o\nsplits: test\nembeddings: e\n")
    made = cli.parse_stage("candidates", ["--seed", "3", str(tmp_path / "x.yaml"), "--embeddings", "null"])
    assert (made.seed, made.splits, made.embeddings, made.dataset) == (3, ["test"], None, "d")
    assert cli.parse_stage("pipeline", ["R", "--set", "a.b={c: 1}"]).set == ["a.b={c: 1}"]
    assert cli.parse_stage("push", ["--repo_id", "me/x", "DIR"]).directory == "DIR"
    assert cli.parse_stage("annotate users", ["add", "ann"]).name == "ann"


def test_a_flag_before_the_config_of_a_training(tmp_path):
    (tmp_path / "x.yaml").write_text(f"model_name_or_path: m\ndataset: d\noutput_dir: {tmp_path / 'o'}\n")
    made = cli.parse_stage("sft", ["--gradient_checkpointing", str(tmp_path / "x.yaml"), "--report-to", "none"])
    assert made.gradient_checkpointing is True and made.report_to == []


def test_dashes_and_underscores_mean_the_same_key():
    settings = cli.parse_stage("annotate oracle", ["--candidates", "c", "--output-dir", "o", "--flip-rate", "0.2"])
    assert (settings.output_dir, settings.flip_rate) == ("o", 0.2)


def test_a_missing_data_set_stops_before_work(capsys, tmp_path, model_dir):
    code, printed = run(
        "candidates", "--model_name_or_path", model_dir, "--dataset", tmp_path / "nothing", "--output_dir",
        tmp_path / "out", capsys=capsys,
    )
    assert code == 2 and "nothing" in printed.err and not (tmp_path / "out").exists()


def test_a_broken_image_is_named(capsys, tmp_path, model_dir):
    broken = tmp_path / "broken part.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 truncated")
    code, printed = run(
        "predict", "--model", model_dir, "--image", broken, "--point", 1, 1, "--output", tmp_path / "out", capsys=capsys
    )
    assert code == 2 and "broken part.jpg" in printed.err and not (tmp_path / "out").exists()


def test_sft_then_predict_equals_plain_transformers(capsys, tmp_path, model_dir, data_dir):
    """The output directory is a plain SAM: the same masks without this package."""
    code, _ = run(
        "sft", "--model_name_or_path", model_dir, "--dataset", data_dir, "--output_dir", tmp_path / "sft",
        "--max_steps", 2, "--per_device_train_batch_size", 2, "--learning_rate", "1e-2", "--use_cpu", "true",
        "--embeddings", tmp_path / "cache", capsys=capsys,
    )
    assert code == 0
    record = json.loads((tmp_path / "sft" / "stage.json").read_text())
    assert record["results"]["steps"] == 2 and record["settings"]["learning_rate"] == 0.01
    assert not list((tmp_path / "sft").glob("*.npy")) and not list((tmp_path / "sft").glob("*.bin"))

    image = photograph(np.zeros((50, 70), bool), 1)
    image.save(tmp_path / "part.png")
    code, printed = run(
        "predict", "--model", tmp_path / "sft", "--image", tmp_path / "part.png", "--box", 10, 5, 40, 45,
        "--output", tmp_path / "out", capsys=capsys,
    )
    assert code == 0
    model, processor = SamModel.from_pretrained(tmp_path / "sft"), SamProcessor.from_pretrained(tmp_path / "sft")
    inputs = processor(image, input_boxes=[[[10.0, 5.0, 40.0, 45.0]]], return_tensors="pt")
    inputs["input_boxes"] = inputs["input_boxes"].float()
    for names, multimask in ((["mask"], False), (["candidate_1", "candidate_2", "candidate_3"], True)):
        with torch.no_grad():
            output = model(**inputs, multimask_output=multimask)
        masks = processor.post_process_masks(
            output.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"]
        )[0][0]
        for name, mask, score in zip(names, masks, output.iou_scores[0, 0]):
            saved = np.asarray(Image.open(tmp_path / "out" / f"{name}.png"))
            assert_same_masks(saved, mask.numpy())
            assert json.loads(printed.out)["scores"][name] == pytest.approx(float(score), abs=1e-3)


def test_training_resumes_from_its_checkpoint(tmp_path, model_dir, data_dir, monkeypatch, capsys):
    """A run that dies after a checkpoint continues, and ends with the weights of an undisturbed run."""
    from visionsam_hf.training.sft_trainer import SamSFTTrainer

    arguments = [
        "sft", "--model_name_or_path", model_dir, "--dataset", data_dir, "--max_steps", 6, "--use_cpu", "true",
        "--per_device_train_batch_size", 2, "--save_strategy", "steps", "--save_steps", 2, "--learning_rate", "1e-2",
        "--box_jitter", 0.1, "--embeddings", tmp_path / "cache",
    ]
    assert run(*arguments, "--output_dir", tmp_path / "whole", capsys=capsys)[0] == 0
    real, steps = SamSFTTrainer.prompt_losses, []

    def die_at_step_5(self, *given):
        steps.append(self.state.global_step)
        if self.state.global_step == 4 and steps.count(4) == 1:
            raise KeyboardInterrupt
        return real(self, *given)

    monkeypatch.setattr(SamSFTTrainer, "prompt_losses", die_at_step_5)
    assert run(*arguments, "--output_dir", tmp_path / "broken", capsys=capsys)[0] == 130
    assert not (tmp_path / "broken").exists() and (tmp_path / "broken.partial" / "checkpoint-4").is_dir()
    assert run(*arguments, "--output_dir", tmp_path / "broken", capsys=capsys)[0] == 0
    assert steps == [0, 1, 2, 3, 4, 4, 5]
    whole, broken = (SamModel.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "broken"))
    for name, value in whole.items():
        torch.testing.assert_close(broken[name], value, rtol=1e-5, atol=1e-6)
    assert not list((tmp_path / "broken").glob("checkpoint-*")) and not (tmp_path / "broken.partial").exists()


def test_unexpected_errors_are_not_hidden(monkeypatch):
    def explode(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "_dispatch", explode)
    with pytest.raises(ZeroDivisionError):
        cli.main(["sft"])
    monkeypatch.setattr(cli, "_dispatch", lambda *_: (_ for _ in ()).throw(UserError("two\nlines")))
    assert cli.main(["sft"]) == 2


def test_accelerate_launch_runs_a_stage(tmp_path, model_dir, data_dir):
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--config_file", ROOT / "accelerate_configs" / "cpu.yaml",
         "-m", "visionsam_hf", "sft", "--model_name_or_path", model_dir, "--dataset", data_dir,
         "--output_dir", tmp_path / "sft", "--max_steps", "1", "--per_device_train_batch_size", "2"],
        capture_output=True, text=True, cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "sft" / "model.safetensors").is_file()
