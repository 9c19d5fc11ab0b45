import io

import numpy as np
import pytest
from closeness import assert_same_masks
from conftest import disc, photograph
from PIL import Image
from thin_cracks import crack

from visionsam_hf.data.errors import UserError
from visionsam_hf.data.masks import decode_rle, mask_box, mask_iou
from visionsam_hf.embeddings.cache import EmbeddingCache
from visionsam_hf.inference.baselines import fill_box, fill_ellipse, grabcut
from visionsam_hf.inference.prediction import iterate_predictions
from visionsam_hf.preferences import candidates
from visionsam_hf.preferences.candidates import (
    SOURCES,
    Candidate,
    Diversity,
    choose_three,
    generate_candidates,
)

BOX = np.array([10, 10, 31, 31])  # of `disc(40, 40, 20, 20, 10)`


def candidate(mask, source="thresholds", token=0):
    return Candidate(mask, source, token, 0.5)


def test_tokens_are_sams_three_masks(model, processor, segmentation):
    rows = list(generate_candidates(model, processor, segmentation, sources=["tokens"]))
    answers = list(iterate_predictions(model, processor, segmentation))
    assert len(rows) == len(answers) == 9
    for row, answer in zip(rows, answers):
        assert [entry["token"] for entry in row["candidates"]] == [1, 2, 3]
        for entry, mask, score in zip(row["candidates"], answer.masks[1:], answer.scores[1:]):
            assert_same_masks(decode_rle(entry["rle"]), mask)
            assert entry["score"] == pytest.approx(float(score), rel=1e-4)


def test_every_source_gives_rows_of_the_schema(model, processor, segmentation, tmp_path):
    from conftest import CATEGORIES

    from visionsam_hf.data.dataset_directory import load_split, write_splits
    from visionsam_hf.data.schema import candidate_features

    sources = list(SOURCES)
    cache = EmbeddingCache(tmp_path / "cache", model, processor)
    diversity = Diversity()
    rows = generate_candidates(
        model, processor, segmentation, sources=sources, cache=cache, max_prompts=5, diversity=diversity
    )
    write_splits(tmp_path / "out", {"train": rows}, candidate_features(CATEGORIES), card="---\n---\n")
    loaded = load_split(tmp_path / "out", "train", kind="candidates")
    assert len(loaded) == 5 == diversity.prompts
    assert all(len(row["candidates"]) == 3 for row in loaded)
    assert set(diversity.summary()["sources"]) <= set(sources)


def test_grabcut_offers_what_no_model_drew(model, processor, segmentation):
    diversity = Diversity()
    rows = list(
        generate_candidates(
            model, processor, segmentation, sources=["thresholds", "grabcut"], max_prompts=4, diversity=diversity
        )
    )
    image, row = segmentation[0]["image"], rows[0]
    offered = [entry for entry in row["candidates"] if entry["source"] == "grabcut"]
    np.testing.assert_array_equal(decode_rle(offered[0]["rle"]), grabcut(np.asarray(image), tuple(row["box"])))
    # The model is not trained; the discs are plain to see.
    assert diversity.summary()["best_of_three_iou"] > 0.8


def test_what_no_model_drew_is_drawn_once(model, processor, segmentation, monkeypatch):
    drawn = {}
    kept = dict(sources=("tokens", "grabcut", "shapes"), drawn=drawn)
    first = list(generate_candidates(model, processor, segmentation, **kept))
    assert len(drawn) == 4 * len(first)  # GrabCut, two shapes, and whether the box holds a line
    monkeypatch.setattr(candidates, "BASELINES", {})
    assert list(generate_candidates(model, processor, segmentation, **kept)) == first


def test_what_no_model_drew_has_the_score_of_token_0(model, processor, segmentation):
    rows = list(
        generate_candidates(model, processor, segmentation, sources=["tokens", "otsu", "shapes"], max_prompts=4)
    )
    single = [answer.scores[0] for answer in iterate_predictions(model, processor, segmentation)]
    offered = [
        (entry, score) for row, score in zip(rows, single) for entry in row["candidates"] if entry["token"] == 0
    ]
    assert offered and {entry["source"] for entry, _ in offered} <= {"otsu", "shapes"}
    for entry, score in offered:
        assert entry["score"] == pytest.approx(float(score), rel=1e-5)


def test_shapes_offer_the_box_and_its_ellipse(model, processor, segmentation, monkeypatch):
    monkeypatch.setattr(candidates, "_ACCEPTABLE_SHAPE_IOU", 0.0)  # the model is not trained
    rows = list(
        generate_candidates(model, processor, segmentation, sources=["thresholds", "shapes"], max_prompts=4)
    )
    image, row = np.asarray(segmentation[0]["image"]), rows[0]
    offered = [decode_rle(entry["rle"]) for entry in row["candidates"] if entry["source"] == "shapes"]
    known = [draw(image, tuple(row["box"])) for draw in (fill_box, fill_ellipse)]
    assert offered and all(any(np.array_equal(mask, one) for one in known) for mask in offered)


@pytest.mark.parametrize("sources", [["grabcut"], ["shapes", "grabcut"]])
def test_sources_without_the_model_alone_are_refused(model, processor, segmentation, sources):
    with pytest.raises(UserError, match="asks nothing of the model"):
        next(generate_candidates(model, processor, segmentation, sources=sources))


def test_the_same_seed_gives_the_same_candidates(model, processor, segmentation):
    def masks(seed):
        rows = generate_candidates(model, processor, segmentation, sources=["box_jitter"], seed=seed, max_prompts=3)
        return [[entry["rle"]["counts"] for entry in row["candidates"]] for row in rows]

    assert masks(0) == masks(0)


def test_keeps_the_models_own_and_the_most_different_near_misses():
    single = disc(40, 40, 20, 20, 10)
    pool = [
        candidate(disc(40, 40, 20, 20, 10)),
        candidate(disc(40, 40, 21, 20, 10)),
        candidate(disc(40, 40, 20, 20, 7)),
        candidate(disc(40, 40, 20, 20, 14)),
        candidate(np.zeros((40, 40), bool)),  # as different as can be, and garbage
        candidate(disc(40, 40, 3, 3, 3)),
    ]
    kept = choose_three(pool, single, BOX)
    places = [next(place for place, entry in enumerate(pool) if entry is one) for one in kept]
    assert places[0] == 0 and sorted(places[1:]) == [2, 3]


def test_garbage_only_when_nothing_else_differs():
    single = disc(40, 40, 20, 20, 10)
    pool = [candidate(single)] * 3 + [candidate(np.zeros((40, 40), bool))]
    kept = choose_three(pool, single, BOX)
    assert any(not entry.mask.any() for entry in kept) and kept[0].mask.any()


def test_a_shape_is_offered_only_where_it_is_like_the_models_own():
    single, near = disc(40, 40, 20, 20, 10), disc(40, 40, 20, 20, 9)
    square = np.zeros((40, 40), bool)
    square[10:31, 10:31] = True
    pool = [candidate(single), candidate(near), candidate(disc(40, 40, 20, 20, 8)), candidate(square, "shapes")]
    assert "shapes" in {one.source for one in choose_three(pool, single, BOX)}
    line = disc(40, 40, 20, 20, 10) & (np.abs(np.arange(40) - 20) < 2)[:, None]
    thick = line | np.roll(line, 1, 0)
    pool = [candidate(line), candidate(thick), candidate(line & (np.arange(40) < 25)), candidate(square, "shapes")]
    assert "shapes" not in {one.source for one in choose_three(pool, line, BOX)}


@pytest.mark.parametrize(("own", "is_taken"), [((5, 5, 4), True), ((20, 20, 10), False)])
def test_what_the_pixels_show_is_taken_where_it_fits_the_box_better(own, is_taken):
    single = disc(40, 40, *own)
    others = [candidate(np.roll(single, 1, axis)) for axis in (0, 1)]
    slim = np.zeros((40, 40), bool)
    slim[10:31, 10:12] = slim[10, 10:31] = True  # as wide and high as the box, and unlike any disc
    kept = choose_three([candidate(single), *others, candidate(slim, "otsu")], single, BOX)
    assert ("otsu" in {one.source for one in kept}) == is_taken


def test_a_thin_line_brings_the_ridge_filters_mask():
    pixels, truth = crack(np.random.default_rng([0, 3]), 512)
    box = mask_box(truth)
    drawings = candidates._Drawings({"bytes": png(pixels), "path": None}, {})
    mask = drawings("ridge", tuple(box))
    assert mask_iou(mask, truth) > 0.4 > 2 * mask_iou(drawings("otsu", tuple(box)), truth)
    blob = disc(256, 256, 100, 120, 30)
    seen = candidates._Drawings({"bytes": png(np.asarray(photograph(blob, 0))), "path": None}, {})
    assert seen("ridge", tuple(mask_box(blob))) is None
    ground = candidates._Drawings({"bytes": png(pixels), "path": None}, {})
    assert ground("ridge", (0, 0, 60, 60)) is None or truth[:60, :60].any()


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_diversity_by_hand():
    truth = disc(20, 20, 10, 10, 5)
    empty = np.zeros((20, 20), bool)
    found = Diversity()
    found.add([candidate(truth), candidate(truth), candidate(truth)], truth, truth)
    found.add([candidate(truth), candidate(empty), candidate(empty)], empty, truth)
    summary = found.summary()
    assert summary["share_distinct"] == 0.5
    assert summary["mean_pairwise_iou"] == pytest.approx((1 + 1 / 3) / 2)
    assert summary["best_of_three_minus_single"] == pytest.approx(0.5)


def test_refuses_unknown_sources(model, processor, segmentation):
    with pytest.raises(UserError, match="candidate_source"):
        next(generate_candidates(model, processor, segmentation, sources=["magic"]))
