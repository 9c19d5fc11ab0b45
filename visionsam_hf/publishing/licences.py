"""Which licence a thing carries that was made from others: never a freer one than theirs."""

from collections.abc import Iterable, Mapping

from visionsam_hf.errors import UserError

UNKNOWN = "unknown"
# From the freest to the strictest, as the Hub spells them.
_BY_STRICTNESS = (
    "cc0-1.0", "unlicense", "mit", "isc", "bsd-2-clause", "bsd-3-clause", "apache-2.0",
    "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0",
)  # fmt: skip


def is_non_commercial(license: str) -> bool:
    """Whether a licence forbids commercial use, by its identifier."""
    return "-nc" in license


def allows_pictures(license: str) -> bool:
    """Whether photographs under this licence may be shown in a card."""
    return license in _BY_STRICTNESS


def combine(licences: Iterable[str]) -> str:
    """The licence of something made from parts under `licences`.

    One that nobody stated makes the whole "unknown". Licences of the Creative Commons and permissive ones give the
    strictest of them; what cannot be put in that order, or forbids the mixture, gives "other".
    """
    distinct = set(licences)
    if not distinct or UNKNOWN in distinct:
        return UNKNOWN
    if len(distinct) == 1:
        return distinct.pop()
    if not distinct <= set(_BY_STRICTNESS):
        return "other"
    strictest = max(distinct, key=_BY_STRICTNESS.index)
    # Share-alike wants its own terms, which allow commerce; a non-commercial part does not.
    return "other" if "cc-by-sa-4.0" in distinct and is_non_commercial(strictest) else strictest


def settle(stated: str, parts: Mapping[str, str]) -> str:
    """The licence to publish under.

    Args:
        stated: what the user wants, "" for what follows from the parts.
        parts: name of each part -> its licence.

    Raises:
        UserError: `stated` is freer than a part allows, or nothing is stated and nothing follows.
    """
    for name, license in parts.items():
        if stated and _is_freer(stated, license):
            raise UserError(f"license: '{stated}' is freer than {name} allows; leave it out, or state {license}")
    license = stated or combine(parts.values())
    if license == UNKNOWN:
        unknown = [name for name, part in parts.items() if part == UNKNOWN]
        whose = f" of {', '.join(unknown)}" if unknown else ""
        raise UserError(
            f"license: the licence{whose} is unknown; find out, and pass it as --license, e.g. --license cc-by-4.0"
        )
    return license


def _is_freer(stated: str, license: str) -> bool:
    if stated in _BY_STRICTNESS and license in _BY_STRICTNESS:
        return _BY_STRICTNESS.index(stated) < _BY_STRICTNESS.index(license)
    return is_non_commercial(license) and stated != "other" and not is_non_commercial(stated)
