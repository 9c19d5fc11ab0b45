import importlib

import pytest

from tests.reliability.forked import fork
from tests.reliability.tiny_project import Project, make_project

# What the stages import while they run: a fork finds it all there.
WARM = (
    "cv2", "matplotlib.pyplot", "jinja2", "peft", "sqlalchemy", "datasets_builders", "visionsam_hf.preferences.preference_rows",
    "visionsam_hf.data.curation", "visionsam_hf.evaluation.report.page", "visionsam_hf.data.inspection",
    "visionsam_hf.training.dpo_trainer", "visionsam_hf.training.sft_trainer", "visionsam_hf.cli.find", "visionsam_hf.cli.predict",
    "visionsam_hf.cli.evaluate",
)  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Inputs for every stage, made once a file of tests."""
    for name in WARM:
        importlib.import_module(name)
    root = tmp_path_factory.mktemp("project")

    def make() -> int:
        make_project(root)
        return 0

    # In a fork as well: Arrow's threads would stay in this process, and a fork of a process with threads can hang.
    made = fork(make, log=root / "log")
    assert made.code == 0, made.text
    return Project(root)
