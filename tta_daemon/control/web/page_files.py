"""The files of the status page, as they are packaged, and the headers that let nothing else in."""

import hashlib
from importlib import resources

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

KINDS = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Guarded:
    """Sends `HEADERS` with every answer of ``app``."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, guarded)


class PageFile:
    """One file, read once."""

    def __init__(self, name: str, content: bytes) -> None:
        self.name = name
        self._content = content
        self._kind = KINDS[name.rpartition(".")[2]]
        self._tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'

    async def __call__(self, request: Request) -> Response:
        """The file, or that it is still the same."""
        headers = {"cache-control": "no-cache", "etag": self._tag}
        if request.headers.get("if-none-match") == self._tag:
            return Response(status_code=304, headers=headers)
        return Response(self._content, media_type=self._kind, headers=headers)


def page_files() -> dict[str, PageFile]:
    """Every file of the page, by name."""
    folder = resources.files(__package__) / "page"
    return {file.name: PageFile(file.name, file.read_bytes()) for file in folder.iterdir() if file.is_file()}


def routes(files: dict[str, PageFile]) -> list[Route]:
    """All but the page itself, beside it."""
    return [Route(f"/{name}", file.__call__) for name, file in files.items() if name != "index.html"]
