"""What a person sees of the demo: a live picture in a terminal, a line every few seconds where there is none."""

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
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
from tta_daemon.offline.scoreboard import Reading, Score, Scoreboard

ADAPTED, SOURCE = "bold cyan", "yellow"
NARROW = 104
"""Below this width pictures are drawn small."""

LINE_EVERY_S = 3.0


@dataclass(slots=True)
class Moment:
    """What is known right now: what was sent, what came out, what the daemon says of itself."""

    board: Scoreboard
    sent: int
    metrics: Mapping[str, float]
    seconds: float
    per_second: float

    @property
    def lag(self) -> float:
        """Records that the daemon has not read yet."""
        return sum(value for name, value in self.metrics.items() if name.startswith("tta_consumer_lag_records"))

    @property
    def stretch(self) -> int:
        """Where in the journey the last answered photo was taken."""
        recent = self.board.recent
        return recent[-1].photo.stretch if recent else 0

    def metric(self, name: str) -> str:
        """Write a metric for a person; a dash before it has a value."""
        value = self.metrics.get(name, float("nan"))
        return "-" if value != value else f"{value:.2f}"  # noqa: PLR0124 - not a number


@dataclass(slots=True)
class Pace:
    """Records per second over the last few seconds."""

    over_s: float = 4.0
    _seen: deque[tuple[float, int]] = field(default_factory=deque)

    def at(self, now: float, count: int) -> float:
        """Note how many records had come by now, and return the pace."""
        self._seen.append((now, count))
        while now - self._seen[0][0] > self.over_s:
            self._seen.popleft()
        (then, before) = self._seen[0]
        return (count - before) / (now - then) if now > then else 0.0


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
            self._console.print(said(moment), highlight=False, soft_wrap=True)


def said(moment: Moment) -> str:
    """Put a moment into one line, for a log."""
    board, lately = moment.board, moment.board.lately
    return (
        f"{moment.seconds:4.0f} s  {board.journey[moment.stretch].world:12}  "
        f"answered {board.answered:,} of {len(board.sent):,}  {moment.per_second:3.0f}/s  lag {moment.lag:.0f}  "
        f"right lately: adapted {_percent(lately.adapted)}, frozen {_percent(lately.source)}"
    )


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
        _numbers(moment),
    )
    title = "tta-daemon: one digit a record, through Kafka"
    return Panel(Group(*parts), title=title, width=min(width, 120), padding=(0, 1))


def _photos(moment: Moment, inside: int) -> RenderableType:
    side = 14 if inside < NARROW else 20
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
            Text(f"{_percent(now)} lately", "bold"),
            Text(f"{_percent(ever)} in all"),
            Text(sparkline(history, room), style),
        )
    return table


def _history(board: Scoreboard) -> tuple[list[float], list[float]]:
    scores = [score for score in board.scores if score.images]
    return [score.adapted for score in scores], [score.source for score in scores]


def _numbers(moment: Moment) -> RenderableType:
    board = moment.board
    facts = {
        "records/s": f"{moment.per_second:.0f}",
        "lag": f"{moment.lag:.0f}",
        "answered": f"{board.answered:,}",
        "dead-lettered": f"{len(board.buried)}",
        "entropy adapted": moment.metric('tta_answer_entropy_nats{model="adapted"}'),
        "entropy frozen": moment.metric('tta_answer_entropy_nats{model="source"}'),
        "agreement": moment.metric("tta_agreement_ratio"),
        "steps learned": f"{moment.metrics.get('tta_adaptation_steps_total', 0):.0f}",
    }
    return Columns(
        [Text.assemble((f"{name} ", "dim"), (value, "bold")) for name, value in facts.items()], padding=(0, 3)
    )


def result(board: Scoreboard) -> Table:
    """Return the table that the demo ends with: how often each model was right in each world."""
    table = Table(title="Digits read correctly", title_justify="left")
    table.add_column("the world")
    for name in ("photos", "frozen model", "adapted", "gain"):
        table.add_column(name, justify="right")
    for world, score in board.domains().items():
        table.add_row(world, *_row(score))
    table.add_section()
    table.add_row("the whole stream", *_row(board.total), style="bold")
    return table


def _row(score: Score) -> tuple[str, ...]:
    gain = f"{100 * (score.adapted - score.source):+.1f}"
    return f"{score.images:,}", _percent(score.source), _percent(score.adapted), gain


def _percent(share: float) -> str:
    return "-" if share != share else f"{100 * share:.1f} %"  # noqa: PLR0124 - not a number
