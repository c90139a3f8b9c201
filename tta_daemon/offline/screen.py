"""What a person sees of the demo: a live picture in a terminal, a line every few seconds where there is none."""

import time
from types import TracebackType
from typing import Self

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tta_daemon.offline.blocks import picture, sparkline
from tta_daemon.offline.moment import Moment, percent
from tta_daemon.offline.scoreboard import Reading, Scoreboard

ADAPTED, SOURCE = "bold cyan", "yellow"
NARROW = 104
"""Below this width pictures are drawn small."""

COLUMN = 23
"""About as wide as a fact is."""

LINE_EVERY_S = 3.0


class Screen:
    """Shows moments until it is left; what it drew is then gone, so that the result can take its place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._said_at = 0.0

    def __enter__(self) -> Self:
        """Begin to draw."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the terminal back."""
        if self._live is not None:
            self._live.stop()

    def show(self, moment: Moment) -> None:
        """Draw a moment."""
        if self._live is not None:
            self._live.update(drawn(moment, self._console.width), refresh=True)
        elif time.monotonic() - self._said_at >= LINE_EVERY_S:
            self._said_at = time.monotonic()
            self._console.print(moment.said(), highlight=False, soft_wrap=True)


def drawn(moment: Moment, width: int) -> RenderableType:
    """Draw a moment for a terminal ``width`` characters wide."""
    board = moment.board
    inside = min(width, 120) - 4
    world = board.journey[moment.stretch].world
    head = Table.grid(expand=True)
    head.add_row(
        Text.assemble("The world now: ", (world, "bold")),
        Text(f"stretch {moment.stretch + 1} of {len(board.journey)} · {moment.seconds:.0f} s", justify="right"),
    )
    parts = (
        head,
        ProgressBar(total=len(board.sent), completed=board.answered + len(board.buried), width=inside),
        Text(),
        _photos(moment, inside),
        Text(),
        _accuracy(board, inside),
        Text(),
        _numbers(moment, inside),
    )
    title = "tta-daemon: one digit a record, through Kafka"
    return Panel(Group(*parts), title=title, width=min(width, 120), padding=(0, 1))


def _photos(moment: Moment, inside: int) -> RenderableType:
    side = 16 if inside < NARROW else 20
    most = inside // (side + 2)
    here = [reading for reading in moment.board.recent if reading.photo.stretch == moment.stretch]
    if not here:
        return Padding(Text("waiting for the first answers"), (side // 4, 0))
    return Columns([_photo(reading, side) for reading in here[-most:]], padding=(0, 2))


def _photo(reading: Reading, side: int) -> RenderableType:
    label = reading.photo.label
    return Group(
        *picture(reading.photo.image, side),
        _verdict("adapted", reading.adapted, label, ADAPTED),
        _verdict("frozen ", reading.source, label, SOURCE),
    )


def _verdict(who: str, answer: int, label: int, style: str) -> Text:
    mark = ("✓", "green") if answer == label else ("✗", "bold red")
    return Text.assemble((who, style), f" {answer} ", mark)


def _accuracy(board: Scoreboard, inside: int) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    lately, total = board.lately, board.total
    room = max(10, (inside - 50) // 2)
    adapted, source = _history(board)
    for who, style, now, ever, history in (
        ("adapted", ADAPTED, lately.adapted, total.adapted, adapted),
        ("frozen", SOURCE, lately.source, total.source, source),
    ):
        bar = "█" * round(room * now) if lately.images else ""
        table.add_row(
            Text(who, style),
            Text(bar.ljust(room, "░"), style),
            Text(f"{percent(now)} lately", "bold"),
            Text(f"{percent(ever)} in all"),
            Text(sparkline(history, room), style),
        )
    return table


def _history(board: Scoreboard) -> tuple[list[float], list[float]]:
    scores = [score for score in board.scores if score.images]
    return [score.adapted for score in scores], [score.source for score in scores]


def _numbers(moment: Moment, inside: int) -> RenderableType:
    table = Table.grid(padding=(0, 3))
    cells = [Text.assemble((f"{name} ", "dim"), (value, "bold")) for name, value in moment.facts().items()]
    abreast = max(1, inside // COLUMN)
    for start in range(0, len(cells), abreast):
        table.add_row(*cells[start : start + abreast])
    return table
