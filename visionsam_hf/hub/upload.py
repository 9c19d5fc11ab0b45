"""Send a checked directory to the Hub: one commit of what differs, a tag, and what to type to load it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoUrl, get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id
from huggingface_hub.utils.sha import git_hash

from visionsam_hf.data.errors import UserError
from visionsam_hf.data.records import PACKAGED_MODEL, PUBLISHED, resolve_model
from visionsam_hf.hub.checks import Publication

# Files of an earlier push that must not stay beside this one's: loading would read them too.
_REPLACED = ("data/", ".eval_results/")
_REPLACED_SUFFIXES = (".safetensors", ".safetensors.index.json")


@dataclass(frozen=True)
class Pushed:
    """What a push did.

    Attributes:
        repo_id: with its owner.
        url: of the repository, or of the tag in it.
        commit: the commit that now holds the directory.
        sent, removed: paths that changed; both empty when the Hub had it all.
    """

    repo_id: str
    url: str
    commit: str
    sent: list[str]
    removed: list[str]


def check_repo_id(repo_id: str) -> None:
    """Raise `UserError` for what cannot be a repository's name."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"repo_id: '{repo_id}' cannot be a name on the Hub ({error}); give OWNER/NAME") from None


def require_token(token: str | None = None) -> str:
    """The token to push with: the one given, HF_TOKEN, or that of `hf auth login`. `UserError` without one."""
    token = token or get_token()
    if not token:
        raise UserError("push: not logged in to the Hub; run 'hf auth login', or set HF_TOKEN to a write token")
    return token


def push(
    publication: Publication, repo_id: str, *, private: bool | None = None, revision: str = "", token: str | None = None
) -> Pushed:
    """Make a repository hold what a publication says, in one commit; nothing is sent that is there already.

    A push that was interrupted has committed nothing; repeating it sends only what had not arrived.

    Args:
        publication: from `prepare`.
        repo_id: OWNER/NAME, or NAME for the user's own.
        private: True, False, or None: a new repository is private, and one that is there must be.
        revision: a tag for the commit, or "". It must be new, or mark this very content.
        token: instead of the one at hand.

    Raises:
        UserError: no token, no access, no network, a public repository that was not asked for, a tag that is taken.
    """
    token = require_token(token)
    check_repo_id(repo_id)
    api, kind = HfApi(token=token), publication.repo_type
    with _as_user_errors(repo_id, token):
        if "/" not in repo_id:
            repo_id = f"{api.whoami()['name']}/{repo_id}"
        _open_repository(api, repo_id, kind, private)
        head = api.repo_info(repo_id, repo_type=kind).sha
        remote = _remote_files(api, repo_id, kind)
        files = [CommitOperationAdd(name, content) for name, content in sorted(publication.files.items())]
        changed = [file for file in files if not _is_same(file, remote.get(file.path_in_repo))]
        sent = [file.path_in_repo for file in changed]
        removed = [name for name in sorted(remote) if _is_replaced(name) and name not in publication.files]
        tagged = _tagged(api, repo_id, kind, revision)
        if tagged and (sent or removed or tagged != head):
            raise UserError(f"revision: '{revision}' of {repo_id} marks something else already; choose a new name")
        if sent or removed:
            operations = [*changed, *(CommitOperationDelete(name) for name in removed)]
            message = f"{publication.kind.capitalize()} from visionsam_hf" + (f", {revision}" if revision else "")
            head = api.create_commit(
                repo_id, operations, commit_message=message, repo_type=kind, parent_commit=head
            ).oid
        if revision and not tagged:
            api.create_tag(repo_id, tag=revision, revision=head, repo_type=kind)
    _remember(publication, repo_id)
    place = RepoUrl(f"{api.endpoint}/{'datasets/' if kind == 'dataset' else ''}{repo_id}")
    return Pushed(repo_id, f"{place}/tree/{revision}" if revision else str(place), str(head), sent, removed)


def _open_repository(api: HfApi, repo_id: str, kind: str, private: bool | None) -> None:
    """Create the repository, or see that the one there is as visible as the user believes."""
    try:
        is_private = bool(api.repo_info(repo_id, repo_type=kind).private)
    except RepositoryNotFoundError:
        api.create_repo(repo_id, repo_type=kind, private=private is not False)
        return
    if private is None and not is_private:
        raise UserError(f"{repo_id}: is public; push with --public to publish there, or with --private to hide it")
    if private is not None and private != is_private:
        api.update_repo_settings(repo_id, repo_type=kind, private=private)


def _remote_files(api: HfApi, repo_id: str, kind: str) -> dict[str, RepoFile]:
    try:
        entries = list(api.list_repo_tree(repo_id, recursive=True, repo_type=kind))
    except EntryNotFoundError:  # a repository without a single file
        return {}
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def _is_same(file: CommitOperationAdd, remote: RepoFile | None) -> bool:
    if remote is None or file.upload_info.size != remote.size:
        return False
    if remote.lfs is not None:
        return file.upload_info.sha256.hex() == remote.lfs.sha256
    with file.as_file() as handle:
        return git_hash(handle.read()) == remote.blob_id


def _is_replaced(name: str) -> bool:
    return name.startswith(_REPLACED) or name.endswith(_REPLACED_SUFFIXES)


def _tagged(api: HfApi, repo_id: str, kind: str, revision: str) -> str | None:
    """The commit that a tag marks."""
    refs = api.list_repo_refs(repo_id, repo_type=kind)
    if revision in {branch.name for branch in refs.branches}:
        raise UserError(f"revision: '{revision}' is a branch of {repo_id}; choose a tag, e.g. v1")
    return next((tag.target_commit for tag in refs.tags if tag.name == revision), None)


def _remember(publication: Publication, repo_id: str) -> None:
    """Note in the directory where it is published, for the cards of what is made from it."""
    if publication.directory != Path(resolve_model(PACKAGED_MODEL)):
        note = json.dumps({"repo_id": repo_id, "repo_type": publication.repo_type}) + "\n"
        (publication.directory / PUBLISHED).write_text(note, encoding="utf-8")


@contextmanager
def _as_user_errors(repo_id: str, token: str) -> Iterator[None]:
    """What the Hub and the network refuse, as one line without the token."""
    again = "repeat the command: what has arrived is not sent again"
    try:
        yield
    except OfflineModeIsEnabled:
        raise UserError("push: HF_HUB_OFFLINE is set; unset it to reach the Hub") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403):
            advice = "log in with 'hf auth login' as somebody who may write there, or mend the name"
        elif status == 412:
            advice = "somebody else pushed there meanwhile; look, then repeat the command"
        else:
            advice = again
        raise UserError(f"{repo_id}: the Hub refused ({_first_line(error, token)}); {advice}") from None
    except ValueError as error:  # the Hub's validation of the card's YAML
        raise UserError(f"{repo_id}: {_first_line(error, token)}; mend README.md") from None
    except Exception as error:
        # The client's HTTP library changed its name with a release; its errors of transport did not.
        names = {base.__name__ for base in type(error).__mro__}
        if not names & {"OSError", "TransportError"}:
            raise
        raise UserError(f"{repo_id}: the connection to the Hub broke ({_first_line(error, token)}); {again}") from None


def _first_line(error: Exception, token: str) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].replace(token, "***")
