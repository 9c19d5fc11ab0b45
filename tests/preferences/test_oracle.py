"""Simulated annotators: seeded, noisy, sometimes upside down."""

import numpy as np
import pytest
from candidate_sets import candidate_row

from visionsam_hf.data.critiques import critique_signs, loop_mask, mended_choice
from visionsam_hf.data.masks import decode_mask, encode_rle, mask_iou
from visionsam_hf.preferences.oracle import Habits, annotate, circle_mistakes, oracle_row
from visionsam_hf.preferences.ranking_statistics import Tally
from visionsam_hf.preferences.rankings import reverse
from visionsam_hf.preferences.rubric import criteria_table

CRITERIA = np.array([[0.9, 0.8, 0.9, 1.0], [0.5, 0.5, 0.4, 0.9], [0.1, 0.2, 0.3, 0.4]])

IOUS = [0.8, 0.4, 0.2]


def ask(task="train/0", **options):
    return annotate(CRITERIA, IOUS, [0, 1, 2], **{"annotator": 0, "task": task, "seed": 1} | options)


def test_without_noise_it_ranks_by_worth():
    answer = ask()
    assert answer.ranking == [1, 2, 3]
    assert (answer.annotator, answer.kind, answer.deciding_criterion) == ("oracle-1", "oracle", "coverage")


def test_a_flip_is_the_ranking_reversed():
    assert ask(flip_rate=1.0).ranking == reverse(ask().ranking)
    flipped = np.mean([ask(task=f"train/{number}", flip_rate=0.3).ranking == [3, 2, 1] for number in range(1000)])
    assert flipped == pytest.approx(0.3, abs=0.05)


def test_noise_is_seeded_and_differs_between_annotators_and_tasks():
    def rankings(**options):
        return [ask(task=f"train/{number}", noise=0.5, **options).ranking for number in range(30)]

    assert rankings() == rankings()
    assert rankings() != rankings(annotator=1)
    assert rankings() != rankings(seed=2)
    assert len({tuple(ranking) for ranking in rankings()}) > 1


def test_near_identical_masks_are_never_told_apart():
    for number in range(50):
        ranking = annotate(CRITERIA, IOUS, [0, 0, 2], annotator=0, task=str(number), seed=0, noise=1.0).ranking
        assert ranking[0] == ranking[1]


def test_criteria_of_masks():
    truth = np.zeros((16, 16), bool)
    truth[4:8, 4:8] = True
    table = criteria_table([truth, np.zeros_like(truth)], truth)
    assert table.tolist() == [[1, 1, 1, 1], [0, 0, 0, 0]]


def judged(row, truth, tally, **options):
    return oracle_row(
        row, truth, task="t", **{"annotators": 3, "noise": 0.0, "flip_rate": 0.0, "seed": 0, "tally": tally} | options
    )


def test_three_useless_masks_give_no_pair():
    row = candidate_row(0)
    truth = decode_mask(row["truth"])
    for candidate in row["candidates"]:
        candidate["rle"] = encode_rle(np.roll(~truth, len(candidate["source"]), 0) & (np.arange(64) % 7 == candidate["token"]))
    tally = Tally()
    assert judged(row, truth, tally) is None
    assert (tally.summary()["none_usable"], tally.summary()["dropped_ties"]) == (1, 1)


def test_masks_that_are_equally_good_are_not_called_useless():
    row = candidate_row(0, identical=True)
    tally = Tally()
    assert judged(row, decode_mask(row["truth"]), tally) is None
    assert tally.summary()["none_usable"] == 0


def test_the_tally_says_what_was_chosen_and_how_good_it_is():
    tally = Tally()
    for number in range(4):
        row = candidate_row(number)
        for candidate in row["candidates"]:
            candidate["source"] = "near" if candidate["token"] == 1 else "far"
        truth = decode_mask(row["truth"])
        preference = judged(row, truth, tally)
        assert mask_iou(decode_mask(preference["chosen"]), truth) > mask_iou(decode_mask(preference["rejected"]), truth)
    found = tally.summary()
    assert found["chosen_sources"] == {"near": 4}
    assert found["chosen_iou"] > 0.9 > found["rejected_iou"] and found["share_worse_chosen"] == 0


def circled(mask, truth, **options):
    return circle_mistakes(
        mask, truth, **{"annotator": 0, "task": "t", "seed": 0, "most": 2, "error_rate": 0.0} | options
    )


def squares(*corners, size=64, side=8):
    mask = np.zeros((size, size), bool)
    for y, x in corners:
        mask[y : y + side, x : x + side] = True
    return mask


def test_it_circles_the_largest_mistakes():
    truth = squares((8, 8), (8, 16), (40, 40))
    mask = squares((8, 8), (50, 8)) | squares((30, 4), side=1)
    loops = circled(mask, truth, most=3)
    assert sorted(loop.label for loop in loops) == ["extra", "missed", "missed"], "a single pixel is nobody's loop"
    for loop in loops:
        inside = loop_mask(loop.points, truth.shape)
        wrong = mask & ~truth if loop.label == "extra" else truth & ~mask
        assert (wrong & inside).sum() == 64 and inside.sum() < 3 * 64
    assert len(circled(mask, truth, most=1)) == 1 and circled(mask, truth, most=0) == []
    assert circled(truth, truth) == []


def test_a_rim_all_round_fits_no_loop():
    truth = squares((20, 20), side=20)
    assert circled(squares((18, 18), side=24), truth) == []


def test_a_share_of_its_loops_lies_beside_the_mistake():
    truth, mask = squares((28, 28)), squares((28, 28), (28, 36))
    wrong = mask & ~truth
    beside = [
        not 2 * (loop_mask(loop.points, truth.shape) & wrong).sum() > wrong.sum()
        for number in range(300)
        for loop in circled(mask, truth, task=str(number), error_rate=0.3)
    ]
    assert len(beside) == 300 and np.mean(beside) == pytest.approx(0.3, abs=0.08)


def test_its_circles_travel_with_the_row_best_first():
    row = candidate_row(3)
    truth = decode_mask(row["truth"])
    preference = judged(row, truth, Tally(), habits=Habits(circles=2))
    plain = judged(row, truth, Tally())
    assert plain["regions"] == []
    assert [one["ranking"] for one in preference["annotations"]] == [one["ranking"] for one in plain["annotations"]]
    left = np.arange(64) < row["box"][0] + (row["box"][2] - row["box"][0]) * 0.7
    row["candidates"][0]["rle"] = encode_rle(truth & left)
    for place in (1, 2):
        row["candidates"][place]["rle"] = encode_rle(squares((0, 0)))
    preference = judged(row, truth, Tally(), habits=Habits(circles=1))
    assert {(one["candidate"], one["label"]) for one in preference["regions"]} == {(0, "missed")}
    signs = critique_signs(preference)
    assert mask_iou(mended_choice(preference, signs), truth) > mask_iou(decode_mask(preference["chosen"]), truth)


def test_seconds_are_those_of_what_was_done_and_a_correction_mends_the_largest_mistakes():
    row = candidate_row(3)
    truth = squares((20, 20), side=20)
    mask = squares((20, 20), side=20) ^ squares((22, 22)) ^ squares((50, 50), side=4)
    for place in range(3):
        row["candidates"][place]["rle"] = encode_rle(mask if place == 1 else squares((0, 0)))
    tally = Tally()
    preference = judged(row, truth, tally, habits=Habits(circles=1, mended=1), annotators=1)
    assert preference["annotations"][0]["seconds"] == 3 + 5 + 12 == tally.seconds
    assert preference["chosen_kind"] == "corrected"
    assert np.array_equal(decode_mask(preference["chosen"]), truth ^ squares((50, 50), side=4))
    both = judged(row, truth, Tally(), habits=Habits(mended=3, seconds_per_correction=20), annotators=2)
    assert np.array_equal(decode_mask(both["chosen"]), truth) and both["annotations"][1]["seconds"] == 23
    ranked = judged(row, truth, Tally(), annotators=1)
    assert (ranked["chosen_kind"], ranked["annotations"][0]["seconds"]) == ("ranked", 3)
