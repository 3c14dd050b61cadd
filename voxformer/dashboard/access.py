"""Who may see the page: this machine's browser, or whoever has the token."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECURITY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; media-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Access:
    """Middleware: the token if there is one, else requests that name a loopback host.

    A web page elsewhere can make a browser ask a loopback address under a name of its own (DNS
    rebinding); such a request names that host, and is refused.
    """

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self.app = app
        self.token = token
        secret = hashlib.sha256(f"voxformer-dashboard:{token}".encode()).hexdigest()
        # Cookies are shared by all ports of a host, so that two dashboards need two names.
        self.cookie, self.cookie_value = f"voxformer_{secret[:8]}", secret[8:]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer it, pass it on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                have = {name.lower() for name, _ in message["headers"]}
                for name, value in SECURITY.items():
                    if name.lower().encode() not in have:
                        message["headers"].append((name.lower().encode(), value.encode()))
            await send(message)

        refusal = self._refuse(HTTPConnection(scope))
        await (refusal or self.app)(scope, receive, send_with_headers)

    def _refuse(self, request: HTTPConnection) -> Response | None:
        """What to answer instead of the page; None lets the request through."""
        if self.token is None:
            return (
                None
                if is_loopback(_host(request.headers))
                else _plain(
                    "This dashboard answers to localhost only; start it with --host and a token to "
                    "reach it by another name.\n",
                    403,
                )
            )
        given = request.query_params.get("token")
        if given is not None and _same(given, self.token):
            rest = [(k, v) for k, v in parse_qsl(request.url.query) if k != "token"]
            path = "/" + request.url.path.lstrip("/")
            response = RedirectResponse(path + ("?" + urlencode(rest) if rest else ""), 303)
            response.set_cookie(self.cookie, self.cookie_value, httponly=True, samesite="lax")
            return response
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        known = _same(request.cookies.get(self.cookie, ""), self.cookie_value)
        if known or _same(bearer, self.token):
            return None
        return _plain(
            "This dashboard needs its token: open the address that `voxformer dashboard` printed, "
            "which ends in ?token=…\n",
            401,
        )


def _host(headers: Headers) -> str:
    host = headers.get("host", "")
    return host.partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _same(given: str, expected: str) -> bool:
    """In a time that does not tell where they differ."""
    return hmac.compare_digest(given.encode(), expected.encode())


def _plain(text: str, status: int) -> Response:
    return PlainTextResponse(text, status)
