"""Starting the annotation server: where it binds, by which names it answers, who may come in."""

import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Sequence

from sqlalchemy import Engine

from visionsam_hf.annotation.users import add_user, find_user, list_users, revoke_user
from visionsam_hf.errors import UserError

LOCAL_USER = "local"


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
    token = hmac.new(secret, f"{LOCAL_USER} {store}".encode(), hashlib.sha256).hexdigest()
    if find_user(engine, secret, token) is None:
        if active:
            revoke_user(engine, LOCAL_USER)
        add_user(engine, secret, LOCAL_USER, token=token)
    return token


def bind(host: str, port: int) -> socket.socket:
    """A listening socket, or a `UserError` that says why not."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{host}:{port}: cannot listen there ({reason}); choose another --port or --host") from None
    return listener
