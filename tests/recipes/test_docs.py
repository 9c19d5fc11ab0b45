"""The pages under docs/: every command parses, every message exists, every link leads somewhere."""

import ast
import configparser
import re
import shlex
from pathlib import Path

import pytest

from visionsam_hf.cli import command_line as cli
from visionsam_hf.cli.pipeline import read_stages

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
NAMES = [page.name for page in PAGES]


def blocks(page):
    """(kind, text) of the fenced blocks of a page."""
    return re.findall(r"```(\w*)\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.S)


def commands(page):
    """Every command of its blocks, continued lines joined, without the remark behind it."""
    shell = [block.replace("\\\n", " ") for kind, block in blocks(page) if kind in ("", "bash", "sh")]
    lines = [line for block in shell for line in block.splitlines()]
    return [re.sub(r"\s+# .*", "", line) for line in lines if re.match(r"(visionsam|accelerate|make|pip|hf) ", line)]


def inline(page):
    """Every command in the page's running text."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    return re.findall(r"`((?:visionsam|accelerate|make|pip|hf) [^`\n]+)`", text)


def check(command, *, is_whole):
    """Parse one command. A whole one has every key it needs; one in running text may leave some to the reader."""
    words = shlex.split(command)
    if words[0] == "accelerate" and "-m" in words:
        config = ROOT / words[words.index("--config_file") + 1]
        assert config.is_file(), command
        words = ["visionsam", *words[words.index("visionsam_hf") + 1 :]]
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), flags=re.M), command
    elif words[0] == "pip":
        extras = configparser.ConfigParser()
        extras.read(ROOT / "setup.cfg")
        for extra in re.findall(r"\[(\w+)\]", command):
            assert extra in extras["options.extras_require"], command
    elif words[0] == "visionsam":
        check_visionsam(words[1:], is_whole)


def check_visionsam(words, is_whole):
    name, rest = words[0], words[1:]
    if name.startswith("--") or name == "quickstart" or not name.islower():
        return
    if name == "pipeline":
        if rest and rest[0].islower():
            assert read_stages(ROOT / rest[0])
        return
    if name in ("build", "annotate") and rest:
        if not rest[0].islower():
            return
        name, rest = f"{name} {rest[0]}", rest[1:]
    assert name in cli.COMMANDS or name in ("build", "annotate"), words
    if "--help" in rest:
        return
    if is_whole:
        cli.parse_stage(name, [str(ROOT / word) if word.endswith(".yaml") else word for word in rest])
    elif name not in ("build", "annotate"):
        known = cli.settings_class(name).__dataclass_fields__
        for option in re.findall(r"--([\w-]+)", " ".join(rest)):
            assert option.replace("-", "_") in known, f"{words}: no key {option}"


@pytest.mark.parametrize("name", NAMES)
def test_commands_parse(name):
    page = ROOT / "docs" / name
    for command in commands(page):
        check(command, is_whole=True)
    for command in inline(page):
        check(command, is_whole=False)


def test_the_check_can_fail():
    for command in ("visionsam sft --modle x", "visionsam annotate orakle", "make tset", "pip install 'x[nothing]'"):
        with pytest.raises(Exception):
            check(command, is_whole=True)


def messages():
    """Every message of a `UserError`, or of one of its kinds, in the package, with … for what is filled in."""

    def text(node):
        if isinstance(node, ast.Constant):
            return str(node.value)
        return "".join(text(part) for part in node.values) if isinstance(node, ast.JoinedStr) else "…"

    found = set()
    for file in (ROOT / "visionsam_hf").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("UserError", "NoPairs") and node.args:
                found.add(text(node.args[0]))
    return found


def test_troubleshooting_quotes_messages_word_for_word():
    rows = re.findall(r"^\| `(.+?)` \|", (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"), flags=re.M)
    known = messages()
    assert len(rows) > 25
    for row in rows:
        assert row in known, row


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / "docs" / name).read_text(encoding="utf-8")):
        assert (ROOT / "docs" / target).exists(), target


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for name in NAMES:
        assert name == "README.md" or f"]({name})" in index, name
