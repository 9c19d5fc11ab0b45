"""The door of the annotation server: who may send what, from where, and how much of it.

Plain ASGI, in front of everything else, so that nothing is parsed that was not let in.
"""

import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

MAX_BODY = 256 * 1024
READING = ("GET", "HEAD")
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


class Door:
    """ASGI middleware: Host, method, Origin, content type and size of every request; safe headers on every answer."""

    def __init__(self, app: Callable[..., Awaitable[None]], *, hosts: Iterable[str]) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Message, receive: Callable, send: Callable) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        guarded = _with_headers(send)
        refusal = self._refusal(scope)
        if refusal is not None:
            await _refuse(guarded, *refusal)
            return
        if scope["method"] in READING:
            await self._app(scope, receive, guarded)
            return
        body = await _read_body(receive)
        if body is None:
            await _refuse(guarded, 413, f"more than {MAX_BODY} bytes")
            return
        await self._app(scope, _replay(body, receive), guarded)

    def _refusal(self, scope: Message) -> tuple[int, str] | None:
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        host = headers.get("host", [])
        if len(host) != 1 or host[0].lower() not in self._hosts:
            return 421, "this server does not go by that name"
        if scope["method"] in READING:
            return None
        if scope["method"] != "POST":
            return 405, "not allowed"
        origin = headers.get("origin", [])
        if origin != [f"{scope['scheme']}://{host[0]}"]:
            return 403, "requests from elsewhere are refused"
        if headers.get("content-type", [""])[0].split(";")[0].strip().lower() != "application/json":
            return 415, "send application/json"
        length = headers.get("content-length", ["0"])[0]
        if not length.isdigit() or int(length) > MAX_BODY:
            return 413, f"more than {MAX_BODY} bytes"
        return None


async def _read_body(receive: Callable) -> bytes | None:
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return body
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            return None
        if not message.get("more_body"):
            return body


def _replay(body: bytes, receive: Callable) -> Callable:
    is_sent = False

    async def replay() -> Message:
        nonlocal is_sent
        if is_sent:
            return await receive()
        is_sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _with_headers(send: Callable) -> Callable:
    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [(name, value) for name, value in message["headers"] if name.decode().lower() not in HEADERS]
            added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message = message | {"headers": kept + added}
        await send(message)

    return guarded


async def _refuse(send: Callable, status: int, reason: str) -> None:
    body = json.dumps({"detail": reason}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
