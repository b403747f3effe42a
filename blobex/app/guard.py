"""Who may talk to the server: pages that it served itself.

Any page that a browser shows can send requests to this machine. A page of another name is told by Origin; one whose
name was made to point here (DNS rebinding) by Host, which then is a name, and not an address.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data: blob:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Guard:
    """Refuses, with 403, what another page sends, and adds to answers what keeps this page to itself."""

    def __init__(self, app: ASGIApp, names: tuple[str, ...] = ()) -> None:
        self.app, self.names = app, ("localhost", *names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return None  # there are no web sockets here

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = refused(Headers(scope=scope), self.names)
        if refusal:
            return await JSONResponse({"error": refusal}, 403)(scope, receive, guarded)
        return await self.app(scope, receive, guarded)


def refused(headers: Headers, names: tuple[str, ...]) -> str:
    """Why a request is refused; empty if it is not. `names` are those that the server may be called by."""
    host, origin = headers.get("host", ""), headers.get("origin")
    try:
        called = (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        called = ""
    if called not in names and not _is_address(called):
        return "the page must be opened by an address such as http://127.0.0.1:7860, not by another name"
    if origin is not None and (urlsplit(origin).netloc or "null").lower() != host.lower():
        return "another page may not use this server"
    site, mode = (headers.get(f"sec-fetch-{name}") for name in ("site", "mode"))
    if site not in (None, "none", "same-origin") and mode != "navigate":
        return "another page may not use this server"
    return ""


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
