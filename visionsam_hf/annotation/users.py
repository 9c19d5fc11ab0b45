"""Annotators and their tokens: shown once, stored as a keyed hash, revocable."""

import hashlib
import hmac
import os
import re
import secrets
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, insert, select, update

from visionsam_hf.annotation.tables import annotator, reading, writing
from visionsam_hf.errors import UserError

_NAME = re.compile(r"[\w .@-]{1,64}")


def secret_path() -> Path:
    """Where this installation keeps the key of its token hashes."""
    root = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(root) / "visionsam" / "annotate.secret"


def read_secret() -> bytes:
    """The installation's key, made on first use, readable by its owner alone.

    Raises:
        UserError: others can read the file, or it cannot be written.
    """
    path = secret_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            if path.stat().st_mode & 0o077:
                raise UserError(f"{path}: others can read this secret; run 'chmod 600 {path}'") from None
        else:
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(32))
        secret = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: the secret cannot be kept there ({error.strerror}); set XDG_CONFIG_HOME") from None
    if len(secret) < 32:
        raise UserError(f"{path}: is damaged; delete it and add the annotators again")
    return secret


def hash_token(secret: bytes, token: str) -> str:
    """What the store keeps of a token."""
    return hmac.new(secret, token.encode(), hashlib.sha256).hexdigest()


def add_user(engine: Engine, secret: bytes, name: str, *, token: str | None = None) -> str:
    """A new annotator's token, or a new token for one who was revoked; nobody can read it again."""
    if not _NAME.fullmatch(name):
        raise UserError(f"name '{name}': use 1 to 64 letters, digits, spaces or . _ @ -")
    token = token or secrets.token_urlsafe(32)
    values = {"token_hash": hash_token(secret, token), "revoked": None}
    with writing(engine) as connection:
        row = connection.execute(select(annotator).where(annotator.c.name == name)).first()
        if row is None:
            connection.execute(insert(annotator).values(name=name, kind="human", created=time.time(), **values))
        elif row.kind != "human":
            raise UserError(f"name '{name}': is a simulated annotator's; choose another")
        elif row.revoked is None:
            raise UserError(f"name '{name}': exists already; revoke it first to give it a new token")
        else:
            connection.execute(update(annotator).where(annotator.c.id == row.id).values(**values))
    return token


def add_oracle(engine: Engine, name: str) -> int:
    """The id of a simulated annotator, who has no token and so can never log in."""
    with writing(engine) as connection:
        row = connection.execute(select(annotator).where(annotator.c.name == name)).first()
        if row is not None:
            if row.kind != "oracle":
                raise UserError(f"annotator '{name}': is a person's name; rename the person to simulate it")
            return row.id
        values = {"name": name, "kind": "oracle", "created": time.time()}
        return connection.execute(insert(annotator).values(**values)).inserted_primary_key[0]


def revoke_user(engine: Engine, name: str) -> None:
    """Shut an annotator out, at once; what they ranked stays."""
    with writing(engine) as connection:
        changed = connection.execute(
            update(annotator).where(annotator.c.name == name, annotator.c.kind == "human").values(revoked=time.time())
        )
        if changed.rowcount == 0:
            raise UserError(f"name '{name}': no such annotator; see 'visionsam annotate users list'")


def list_users(engine: Engine) -> list[dict[str, Any]]:
    """Name, kind, created and revoked of every annotator."""
    columns = (annotator.c.id, annotator.c.name, annotator.c.kind, annotator.c.created, annotator.c.revoked)
    with reading(engine) as connection:
        return [dict(row) for row in connection.execute(select(*columns).order_by(annotator.c.id)).mappings()]


def find_user(engine: Engine, secret: bytes, token: str) -> int | None:
    """The id of the annotator who holds this token, unless revoked."""
    query = select(annotator.c.id).where(
        annotator.c.token_hash == hash_token(secret, token), annotator.c.revoked.is_(None), annotator.c.kind == "human"
    )
    with reading(engine) as connection:
        return connection.execute(query).scalar()
