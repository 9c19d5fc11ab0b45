"""`visionsam annotate backup|dump|restore`: a store as a file, and back."""

from dataclasses import dataclass

from visionsam_hf.data.errors import UserError
from visionsam_hf.data.settings import setting


@dataclass
class CopySettings:
    """A store and a file."""

    store: str = setting("", "the annotation store: a SQLite file or a URL", required=True)
    file: str = setting("", "the file to write (backup, dump) or to read (restore)", required=True)


def run_backup(settings: CopySettings) -> None:
    """Copy a SQLite store, also while it is in use."""
    _copy(settings, "backup")


def run_dump(settings: CopySettings) -> None:
    """Write a store as JSON lines."""
    _copy(settings, "dump")


def run_restore(settings: CopySettings) -> None:
    """Fill a new store from a dump."""
    _copy(settings, "restore")


def _copy(settings: CopySettings, verb: str) -> None:
    require_extra()
    from pathlib import Path

    from visionsam_hf.annotation import archive
    from visionsam_hf.annotation.database import open_engine

    if verb == "restore" and not Path(settings.file).is_file():
        raise UserError(f"{settings.file}: no such file; give one that 'visionsam annotate dump' wrote")
    engine = open_engine(settings.store, create=verb == "restore")
    count = getattr(archive, verb)(engine, Path(settings.file))
    print(settings.file if count is None else f"{count} rows")


def require_extra() -> None:
    """Say which package annotation misses. Raises `UserError`."""
    try:
        import fastapi  # noqa: F401
        import sqlalchemy  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"annotate: needs the package '{error.name}'; run, in the clone: pip install -e '.[annotate]'"
        ) from None
