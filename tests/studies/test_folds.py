import pytest
from studies.folds import object_counts, share_labels, take

from visionsam_hf.data.errors import UserError


def test_takes_rows_until_there_are_enough_objects():
    assert take([1, 2, 3, 1], [2, 0, 1, 3], 4) == [2, 0]
    assert take([1, 2], [1, 0], None) == [1, 0]


def test_masks_and_rankings_never_share_an_image(segmentation):
    few, ranked = share_labels(segmentation, seed=0, masks=2, max_ranked=None)
    more, fewer_ranked = share_labels(segmentation, seed=0, masks=4, max_ranked=None)
    assert len(few) == 2 and len(ranked) == 4 and not set(few["image_id"]) & set(ranked["image_id"])
    assert set(few["image_id"]) < set(more["image_id"]) and set(fewer_ranked["image_id"]) < set(ranked["image_id"])
    capped = [share_labels(segmentation, seed=0, masks=masks, max_ranked=2)[1] for masks in (1, 3)]
    assert capped[0]["image_id"] == capped[1]["image_id"] and sum(object_counts(capped[0])) in (2, 3)
    assert share_labels(segmentation, seed=1, masks=2, max_ranked=None)[0]["image_id"] != few["image_id"]


def test_someone_must_be_left_to_rank(segmentation):
    with pytest.raises(UserError, match="leave none to rank"):
        share_labels(segmentation, seed=0, masks=6, max_ranked=None)
