"""One log for everything: ours and the libraries', for a machine or for a person, repeats held back."""

import logging
import re
import sys
import time
from collections.abc import Callable
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor

from tta_daemon.control.sections import Log

LIBRARIES = {"uvicorn": logging.WARNING, "asyncio": logging.WARNING, "matplotlib": logging.WARNING}
MOST_REMEMBERED = 1000
NUMBER = re.compile(r"0x[0-9a-f]+|\d+(\.\d+)?")
"""What may differ between two messages that say the same."""


class Repeats(logging.Filter):
    """Lets a warning through once in ``every_s``; the next one says how many were held back.

    Errors of libraries are held back alike: a broker that is away is one event, not a page a second. Ours never are.
    """

    def __init__(self, every_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._every_s, self._clock = every_s, clock
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
        repeatable = record.levelno == logging.WARNING or not record.name.startswith("tta_daemon")
        if record.levelno < logging.WARNING or not repeatable:
            return True
        event = record.msg.get("event") if isinstance(record.msg, dict) else record.msg
        what, now = (record.name, NUMBER.sub("#", str(event))), self._clock()
        at, held = self._seen.get(what, (-self._every_s, 0))
        if now - at < self._every_s:
            self._seen[what] = (at, held + 1)
            return False
        if len(self._seen) >= MOST_REMEMBERED:
            self._seen.clear()
        self._seen[what] = (now, 0)
        if held and isinstance(record.msg, dict):
            record.msg = {**record.msg, "held_back": held}
        elif held:
            record.held_back = held
        return True


def configure(log: Log, stream: TextIO | None = None) -> None:
    """Log to ``stream`` (standard output) from now on; may be called again when the settings change."""
    out = stream or sys.stdout
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.PositionalArgumentsFormatter(),
    ]
    handler = logging.StreamHandler(out)
    handler.addFilter(Repeats())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_last(log, out)],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(log.level.upper())
    for name, level in LIBRARIES.items():
        logging.getLogger(name).setLevel(level)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


def _last(log: Log, out: TextIO) -> list[Processor]:
    """What turns an event into a line."""
    if log.format == "console" or (log.format == "auto" and out.isatty()):
        plain = structlog.dev.plain_traceback  # the others print local variables, records among them
        return [structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=plain)]
    return [
        structlog.processors.format_exc_info,
        structlog.processors.EventRenamer("message"),
        _headed,
        structlog.processors.JSONRenderer(ensure_ascii=False, default=str),
    ]


def _headed(_logger: object, _method: str, event: EventDict) -> EventDict:
    """When, how bad, who and what come first, for the eye that reads JSON after all."""
    head = {name: event[name] for name in ("timestamp", "level", "logger", "message") if name in event}
    return {**head, **event}
