"""Protection against requests of other web pages.

Any page in a browser can send requests to this machine. Pages of other sites are recognised by the Origin header, and
DNS rebinding by the Host header, which then is a name instead of an address.
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
    """Middleware that refuses requests of other pages with 403 and adds security headers to responses."""

    def __init__(self, app: ASGIApp, names: tuple[str, ...] = ()) -> None:
        self.app, self.names = app, ("localhost", *names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return None  # no web sockets

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        reason = refusal(Headers(scope=scope), self.names)
        if reason:
            return await JSONResponse({"error": reason}, 403)(scope, receive, guarded)
        return await self.app(scope, receive, guarded)


def refusal(headers: Headers, names: tuple[str, ...]) -> str:
    """Return why a request is refused, or an empty text; `names` are host names that it may use."""
    host, origin = headers.get("host", ""), headers.get("origin")
    try:
        hostname = (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        hostname = ""
    if hostname not in names and not _is_address(hostname):
        return "the page must be opened by an address such as http://127.0.0.1:7860, not by another name"
    other = origin is not None and (urlsplit(origin).netloc or "null").lower() != host.lower()
    site, mode = (headers.get(f"sec-fetch-{name}") for name in ("site", "mode"))
    if other or (site not in (None, "none", "same-origin") and mode != "navigate"):
        return "another page may not use this server"
    return ""


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
