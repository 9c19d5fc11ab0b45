"""The built wheel holds what `visionsam quickstart` needs, and runs it away from the clone."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("setuptools")
ROOT = Path(__file__).resolve().parents[2]


def run(*words, cwd, **environment):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    source = tmp_path_factory.mktemp("wheel") / "source"  # building leaves files beside what it reads
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("visionsam_hf", "datasets_builders", "recipes/quickstart", "recipes/own"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('..'))"
    return source.parent / run("-c", build, cwd=source).split()[-1]


def test_it_holds_packages_assets_and_recipes(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    shared = f"{'-'.join(wheel.name.split('-')[:2])}.data/data/share/visionsam_hf/recipes"
    for recipe in ("quickstart", "own"):
        expected = {f"{shared}/{recipe}/{path.name}" for path in (ROOT / "recipes" / recipe).glob("*.yaml")}
        assert expected and expected == {name for name in names if name.startswith(f"{shared}/{recipe}/")}
    for name in ("datasets_builders/coco.py", "visionsam_hf/models/assets/visionsam-tiny/model.safetensors"):
        assert name in names
    assert {"visionsam_hf/annotation/static/index.html", "visionsam_hf/evaluation/report/report.html.jinja"} <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "recipes/", "benchmarks/"))]


def test_it_runs_the_quickstart(wheel, tmp_path):
    # Laid out as a virtual environment is; its dependencies are those of this one.
    pip = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile", "--ignore-installed")
    run(*pip, "--prefix", tmp_path / "prefix", wheel, cwd=tmp_path)
    (site,) = (tmp_path / "prefix").glob("lib*/python*/site-packages")
    small = "build.images={train: 1, validation: 1, test: 1, heldout: 1}"
    words = ("-m", "visionsam_hf", "quickstart", "--only", "build", "--set", small, "build.image_size=64", "build.num_proc=1")
    printed = run(*words, cwd=tmp_path, PYTHONPATH=str(site))
    assert "[1/1] build: build synthetic -> outputs/quickstart/data" in printed
    assert (tmp_path / "outputs" / "quickstart" / "data" / "README.md").is_file()
