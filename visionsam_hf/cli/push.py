"""`visionsam push DIR REPO_ID`: check a model, adapter or data set, and publish it on the Hub."""

from visionsam_hf.cli.options import PushSettings
from visionsam_hf.data.records import resolve_model
from visionsam_hf.hub.checks import Publication, prepare
from visionsam_hf.hub.model_card import usage
from visionsam_hf.hub.upload import check_repo_id, push, require_token


def run(settings: PushSettings) -> None:
    """Publish, or with dry_run only show what would be."""
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
    kind, base, needs_code = publication.kind, publication.base, publication.needs_code
    print(usage(kind, pushed.repo_id, revision=revision, base=base, needs_code=needs_code))


def _plan(publication: Publication, repo_id: str, *, private: bool | None) -> str:
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
