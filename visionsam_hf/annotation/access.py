"""Access to the annotation page: where it listens, which requests are let in, and whose; tokens are kept as hashes."""

import contextlib
import hashlib
import hmac
import ipaddress
import os
import re
import secrets
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from sqlalchemy import Engine, insert, select, update
from starlette.datastructures import Headers, MutableHeaders

from visionsam_hf.annotation.database import annotator, reading, writing
from visionsam_hf.data.errors import UserError

MAX_BODY = 256 * 1024
_TOO_LARGE = 413, f"more than {MAX_BODY} bytes"
HEADERS = {
    "content-security-policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
Message = dict[str, Any]


class AccessMiddleware:
    """Checks Host, method, Origin, content type and size of every request; puts safe headers on every answer.

    Plain ASGI, in front of everything else, so that nothing is parsed that was not let in.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], *, hosts: Iterable[str]) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Message, receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            status, reason = refusal
            await JSONResponse({"detail": reason}, status, {"connection": "close"})(scope, receive, guarded)
        else:
            await self._app(scope, _bounded(receive), guarded)

    def _refusal(self, scope: Message) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        host = headers.getlist("host")
        if len(host) != 1 or host[0].lower() not in self._hosts:
            return 421, "this server does not go by that name"
        if scope["method"] in ("GET", "HEAD"):
            return None
        if scope["method"] != "POST":
            return 405, "not allowed"
        if headers.getlist("origin") != [f"{scope['scheme']}://{host[0]}"]:
            return 403, "requests from elsewhere are refused"
        if headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            return 415, "send application/json"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY:
            return _TOO_LARGE
        return None


def _bounded(receive: Callable) -> Callable:
    """`receive`, up to the limit: a body sent in chunks does not say beforehand how long it is."""
    length = 0

    async def bounded() -> Message:
        nonlocal length
        message = await receive()
        length += len(message.get("body", b""))
        if length > MAX_BODY:
            raise HTTPException(*_TOO_LARGE, {"connection": "close"})
        return message

    return bounded


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to this host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def allowed_hosts(host: str, port: int, extra: Sequence[str] = ()) -> list[str]:
    """The values of the Host header to answer to; any other may be a page that rebinds its name to this address."""
    if is_loopback(host):
        names = ["127.0.0.1", "localhost", "[::1]"]
    elif host in ("0.0.0.0", "::"):
        names = ["127.0.0.1", "localhost", "[::1]", socket.gethostname(), socket.getfqdn()]
    else:
        names = [f"[{host}]" if ":" in host else host]
    names += list(extra)
    # A browser leaves the usual port out.
    return [f"{name}:{port}" for name in names] + (names if port == 80 else [])

def bind(host: str, port: int) -> socket.socket:
    """A socket bound to this address, or a `UserError` that says why not."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{host}:{port}: cannot listen there ({reason}); choose another --port or --host") from None
    return listener


LOCAL_USER = "local"
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
        if not path.exists():
            # Named when it is whole: a server that starts at the same moment must not read half of it.
            with tempfile.NamedTemporaryFile(dir=path.parent) as file, contextlib.suppress(FileExistsError):
                file.write(secrets.token_bytes(32))
                file.flush()
                os.link(file.name, path)
        if path.stat().st_mode & 0o077:
            raise UserError(f"{path}: others can read this secret; run 'chmod 600 {path}'")
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
        return connection.scalar(query)


def admit(engine: Engine, secret: bytes, host: str, store: str) -> str | None:
    """The token of the single local annotator, or None where annotators were added by name.

    Raises:
        UserError: nobody was added, and others than this machine can reach the server.
    """
    active = [user["name"] for user in list_users(engine) if user["kind"] == "human" and user["revoked"] is None]
    if active and active != [LOCAL_USER]:
        return None
    if not is_loopback(host):
        raise UserError(
            f"host '{host}': others can reach it, so annotators need tokens; "
            f"add them first: visionsam annotate users add NAME --store {store}"
        )
    # The same at every start, so that a page that is open stays logged in.
    token = hash_token(secret, f"{LOCAL_USER} {store}")
    if find_user(engine, secret, token) is None:
        if active:
            revoke_user(engine, LOCAL_USER)
        add_user(engine, secret, LOCAL_USER, token=token)
    return token
