"""What a stage's directory was made from (`stage.json` and the cards say it), and which licence follows from that."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import RepoCard, metadata_load

from visionsam_hf.data.errors import UserError
from visionsam_hf.data.records import PACKAGED_MODEL, PUBLISHED, looks_local, resolve_model
from visionsam_hf.evaluation.result_files import lineage, stage_record

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


# Settings that name what went into a stage's output; the model that proposes candidates does not.
_PARTS = {
    "sft": {"model_name_or_path": "model", "dataset": "dataset"},
    "dpo": {"model_name_or_path": "model", "dataset": "dataset"},
    "distil": {"model_name_or_path": "model", "student": "model", "dataset": "dataset"},
    "find": {"model_name_or_path": "model", "dataset": "dataset"},
    "merge": {"adapter": "model"},
    "curate": {"dataset": "dataset"},
    "candidates": {"dataset": "dataset"},
    "annotate": {"candidates": "dataset"},
}
# Base models whose card need not be asked for.
_KNOWN = {f"facebook/sam-vit-{size}": "apache-2.0" for size in ("base", "large", "huge")}


@dataclass(frozen=True)
class Part:
    """A model or data set that something was made from.

    Attributes:
        repo_type: "model" or "dataset".
        name: how people call it: its Hub id, or its card's title, or its directory's name.
        hub_id: its name on the Hub, if it is known to be there.
        license: as the Hub spells it, or "unknown".
    """

    repo_type: str
    name: str
    hub_id: str | None
    license: str


def parts_of(directory: str | Path) -> list[Part]:
    """What a directory's `stage.json` says that it was made from; [] without one, or for a stage that starts anew."""
    record = stage_record(directory)
    return parts_of_record(record) if record else []


def parts_of_record(record: dict[str, Any]) -> list[Part]:
    """The same for the content of a `stage.json`."""
    settings = record["settings"]
    named = _PARTS.get(str(record.get("stage")), {})
    return [_part(str(settings[key]), repo_type) for key, repo_type in named.items() if settings.get(key)]


def license_of(directory: str | Path) -> str:
    """The licence that a local directory's card states, else the one that follows from its parts."""
    stated = _front(Path(directory)).get("license")
    if isinstance(stated, str) and stated != UNKNOWN:
        return stated
    return combine(part.license for part in parts_of(directory))


def published_as(directory: str | Path) -> str | None:
    """The Hub id that a directory was last pushed to, so that what was made from it can name it."""
    try:
        return str(json.loads((Path(directory) / PUBLISHED).read_text(encoding="utf-8"))["repo_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def base_on_hub(record: dict[str, Any]) -> str | None:
    """The Hub id of the nearest model that a trained model comes from, through any number of local stages."""
    settings = record["settings"]
    for name, _ in lineage(settings.get("model_name_or_path") or settings.get("adapter") or ""):
        path = Path(resolve_model(name))
        if not path.exists():
            return None if looks_local(name) else name
        if found := published_as(path):
            return found
    return None


def _part(name: str, repo_type: str) -> Part:
    path = Path(resolve_model(name))
    if path.exists():
        title = name if name == PACKAGED_MODEL else _title(path)
        return Part(repo_type, title, published_as(path), license_of(path))
    if looks_local(name):
        return Part(repo_type, path.name, None, UNKNOWN)
    return Part(repo_type, name, name, _KNOWN.get(name) or _license_on_hub(name, repo_type))


def _title(directory: Path) -> str:
    front = _front(directory)
    return str(front.get("pretty_name") or front.get("model_name") or directory.name)


def _front(directory: Path) -> dict[str, Any]:
    path = card_path(directory)
    with valid_yaml(path):
        return (metadata_load(path) if path.is_file() else None) or {}


def card_path(directory: str | Path) -> Path:
    """Where a directory's card lies."""
    return Path(directory) / "README.md"


@contextmanager
def valid_yaml(path: Path) -> Iterator[None]:
    """What huggingface_hub refuses of a card's front matter, as one line."""
    try:
        yield
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: its YAML is not valid ({' '.join(str(error).split())}); mend it") from None


def _license_on_hub(repo_id: str, repo_type: str) -> str:
    try:
        return str(RepoCard.load(repo_id, repo_type=repo_type).data.get("license", UNKNOWN))
    except Exception:  # no card, no network, no access: all mean that nothing is known, which is said later
        return UNKNOWN
