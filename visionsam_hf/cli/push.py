"""`visionsam push DIR REPO_ID`: check a model, adapter or data set, and publish it on the Hub."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from visionsam_hf.data.errors import UserError
from visionsam_hf.data.settings import setting

if TYPE_CHECKING:
    from visionsam_hf.hub.checks import Publication


@dataclass
class PushSettings:
    """What goes where, and who may see it."""

    directory: str = setting("", "DIR: directory of a model, an adapter or a data set", required=True)
    repo_id: str = setting("", "REPO_ID: OWNER/NAME on the Hub, or NAME for your own", required=True)
    dry_run: bool = setting(False, "check and show what would be sent; needs no login and no network")
    private: bool | None = setting(None, "only you and whom you invite see it; so is every new repository")
    public: bool = setting(False, "everybody sees it")
    revision: str = setting("", "tag for what is pushed, e.g. v1")
    license: str = setting("", "licence, where it does not follow from what it was made from, e.g. cc-by-4.0")
    base_model: str = setting("", "Hub id of the base model, where it was tuned from a directory")

    def __post_init__(self) -> None:
        if self.public and self.private:
            raise UserError("push: give --private or --public, not both")

    @property
    def wants_private(self) -> bool | None:
        """True, False, or None where the user said nothing."""
        return False if self.public else self.private


def run(settings: PushSettings) -> None:
    """Publish, or with dry_run only show what would be."""
    from visionsam_hf.hub.upload import check_repo_id, require_token

    check_repo_id(settings.repo_id)
    if not settings.dry_run:
        require_token()
    publish(
        settings.directory,
        settings.repo_id,
        private=settings.wants_private,
        revision=settings.revision,
        license=settings.license,
        base_model=settings.base_model,
        dry_run=settings.dry_run,
    )


def publish(
    directory: str,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str = "",
    license: str = "",
    base_model: str = "",
    token: str | None = None,
    dry_run: bool = False,
) -> None:
    """Check, show, push, and print where it is and the lines that load it. Arguments as in `PushSettings`."""
    from visionsam_hf.data.records import resolve_model
    from visionsam_hf.hub.checks import prepare
    from visionsam_hf.hub.model_card import usage
    from visionsam_hf.hub.upload import push

    publication = prepare(resolve_model(directory), repo_id, license=license, base_model=base_model)
    print(_plan(publication, repo_id, private=private), flush=True)
    if dry_run:
        print("Nothing was sent (dry run).")
        return
    pushed = push(publication, repo_id, private=private, revision=revision, token=token)
    if pushed.sent or pushed.removed:
        print(f"Sent {len(pushed.sent)} files, removed {len(pushed.removed)} of an earlier push.")
    else:
        print("Nothing to send: the Hub has it all.")
    print(f"{pushed.url}\n")
    print(usage(publication.kind, pushed.repo_id, revision=revision, base=publication.base))


def _plan(publication: "Publication", repo_id: str, *, private: bool | None) -> str:
    """What will be sent, a line a file."""
    where = "public" if private is False else "private"
    total = sum(publication.size(name) for name in publication.files)
    lines = [f"{publication.kind} {publication.directory} -> {repo_id} ({where}, licence {publication.license})"]
    lines += [f"  {_readable(publication.size(name)):>10}  {name}" for name in sorted(publication.files)]
    lines.append(f"  {_readable(total):>10}  in {len(publication.files)} files")
    if publication.left_out:
        lines.append(f"Not sent: {', '.join(publication.left_out)}")
    return "\n".join(lines)


def _readable(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
