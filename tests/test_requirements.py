"""The releases that setup.cfg admits are those on which the numbers are right, and the pinned ones are among them."""

import configparser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def options():
    read = configparser.ConfigParser()
    read.read(ROOT / "setup.cfg")
    return read["options"]


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


def test_releases_that_compute_wrong_are_refused(options):
    wanted = {requirement.name: requirement for requirement in map(Requirement, lines(options["install_requires"]))}
    # No `loss_is_scaled_for_ga`: accumulated gradients would be divided twice.
    assert "5.18.1" not in wanted["transformers"].specifier


def test_pinned_releases_are_admitted(options):
    pinned = dict(line.split("==") for line in lines((ROOT / "constraints.txt").read_text()))
    for requirement in map(Requirement, lines(options["install_requires"])):
        if requirement.name in pinned:
            assert pinned[requirement.name] in requirement.specifier, requirement.name
    assert "3.10" not in SpecifierSet(options["python_requires"])  # the pinned numpy and scipy need 3.11
