"""Every command and every Python block of the README runs, as written, in an empty folder."""

import importlib.util
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from conftest import disc, photograph
from PIL import Image

from visionsam_hf.cli import command_line as cli
from visionsam_hf.cli.pipeline import read_stages, stage_settings
from visionsam_hf.models import pretrained

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.S)
COMMANDS = [line for kind, block in BLOCKS if not kind for line in block.splitlines() if line.startswith("visionsam ")]


@pytest.fixture
def my_parts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("images", "masks"):
        (tmp_path / "my_parts" / name).mkdir(parents=True)
    for index in range(10):
        mask = disc(60, 80, 20 + 4 * index, 30, 9)
        photograph(mask, index).save(tmp_path / "my_parts" / "images" / f"part_{index}.png")
        Image.fromarray(np.uint8(mask) * 255).save(tmp_path / "my_parts" / "masks" / f"part_{index}.png")
    return tmp_path


def test_the_commands_for_your_own_data_run(my_parts, capfd, monkeypatch):
    # With the packaged model, whatever this machine has.
    monkeypatch.setenv("VISIONSAM_MODELS", str(my_parts / "models"))
    monkeypatch.setattr(pretrained, "_PACKAGES", {})
    here = importlib.util.find_spec("onnxscript") is not None
    elsewhere = ("visionsam push", "visionsam demo")  # the Hub's tests, and tests/annotation/test_demo.py
    mine = [command for command in COMMANDS if not command.startswith(elsewhere)]
    assert len(mine) == len(COMMANDS) - 2 == 3
    for command in mine if here else mine[:-1]:
        code = cli.main(shlex.split(command)[1:])
        assert code == 0, f"{command}\n{capfd.readouterr().err[-1000:]}"
    for kind, block in BLOCKS:
        if kind == "python":
            exec(compile(block, "README.md", "exec"), {})
    assert (my_parts / "outputs/prediction/mask.png").is_file()


def test_the_other_commands_parse():
    inline = re.findall(r"`(visionsam pipeline [^`]+)`", README)
    assert inline
    for command in inline:
        words = shlex.split(command)[2:]
        recipe, changes = ROOT / words[0], words[words.index("--set") + 1 :]
        stages = {stage["name"]: stage for stage in read_stages(recipe)}
        for change in changes:
            stage, _, pair = change.partition(".")
            key, _, value = pair.partition("=")
            assert getattr(stage_settings(recipe, stages[stage], {key: value}), key) is not None
    launch = re.search(r"accelerate launch --config_file (\S+) -m visionsam_hf (\S+) (\S+?)`", README)
    assert (ROOT / launch[1]).is_file() and (ROOT / launch[3]).is_file() and launch[2] in cli.COMMANDS


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
