"""Candidate rows and rankings to preference rows."""

import numpy as np
from PIL import Image

from visionsam_hf.data.masks import decode_mask, encode_mask, encode_rle
from visionsam_hf.data.schema import preference_features
from visionsam_hf.preferences.preference_rows import candidate_masks, preference_row
from visionsam_hf.preferences.rankings import Annotation
from visionsam_hf.preferences.rubric import criteria_table


def candidate_row():
    truth = np.zeros((12, 16), bool)
    truth[4:8, 4:10] = True
    shrunk, wrong = np.zeros_like(truth), np.zeros_like(truth)
    shrunk[4:8, 4:8] = True
    wrong[0:2, 0:2] = True
    masks = [wrong, truth, shrunk]
    return truth, {
        "image": Image.new("RGB", (16, 12)),
        "image_id": "a",
        "category": 0,
        "box": [4, 4, 10, 8],
        "object_index": 0,
        "truth": encode_mask(truth),
        "candidates": [
            {"rle": encode_rle(mask), "token": index + 1, "source": "tokens", "score": 0.1 * index}
            for index, mask in enumerate(masks)
        ],
    }


def test_candidates_and_rankings_come_best_first():
    truth, row = candidate_row()
    masks = candidate_masks(row)
    annotations = [Annotation("ann", "human", [3, 1, 2], "coverage", 2.5), Annotation("bob", "human", [2, 1, 1])]
    preference, verdict = preference_row(row, annotations, criteria=criteria_table(masks, truth))
    assert verdict.order == [1, 2, 0]
    assert np.array_equal(decode_mask(preference["chosen"]), truth)
    assert np.array_equal(decode_mask(preference["rejected"]), masks[0])
    assert [candidate["token"] for candidate in preference["candidates"]] == [2, 3, 1]
    assert [candidate["mean_rank"] for candidate in preference["candidates"]] == [1.25, 1.75, 3.0]
    assert preference["candidates"][0]["coverage"] == 1.0
    assert [annotation["ranking"] for annotation in preference["annotations"]] == [[1, 2, 3], [1, 1, 2]]
    assert (preference["margin"], preference["votes"]) == (1.75, 2)
    preference_features(["x"]).encode_example(preference)
    assert set(preference) == set(preference_features(["x"]))


def test_without_a_truth_the_criteria_are_null():
    _, row = candidate_row()
    preference, _ = preference_row(row | {"truth": None}, [Annotation("ann", "human", [1, 2, 3])])
    assert preference["truth"] is None
    assert preference["candidates"][0]["noise"] is None


def test_a_tie_from_top_to_bottom_leaves_no_row():
    _, row = candidate_row()
    preference, verdict = preference_row(
        row, [Annotation("a", "human", [1, 2, 3]), Annotation("b", "human", [3, 2, 1])]
    )
    assert preference is None
    assert verdict.votes == 2
