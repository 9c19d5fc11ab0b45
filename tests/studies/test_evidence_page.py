import json
import re
from pathlib import Path

import pytest
from studies.evidence_page import fill, main

from visionsam_hf.data.errors import UserError
from visionsam_hf.training.hyperparameters import LOSS_TYPES

GAIN = {"difference": 0.031, "interval": [0.01, 0.052], "by_seed": {"0": 0.031}, "by_fold": {"x": 0.031}}
ENTRY = {
    "iou": 0.5, "dice": 0.6, "interval": None, "cost": {"rankings": 9}, "rounds": [{}], "difference": {"SFT-SAM": GAIN},
}  # fmt: skip
EVIDENCE = {
    "name": "tiles",
    "recommended": "region + sft",
    "rlhf": "",
    "compare_with": [],
    "objectives": {"heldout": {"region + sft": ENTRY}},
    "confidence": {},
    "budget": {},
    "flips": {},
}
PAGE = """before
<!-- evidence tiles gain region + sft -->
old
<!-- end -->
<!-- evidence other seeds -->
kept
<!-- end -->
after
"""


def test_a_block_is_replaced_and_can_be_again():
    filled = fill(PAGE, {"tiles": EVIDENCE})
    assert "IoU points against SFT-SAM: held-out categories **+3.1 [+1.0, +5.2]**." in filled
    assert "old" not in filled and "kept" in filled and filled.startswith("before") and filled.endswith("after\n")
    assert fill(filled, {"tiles": EVIDENCE}) == filled


@pytest.mark.parametrize("block", ["gain nothing", "sistems"])
def test_what_a_study_lacks_is_named(block):
    with pytest.raises(UserError, match="evidence tiles: has no"):
        fill(f"<!-- evidence tiles {block} -->\n<!-- end -->", {"tiles": EVIDENCE})


def test_pages_are_filled_in_place(tmp_path, capsys):
    (tmp_path / "evidence.json").write_text(json.dumps(EVIDENCE))
    (tmp_path / "page.md").write_text(PAGE)
    assert main([str(tmp_path / "page.md"), "--from", str(tmp_path / "evidence.json")]) == 0
    assert "+3.1" in (tmp_path / "page.md").read_text()
    assert main([str(tmp_path / "page.md"), "--from", str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err


def test_the_page_of_objectives_has_every_loss():
    page = (Path(__file__).parents[2] / "docs" / "objectives.md").read_text(encoding="utf-8")
    for name in LOSS_TYPES:
        assert re.search(rf"^### `{name}`", page, flags=re.MULTILINE), f"docs/objectives.md lacks {name}"
