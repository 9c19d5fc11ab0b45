"""Splits keep pieces and categories together, whatever the data."""

from hypothesis import given
from hypothesis import strategies as st

from datasets_builders.planned import assign_splits

images = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 12).map(str)), min_size=4, max_size=60)


@given(images=images, seed=st.integers(0, 5))
def test_a_piece_is_in_one_split_and_held_out_categories_in_theirs(images, seed):
    images = [("a", "999"), *images]
    heldout = {"c"} & {category for category, _ in images}
    splits = assign_splits(images, heldout=heldout, validation=0.2, test=0.3, seed=seed)
    of_group = {}
    for (category, group), split in zip(images, splits):
        assert (split == "heldout") == (category in heldout)
        if split is not None:
            assert of_group.setdefault(group, split) == split
        else:
            assert any(other == group and name in heldout for name, other in images)


def test_shares_and_seed():
    images = [("a", str(number)) for number in range(100)] + [("b", f"b{number}") for number in range(50)]
    splits = assign_splits(images, validation=0.1, test=0.2, seed=3)
    assert [splits[:100].count(name) for name in ("train", "validation", "test")] == [70, 10, 20]
    assert [splits[100:].count(name) for name in ("train", "validation", "test")] == [35, 5, 10]
    assert splits == assign_splits(images, validation=0.1, test=0.2, seed=3)
    assert splits != assign_splits(images, validation=0.1, test=0.2, seed=4)


def test_a_category_keeps_its_draw_when_another_comes():
    first = [("a", str(number)) for number in range(30)]
    more = first + [("b", f"b{number}") for number in range(9)]
    assert assign_splits(first, test=0.3) == assign_splits(more, test=0.3)[:30]


def test_a_piece_too_big_for_a_split_goes_to_train():
    images = [("a", "big")] * 8 + [("a", "small")] * 2
    splits = assign_splits(images, test=0.2, seed=0)
    assert set(splits[:8]) == {"train"} and set(splits[8:]) == {"test"}
