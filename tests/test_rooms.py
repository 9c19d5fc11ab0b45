"""The rooms of the house: who may import whom, read off the syntax trees. CONTRIBUTING.md draws them."""

import ast
import collections
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {  # room -> rooms that it may import, beside itself
    "data": (),
    "models": ("data",),
    "embeddings": ("data", "models"),
    "inference": ("data", "models", "embeddings"),
    "training": ("data", "models", "embeddings", "inference"),
    "preferences": ("data", "models", "embeddings", "inference"),
    "annotation": ("data", "preferences"),
    "evaluation": ("data", "models", "embeddings", "inference", "training", "preferences"),
    "evaluation/report": ("data", "models", "embeddings", "inference", "training", "preferences", "evaluation"),
    "hub": ("data", "models", "embeddings", "inference", "training", "preferences", "evaluation", "evaluation/report"),
    "cli": ("*",),
}
# Sources of data: they know the schema and nothing of models; whoever reads photographs may ask them.
BUILDERS, MAY_ASK_BUILDERS = "datasets_builders", ("inference", "cli")
FILES = sorted([*ROOT.glob("visionsam_hf/**/*.py"), *ROOT.glob(f"{BUILDERS}/**/*.py")])


def room_of(path: Path) -> str:
    """The room of a file or, for a module's path without its suffix, of that module."""
    parts = path.relative_to(ROOT).parts
    if parts[0] != "visionsam_hf":
        return parts[0]
    inside = "/".join(parts[1:-1])
    return next((room for room in sorted(ROOMS, key=len, reverse=True) if f"{inside}/".startswith(f"{room}/")), "")


def modules(path: Path) -> list[str]:
    """Every module of this project that a file imports, by its dotted name."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # A dot is the file's own package, one more the package above.
            above = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            start = ".".join([*above, *([node.module] if node.module else [])])
            found += [f"{start}.{alias.name}" for alias in node.names]
    return [name for name in found if name.split(".")[0] in ("visionsam_hf", BUILDERS)]


def file_of(name: str) -> Path | None:
    """The file of a module's dotted name, which may end in a name that the module defines."""
    for dotted in (name, name.rpartition(".")[0]):
        path = ROOT / dotted.replace(".", "/")
        if path.with_suffix(".py").is_file():
            return path.with_suffix(".py")
        if (path / "__init__.py").is_file():
            return path / "__init__.py"
    return None


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_go_one_way(path):
    room = room_of(path)
    if room == "":
        return  # the package's own front door
    allowed = (room, *(("data",) if room == BUILDERS else ROOMS[room]))
    for name in modules(path):
        target = file_of(name)
        assert target is not None, f"{name}: no such module"
        other = room_of(target)
        if other == BUILDERS:
            assert room in (BUILDERS, *MAY_ASK_BUILDERS), f"{room} must not import {name}"
        else:
            assert other == "" or "*" in allowed or other in allowed, f"{room} must not import {name}"


def test_no_circles_between_modules():
    graph = {
        path: {file_of(name) for name in modules(path)} - {path, None}
        for path in FILES
    }
    done: set[Path] = set()

    def walk(path: Path, way: tuple[Path, ...]) -> None:
        assert path not in way, "circle: " + " -> ".join(step.stem for step in (*way[way.index(path):], path))
        if path not in done:
            for other in graph.get(path, ()):
                walk(other, (*way, path))
            done.add(path)

    for path in FILES:
        walk(path, ())


def test_no_two_modules_share_a_name():
    # A command's module is called as the command, which may be called as the thing it makes.
    named = [path for path in FILES if not path.stem.startswith("__") and room_of(path) != "cli"]
    names = collections.Counter(path.stem for path in named)
    assert not [name for name, count in names.items() if count > 1]


def test_files_and_functions_stay_small():
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 400, f"{path}: find the second thing in it"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                size = (node.end_lineno or node.lineno) - node.lineno + 1
                assert size <= 60, f"{path}:{node.lineno} {node.name}: {size} lines"


def test_imports_stand_at_the_top():
    """Inside a function only with a comment on the same line, or on the line before, that names what it spares."""
    for path in FILES:
        lines = path.read_text(encoding="utf-8").split("\n")
        for function in ast.walk(ast.parse("\n".join(lines))):
            if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            found = [node for node in ast.walk(function) if isinstance(node, (ast.Import, ast.ImportFrom))]
            for node in sorted(found, key=lambda node: node.lineno):
                around = lines[node.lineno - 2] + "".join(lines[node.lineno - 1 : node.end_lineno])
                before = [other for other in found if other.end_lineno == node.lineno - 1]
                assert "#" in around or before, f"{path}:{node.lineno}: import at the top, or say what it spares"


def test_the_root_has_a_dozen_entries():
    entries = [path for path in (ROOT / "visionsam_hf").iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 12, sorted(path.name for path in entries)
