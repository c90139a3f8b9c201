"""`POST /-/reload`, `/-/reset` and `/-/checkpoint`: only where they are switched on, only for who has the token."""

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from http import HTTPStatus
from typing import TypeVar

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tta_daemon.control.config import revealed
from tta_daemon.control.errands import Errand, Errands
from tta_daemon.control.reload import Reloader
from tta_daemon.control.sections import Http
from tta_daemon.control.slot import Result
from tta_daemon.errors import ConfigError

T = TypeVar("T")

WAIT_S = 60.0
"""How long a request waits for what it asked for."""

LARGEST_BODY, BODY_S = 1024, 5.0
"""Nothing in a body is of any use here: how much of it, and how long, we put up with."""

LOOK_S = 0.02

log = structlog.get_logger(__name__)


class Refused(Exception):  # noqa: N818 - named for what happened
    """A request that changes nothing: the status code and the words of its answer."""

    def __init__(self, code: HTTPStatus, words: str) -> None:
        super().__init__(words)
        self.code, self.words = code, words


class Lifecycle:
    """The pages that change something. Every answer but 200 and 202 means that nothing has changed."""

    def __init__(self, http: Http) -> None:
        self.http = http
        self._reloader: Reloader | None = None
        self._errands = Errands()

    def serve(self, reloader: Reloader, errands: Errands) -> None:
        """From now on there is a daemon to ask."""
        self._reloader, self._errands = reloader, errands

    def routes(self) -> list[Route]:
        """The pages."""
        pages = {"reload": self._reload} | {errand.value: self._errand(errand) for errand in Errand}
        return [Route(f"/-/{name}", self._guarded(page), methods=["POST"]) for name, page in pages.items()]

    def _guarded(self, page: Callable[[Reloader], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            try:
                reloader = await self._admit(request)
                log.info("asked for by HTTP", page=request.url.path, by=request.client and request.client.host)
                return await page(reloader)
            except Refused as refused:
                log.warning("request refused", page=request.url.path, code=refused.code.value, why=refused.words)
                headers = {"www-authenticate": "Bearer"} if refused.code is HTTPStatus.UNAUTHORIZED else {}
                return _said(refused.code, refused.words, headers)

        return guarded

    async def _admit(self, request: Request) -> Reloader:
        """See that the request may do something, and that there is a daemon to do it."""
        if not self.http.lifecycle:
            raise Refused(HTTPStatus.FORBIDDEN, "this is switched off; http.lifecycle = true switches it on")
        wanted = await asyncio.to_thread(self._token)
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("latin-1"), wanted.encode()):
            raise Refused(HTTPStatus.UNAUTHORIZED, "the bearer token is missing or wrong")
        try:
            async with asyncio.timeout(BODY_S):
                await _spare(request)
        except TimeoutError:
            raise Refused(HTTPStatus.REQUEST_TIMEOUT, f"the body did not end within {BODY_S:g} s") from None
        except ClientDisconnect:
            raise Refused(HTTPStatus.BAD_REQUEST, "the body was cut short") from None
        if self._reloader is None:
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "starting; ask again in a while")
        return self._reloader

    def _token(self) -> str:
        """The token as its file has it now, so that a new one counts at once."""
        try:
            token = revealed(self.http.token, self.http.token_file, "http.token")
        except ConfigError as error:
            log.error("no token to compare with", error=str(error))  # noqa: TRY400 - the words say it all
            token = ""
        if not token:
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "the daemon has no token to compare with; its log says why")
        return token

    async def _reload(self, reloader: Reloader) -> Response:
        verdict = await _within(reloader.ask(), WAIT_S)
        if verdict is None:
            return _said(HTTPStatus.ACCEPTED, "still being prepared; /api/status will tell")
        until = asyncio.get_running_loop().time() + WAIT_S
        while verdict.result is Result.PREPARED and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(LOOK_S)
            verdict = reloader.slot.verdict
        if verdict.result is Result.PREPARED:
            return _said(HTTPStatus.ACCEPTED, f"prepared, and taken once the loop comes round\n{verdict.words}")
        code = HTTPStatus.CONFLICT if verdict.result is Result.REFUSED else HTTPStatus.OK
        return _said(code, f"{verdict.result}: {verdict.words}")

    def _errand(self, errand: Errand) -> Callable[[Reloader], Awaitable[Response]]:
        async def page(_: Reloader) -> Response:
            done = await _within(self._errands.ask(errand), WAIT_S)
            if done is None:
                raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, f"the loop did not come round within {WAIT_S:g} s")
            return _said(HTTPStatus.OK if done.done else HTTPStatus.CONFLICT, done.words)

        return page


async def _within(asked: Future[T], wait_s: float) -> T | None:
    """What was asked for; None where it did not begin in time: then it is not asked for any more."""
    wrapped = asyncio.wrap_future(asked)
    await asyncio.wait({wrapped}, timeout=wait_s)
    if not wrapped.done() and not asked.cancel():
        await asyncio.wait({wrapped})  # it has begun
    return None if wrapped.cancelled() or asked.cancelled() else wrapped.result()


async def _spare(request: Request) -> None:
    """Let the body go by, as long as it is small."""
    large = Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is larger than {LARGEST_BODY} bytes; send none")
    if int(request.headers.get("content-length", "0")) > LARGEST_BODY:
        raise large
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > LARGEST_BODY:
            raise large


def _said(code: HTTPStatus, words: str, headers: dict[str, str] | None = None) -> Response:
    return PlainTextResponse(f"{words}\n", code.value, {"cache-control": "no-store", **(headers or {})})
