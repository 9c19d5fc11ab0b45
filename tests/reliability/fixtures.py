import importlib

import pytest

from tests.reliability.tiny_project import make_project

# What the stages import while they run: a fork finds it all there.
WARM = (
    "cv2", "matplotlib.pyplot", "jinja2", "peft", "sqlalchemy", "datasets_builders", "visionsam_hf.annotation.export",
    "visionsam_hf.curation_sheet", "visionsam_hf.evaluation.report", "visionsam_hf.inspection_page",
    "visionsam_hf.trainer.dpo_trainer", "visionsam_hf.trainer.sft_trainer",
)  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Inputs for every stage, made once a file of tests."""
    for name in WARM:
        importlib.import_module(name)
    return make_project(tmp_path_factory.mktemp("project"))
