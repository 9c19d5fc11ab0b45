"""The builders' public names, and that the commands in docs/data.md have keys that exist."""

import re
from pathlib import Path

import pytest
import yaml

import datasets_builders
from visionsam_hf.cli import command_line as cli
from visionsam_hf.data.settings import build_settings

DOCS = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"`visionsam ((?:build [a-z_]+|curate|inspect)) (--[^`]+)`", DOCS)


@pytest.mark.parametrize("name", datasets_builders.__all__)
def test_builders_are_found_by_name(name):
    builder = getattr(datasets_builders, name)
    assert builder.__name__ == name and builder.__doc__ and builder.BUILDER_CONFIG_CLASS.__doc__


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="no attribute 'Masks'"):
        datasets_builders.Masks


@pytest.mark.parametrize(("command", "options"), COMMANDS)
def test_documented_commands_have_keys_that_exist(command, options):
    pairs = dict(re.findall(r"--(\w+) ('[^']*'|\S+)", options))
    assert pairs
    build_settings(cli.COMMANDS[command].settings, {}, {key: value.strip("'") for key, value in pairs.items()})


def test_documented_yaml_parses():
    masks, painted = re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL)
    settings = build_settings(cli.COMMANDS["build masks"].settings, yaml.safe_load(masks))
    assert build_settings(cli.COMMANDS["build synthetic"].settings, yaml.safe_load(painted)).background_dir
    assert settings.group_pattern == r"piece(\d+)" and settings.group_similar
    assert len(COMMANDS) >= 4
