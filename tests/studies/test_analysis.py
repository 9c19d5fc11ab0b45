"""Numbers worked by hand: two images, one with two prompts, in one fold and two seeds."""

import numpy as np
import pytest
from studies.analysis import summarise
from studies.design import Cell
from studies.evidence_figures import write_figures
from studies.evidence_tables import all_tables
from studies.run_files import Results, Scores, read_result, result_path, write_result

from visionsam_hf.cli.study_options import EvidenceSettings
from visionsam_hf.data.errors import UserError

KEYS = [("a", 0), ("a", 1), ("b", 0)]
SCORES = np.array([[0.5, 0.9, 0.2, 0.1]] * 3)


def record(single, *, rankings=0, others=(0.3, 0.6, 0.1), scores=SCORES, keys=KEYS, candidates=None):
    iou = np.array([[value, *others] for value in single])
    answers = Scores(keys, ["x"] * len(keys), iou, scores[: len(keys)]).as_json()
    splits = {"heldout": answers, "ranked": answers}
    found = {"candidates": candidates} if candidates else {}
    return {"cost": {"images": 2, "masks": 3, "rankings": rankings}, "splits": splits, "seconds": 1.0} | found


FOUND = dict(
    rankings=9, pairs=3, mean_iou_gap=0.2, share_worse_chosen=0.0, mean_pairwise_iou=0.5, share_distinct=1.0,
    best_of_three_minus_single=0.1,
)  # fmt: skip


@pytest.fixture
def study(tmp_path):
    """SFT-SAM at .2/.4/.6; `best` one point of ten better after a round and two after the second; `other` no better."""
    settings = EvidenceSettings(
        model_name_or_path="m", folds={"x": "d"}, runs="r", embeddings="e", output_dir="o", seeds=[0, 1], masks=2,
        splits=["heldout"], objectives={"best": {}, "other": {}}, recommended="best", compare_with=["other"],
        confidence="best", resamples=200,
    )  # fmt: skip
    right = np.array([[0.5, 0.2, 0.9, 0.1]] * 3)
    cells = {}
    for seed in (0, 1):
        runs = {
            "SFT-SAM": [record([0.2, 0.4, 0.6])],
            "best": [
                record([0.3, 0.5, 0.7], rankings=9, candidates=FOUND),
                record([0.4 + 0.1 * seed, 0.6, 0.8], rankings=18, scores=right, candidates=FOUND),
            ],
            "other": [record([0.2, 0.4, 0.6], rankings=9, candidates=FOUND)],
        }
        cell = Cell("x", seed, 2, 3)
        cells[cell] = {name: result_path(tmp_path, "x", name, "0" * 32, cell) for name in runs}
        for name, rounds in runs.items():
            write_result(cells[cell][name], rounds)
    plain = np.full((3, 4), np.nan)
    folds = {"x": {name: result_path(tmp_path, "x", name, "0" * 32) for name in ("SAM", "Fill the box", "GrabCut", "Otsu")}}
    for name, path in folds["x"].items():
        write_result(path, [record([0.1, 0.1, 0.1], scores=SCORES if name == "SAM" else plain)])
    return Results(cells, folds), settings


def test_means_and_paired_differences(study):
    entry = summarise(*study)["objectives"]["heldout"]["best"]
    assert entry["iou"] == pytest.approx((0.4 + 0.6 + 0.8 + 0.5 + 0.6 + 0.8) / 6)
    assert entry["dice"] == pytest.approx(np.mean([2 * v / (1 + v) for v in (0.4, 0.6, 0.8, 0.5, 0.6, 0.8)]), abs=1e-5)
    assert (entry["prompts"], entry["images"], entry["cost"]["rankings"]) == (3, 2, 18)
    gain = entry["difference"]["SFT-SAM"]
    assert gain["difference"] == pytest.approx((6 * 0.2 + 0.1) / 6) and gain["n"] == 6
    assert gain["by_seed"] == pytest.approx({"0": 0.2, "1": 0.7 / 3})
    assert gain["by_fold"] == pytest.approx({"x": 1.3 / 6})
    assert gain["interval"][0] <= gain["difference"] <= gain["interval"][1]
    assert entry["difference"]["SAM"]["difference"] == pytest.approx(entry["iou"] - 0.1)


def test_objectives_are_compared_at_equal_labelling_cost(study):
    rounds = summarise(*study)["objectives"]["heldout"]["best"]["rounds"]
    assert [one["cost"]["rankings"] for one in rounds] == [9, 18]
    assert rounds[0]["difference"]["other"]["difference"] == pytest.approx(0.1)
    assert "other" not in rounds[1]["difference"]  # it has no second round
    assert rounds[1]["difference"]["SFT-SAM"]["difference"] > 0.2


def test_confidence_before_and_after(study):
    confidence = summarise(*study)["confidence"]["heldout"]
    before, after = confidence["SFT-SAM"], confidence["best"]
    assert (before["top1_agreement"], after["top1_agreement"]) == (0.0, 1.0)
    assert before["score_iou"] == pytest.approx(0.3) and after["score_iou"] == pytest.approx(0.6)
    assert before["ece"] == pytest.approx(0.6) and after["ece"] == pytest.approx(0.3)
    assert after["difference"]["score_iou"]["difference"] == pytest.approx(0.3)


def test_untrained_systems_answer_for_the_ranked_images_of_each_cell(study):
    results, settings = study
    cell = next(iter(results.cells))
    # The cell ranked two of the three prompts.
    for rounds in results.cells[cell].values():
        for one in rounds:
            ranked = one["splits"]["ranked"]
            one["splits"]["ranked"] = Scores(KEYS[:2], ["x"] * 2, ranked.iou[:2], ranked.scores[:2])
    assert len(results.of("SAM", "ranked", [cell])) == 2 and len(results.of("SAM", "heldout", [cell])) == 3


def test_every_table_is_markdown(study):
    tables = all_tables(summarise(*study))
    assert {"systems", "objectives", "rounds", "seeds", "candidates", "confidence"} <= set(tables)
    assert "| VisionSAM (best) | 0.617" in tables["systems"] and "**+21.7 [" in tables["objectives"]
    for text in tables.values():
        for block in text.split("\n\n"):
            assert len({line.count("|") for line in block.splitlines()}) == 1


def test_figures_are_drawn(study, tmp_path):
    names = {path.name for path in write_figures(summarise(*study), tmp_path / ".")}
    assert names == {"gains.png", "rounds.png", "calibration.png"}


def test_a_damaged_result_is_named(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UserError, match="run.json: is damaged"):
        read_result(tmp_path / "run.json")
