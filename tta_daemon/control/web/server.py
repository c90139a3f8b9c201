"""Metrics, health and status by HTTP, on a thread of its own."""

import asyncio
import errno
import socket
import threading
import time

import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from tta_daemon import __version__
from tta_daemon.control.sections import Http
from tta_daemon.control.web.board import Board, Verdict
from tta_daemon.control.web.feed import Feed
from tta_daemon.control.web.feed_pages import FeedPages
from tta_daemon.control.web.lifecycle import Lifecycle
from tta_daemon.control.web.page_files import Guarded, page_files, routes
from tta_daemon.control.web.stream_pages import StreamPages
from tta_daemon.errors import ConfigError

__all__ = ["Board", "Server"]

MOST_CONNECTIONS = 256


class Server:
    """Listens from `start` to `stop`. It reads the board and the registry; what it may change is `lifecycle`'s matter.

    Args:
        http: the ``[http]`` section.
        board: what the loop says of itself.
        registry: what Prometheus is shown.
    """

    def __init__(self, http: Http, board: Board, registry: CollectorRegistry) -> None:
        self._http = http
        self._board = board
        self._registry = registry
        board.gallery.tune(http.images)
        self.lifecycle = Lifecycle(http)
        self._feed = Feed(board, registry, lambda: self._http)
        self._feed_pages = FeedPages(self._feed, board)
        self._stream_pages = StreamPages(board)
        self._page = page_files()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._socket: socket.socket | None = None
        pages = Starlette(routes=self._routes())
        pages.router.redirect_slashes = False
        self._uvicorn = uvicorn.Server(
            uvicorn.Config(
                Guarded(pages),
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                limit_concurrency=MOST_CONNECTIONS,
                timeout_graceful_shutdown=1,
            )
        )
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    @property
    def port(self) -> int:
        """The port it listens at, also where any free one was asked for."""
        if self._socket is None:
            raise RuntimeError("the server was not started")
        port: int = self._socket.getsockname()[1]
        return port

    def start(self, timeout_s: float = 10.0) -> None:
        """Listen.

        Raises:
            ConfigError: the address cannot be listened at; `http.host` or `http.port` is named.
        """
        self._socket = _listening(self._http)
        self._thread.start()
        deadline = time.monotonic() + timeout_s
        while not self._uvicorn.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError(f"the HTTP server did not start within {timeout_s:g} s")
            time.sleep(0.005)

    def stop(self, timeout_s: float = 5.0) -> None:
        """Stop listening; requests under way have a second. Harmless where it was never started."""
        if self._loop is not None and self._thread.is_alive():
            closing = self._feed.close()
            try:
                asyncio.run_coroutine_threadsafe(closing, self._loop)
            except RuntimeError:  # it has just ended by itself
                closing.close()
        self._uvicorn.should_exit = True  # after that: a loop that has ended takes no more
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        if self._socket is not None:
            self._socket.close()

    def tune(self, http: Http) -> None:
        """Go on with other settings; host and port stay."""
        self._http = self.lifecycle.http = http
        self._board.gallery.tune(http.images)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        reading = asyncio.create_task(self._feed.keep())
        try:
            await self._uvicorn.serve(sockets=[self._socket] if self._socket else None)
        finally:
            reading.cancel()
            for connection in list(self._uvicorn.server_state.connections):
                connection.transport.abort()  # they had their second
            await asyncio.sleep(0)

    def _routes(self) -> list[Route]:
        return [Route("/", self._index), *self._pages(), self._feed_pages.pictures(), *routes(self._page)]

    def _pages(self) -> list[Route]:
        return [
            Route("/metrics", self._metrics),
            Route("/-/healthy", self._healthy),
            Route("/-/ready", self._is_ready),
            Route("/api/status", self._status),
            *self._stream_pages.routes(),
            *self._feed_pages.routes(),
            *self.lifecycle.routes(),
        ]

    async def _index(self, request: Request) -> Response:
        """The status page for a browser, a list of the pages for anybody else."""
        if "text/html" in request.headers.get("accept", ""):
            answer = await self._page["index.html"](request)
            answer.headers["vary"] = "accept"
            return answer
        posts = {route.path: "POST" in (route.methods or ()) for route in self._pages()}
        listed = {path: post for path, post in posts.items() if self._http.lifecycle or not post}
        pages = "\n".join(f"POST {path}" if post else path for path, post in listed.items())
        return PlainTextResponse(f"tta-daemon {__version__}\n\n{pages}\n", headers={"vary": "accept"})

    async def _metrics(self, request: Request) -> Response:
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._registry), headers={"content-type": kind})

    async def _healthy(self, _: Request) -> Response:
        return _said(self._board.alive(self._http.stall_s))

    async def _is_ready(self, _: Request) -> Response:
        return _said(self._board.ready)

    async def _status(self, _: Request) -> Response:
        return JSONResponse(self._board.status(), headers={"cache-control": "no-store"})


def _said(verdict: Verdict) -> Response:
    return PlainTextResponse(f"{verdict.words}\n", 200 if verdict.good else 503, {"cache-control": "no-store"})


def _listening(http: Http) -> socket.socket:
    try:
        family = socket.getaddrinfo(http.host, http.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((http.host, http.port), family=family)
    except socket.gaierror as error:
        remedy = "0.0.0.0 listens at every address, 127.0.0.1 to this machine alone"
        raise ConfigError("http.host", f"{http.host!r} is no address of this machine", remedy) from error
    except OSError as error:
        raise _refusal(http, error) from error


def _refusal(http: Http, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        remedy = "stop what listens there, choose another port, or 0 for any free one"
        return ConfigError("http.port", f"{http.host}:{http.port} is in use", remedy)
    if error.errno == errno.EACCES:
        return ConfigError("http.port", f"we may not listen at {http.port}", "choose a port from 1024 on")
    remedy = "0.0.0.0 listens at every address, 127.0.0.1 to this machine alone"
    return ConfigError("http.host", f"cannot listen at {http.host!r}: {error.strerror}", remedy)
