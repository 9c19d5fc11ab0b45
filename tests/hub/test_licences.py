import pytest
from hypothesis import given
from hypothesis import strategies as st

from visionsam_hf.data.errors import UserError
from visionsam_hf.hub.provenance import _BY_STRICTNESS, allows_pictures, combine, is_non_commercial, settle


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        (["apache-2.0"], "apache-2.0"),
        (["apache-2.0", "apache-2.0"], "apache-2.0"),
        (["apache-2.0", "mit"], "apache-2.0"),
        (["apache-2.0", "cc-by-nc-4.0"], "cc-by-nc-4.0"),
        (["cc-by-nc-sa-4.0", "cc-by-nc-4.0", "mit"], "cc-by-nc-sa-4.0"),
        (["cc-by-sa-4.0", "cc-by-nc-4.0"], "other"),
        (["apache-2.0", "gpl-3.0"], "other"),
        (["apache-2.0", "unknown"], "unknown"),
        ([], "unknown"),
    ],
)
def test_the_whole_carries_the_strictest_licence_of_its_parts(parts, whole):
    assert combine(parts) == whole


@given(st.lists(st.sampled_from([*_BY_STRICTNESS, "gpl-3.0", "unknown"]), min_size=1))
def test_non_commercial_stays_non_commercial_and_order_does_not_matter(parts):
    whole = combine(parts)
    assert whole == combine(reversed(parts))
    if any(is_non_commercial(part) for part in parts):
        assert is_non_commercial(whole) or whole in ("other", "unknown")


def test_what_nobody_stated_must_be_stated():
    with pytest.raises(UserError, match="the licence of the dataset 'parts' is unknown; .* --license"):
        settle("", {"the model 'sam'": "apache-2.0", "the dataset 'parts'": "unknown"})
    assert settle("cc-by-4.0", {"the dataset 'parts'": "unknown"}) == "cc-by-4.0"
    with pytest.raises(UserError, match="is unknown"):
        settle("", {})


@pytest.mark.parametrize("stated", ["apache-2.0", "cc-by-sa-4.0", "gpl-3.0"])
def test_a_stated_licence_is_not_freer_than_the_parts(stated):
    with pytest.raises(UserError, match=f"'{stated}' is freer than the dataset 'tiles' allows"):
        settle(stated, {"the model 'sam'": "apache-2.0", "the dataset 'tiles'": "cc-by-nc-4.0"})


def test_a_stated_licence_may_be_stricter():
    assert settle("cc-by-nc-4.0", {"the dataset 'tiles'": "apache-2.0"}) == "cc-by-nc-4.0"


def test_photographs_are_shown_only_under_a_licence_that_is_known_to_allow_it():
    assert allows_pictures("cc-by-nc-4.0") and not allows_pictures("unknown") and not allows_pictures("other")
