"""Every stream by HTTP, a page at a time: the worst first."""

import time
from collections.abc import Callable, Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from tta_daemon.control.web.board import Board
from tta_daemon.stream.records import Stream
from tta_daemon.streams.card import Card

MOST = 500
"""Streams in one answer."""

USUAL = 50


class StreamPages:
    """What `/api/streams` says."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def routes(self) -> list[Route]:
        """The pages that anybody may ask for."""
        return [Route("/api/streams", self._streams)]

    async def _streams(self, request: Request) -> Response:
        asked = request.query_params
        by, most, after = asked.get("by", "drift"), asked.get("most", str(USUAL)), asked.get("after", "0")
        if by not in ORDERS:
            return PlainTextResponse(f"by is one of {', '.join(ORDERS)}\n", 400)
        if not (most.isdecimal() and after.isdecimal() and len(most + after) < 20 and 1 <= int(most) <= MOST):  # noqa: PLR2004
            return PlainTextResponse(f"most is a number from 1 to {MOST}, after one from 0 on\n", 400)
        rows = sorted(self._board.streams, key=ORDERS[by])
        page = rows[int(after) : int(after) + int(most)]
        said = {"total": len(rows), "after": int(after), "streams": listed(page, time.time())}
        return JSONResponse(said, headers={"cache-control": "no-store"})


def listed(rows: Sequence[tuple[Stream, Card]], now: float) -> list[dict[str, object]]:
    """The rows, ready for JSON."""
    return [
        {"stream": stream.name, "partition": f"{stream.place.topic}-{stream.place.number}", **card.row(now)}
        for stream, card in rows
    ]


def _largest(value: float | None) -> float:
    return float("inf") if value is None else -value


def _smallest(value: float | None) -> float:
    return float("inf") if value is None else value


ORDERS: dict[str, Callable[[tuple[Stream, Card]], tuple[float | str, ...]]] = {
    "drift": lambda row: (_largest(row[1].drift), row[0].name),
    "gain": lambda row: (_smallest(row[1].gain), row[0].name),
    "accuracy": lambda row: (_smallest(row[1].accuracy), row[0].name),
    "images": lambda row: (-row[1].images, row[0].name),
    "seen": lambda row: (-row[1].seen_at, row[0].name),
    "name": lambda row: (row[0].name,),
}
"""What comes first, by the name of the order."""
