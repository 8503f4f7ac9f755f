"""Who may ask the page's server for what: this machine's own browser, from the page itself, and only to read."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

METHODS = ("GET", "HEAD")
# What the browser holds the page to: nothing from elsewhere, nothing that a text in a data set could start.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}


class Guard:
    """Refuses requests that another site's page had the browser make.

    The name that the browser asked for has to be this machine's own (else a site could let its name point here, DNS
    rebinding), and the page that asks has to be ours. There is no answer that another origin may read, and no request
    that changes anything. Other users of the machine do not know the token: the address that was printed has it, and
    the browser keeps it as a cookie.
    """

    def __init__(self, app: ASGIApp, port: int, token: str) -> None:
        """Stand before `app`, which is served at `port` to those who know `token`."""
        self._app, self._token, self._cookie = app, token, f"reelshard_{port}"
        self._hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or hand on with headers that hold the browser to it."""
        if scope["type"] != "http":  # starting and stopping; web sockets there are none
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = self._refusal(scope)
        answer = self._let_in(scope) if refusal is None else PlainTextResponse(refusal[1] + "\n", refusal[0])
        await answer(scope, receive, send_with_headers)

    def _let_in(self, scope: Scope) -> ASGIApp:
        request = HTTPConnection(scope)
        if scope["path"] == "/" and self._is_token(request.query_params.get("token", "")):
            answer: Response = RedirectResponse("/", 303)
            answer.set_cookie(self._cookie, self._token, httponly=True, samesite="lax")
            return answer
        if self._is_token(request.cookies.get(self._cookie, "")):
            return self._app
        return PlainTextResponse("open the whole address that `reelshard view` printed, with its token\n", 403)

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(errors="replace"), self._token.encode())

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        if scope["method"] not in METHODS:
            return 405, "this page is only read"
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return 421, f"this server is {' or '.join(sorted(self._hosts))}, and no other name"
        origin = headers.get("origin")
        if origin is not None and origin.removeprefix("http://").lower() not in self._hosts:
            return 403, "another site's page may not read this one"
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not _is_visit(
            scope["path"], headers
        ):
            return 403, "another site's page may not read this one"
        return None


def _is_visit(path: str, headers: Mapping[str, str]) -> bool:
    """Whether somebody followed a link to the page."""
    asked: Sequence[str | None] = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest"))
    return path == "/" and tuple(asked) == ("navigate", "document")
