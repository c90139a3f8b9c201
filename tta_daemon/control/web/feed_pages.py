"""The feed by HTTP: one document to whoever asks, one a second to whoever stays."""

import asyncio
import json
import math
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from tta_daemon.control.web.board import Board
from tta_daemon.control.web.feed import Cursor, Feed
from tta_daemon.control.web.in_force import in_force

MOST_WATCHERS = 16
"""Streams at once; whoever comes later asks again and again instead."""

FRESH = {"cache-control": "no-store", "x-accel-buffering": "no"}


class FeedPages:
    """What the status page asks for."""

    def __init__(self, feed: Feed, board: Board) -> None:
        self._feed, self._board = feed, board
        self._watchers = 0

    def routes(self) -> list[Route]:
        """The pages that anybody may ask for."""
        pages = {"history": self._ask, "events": self._stay, "settings": self._settings}
        return [Route(f"/api/{name}", page) for name, page in pages.items()]

    def pictures(self) -> Route:
        """The page of one picture."""
        return Route("/api/images/{number:int}.png", self._picture)

    async def _ask(self, request: Request) -> Response:
        try:
            cursor = _cursor(request)
        except ValueError as error:
            return PlainTextResponse(f"{error}\n", 400)
        return JSONResponse(_strict(self._feed.document(cursor)[0]), headers=FRESH)

    async def _stay(self, request: Request) -> Response:
        try:
            cursor = _cursor(request)
        except ValueError as error:
            return PlainTextResponse(f"{error}\n", 400)
        if self._watchers >= MOST_WATCHERS or self._feed.closed:
            return PlainTextResponse("too many watch already; ask /api/history\n", 503, {"retry-after": "30"})
        stream = self._stream(cursor) if request.method == "GET" else iter(())
        return StreamingResponse(stream, media_type="text/event-stream", headers=FRESH)

    async def _stream(self, cursor: Cursor) -> AsyncIterator[str]:
        """A document a second; each also says that we are still here. Nobody's slowness piles anything up."""
        self._watchers += 1
        try:
            while not self._feed.closed:
                document, cursor = self._feed.document(cursor)
                yield f"id: {document['cursor']}\ndata: {json.dumps(_strict(document), separators=(',', ':'))}\n\n"
                await self._feed.turned()
        finally:
            self._watchers -= 1

    async def _settings(self, _: Request) -> Response:
        known = self._board.status().get("config", {})
        return JSONResponse({"digest": known.get("digest"), "rows": in_force(known.get("settings", {}))}, headers=FRESH)

    async def _picture(self, request: Request) -> Response:
        png = await asyncio.to_thread(self._board.gallery.png, request.path_params["number"])
        if png is None:
            return PlainTextResponse("not here any more\n", 404, FRESH)
        return Response(png, media_type="image/png", headers=FRESH)


def _cursor(request: Request) -> Cursor:
    """What a browser that lost the stream says goes before what the page said at first."""
    asked = request.query_params
    return Cursor.parse(asked.get("span"), request.headers.get("last-event-id") or asked.get("cursor"))


def _strict(value: Any) -> Any:  # noqa: ANN401 - what JSON holds
    """The same without NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {name: _strict(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_strict(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
