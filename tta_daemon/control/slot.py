"""The slot between the watcher of the configuration and the loop: what was prepared, and how the last look ended."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from adapters import Adapter
from tta_daemon.control.config import Change, Config
from tta_daemon.model.load import Deployed
from tta_daemon.stream.decode import Decoder

if TYPE_CHECKING:
    from tta_daemon.model.deputy import Deputy


class Result(StrEnum):
    """How a look at the file ended: a closed set, because it becomes a metric's label."""

    NONE = "none"
    PREPARED = "prepared"
    APPLIED = "applied"
    REFUSED = "refused"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one look at the file, in words, and when."""

    result: Result
    words: str
    at: float = field(default_factory=time.time)

    def status(self) -> dict[str, str]:
        """Ready to be shown."""
        when = datetime.fromtimestamp(self.at, UTC).isoformat(timespec="seconds")
        return {"result": self.result, "words": self.words, "at": when}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A configuration ready to be taken, and the components that it needs built anew; None where the old one stays."""

    config: Config
    changes: tuple[Change, ...]
    deployed: Deployed | None = None
    adapter: Adapter | None = None
    decoder: Decoder | None = None
    deputy: "Deputy | None" = None


class Standing(NamedTuple):
    """What the loop goes by."""

    config: Config
    deployed: Deployed


Prepare = Callable[[Config, Config, Deployed], Prepared]
"""From the configuration in force, the new one and the deployed model; raises ConfigError to refuse."""


class Slot:
    """One thing handed from the watcher to the loop; a newer one replaces it. Beside it, how the last look ended."""

    def __init__(self, config: Config, deployed: Deployed) -> None:
        self.verdict = Verdict(Result.NONE, "")
        self.refusal: Verdict | None = None
        self._lock = threading.Lock()
        self._held: Prepared | None = None
        self._of_taken = self.verdict
        self._standing = Standing(config, deployed)

    def put(self, prepared: Prepared | None, verdict: Verdict) -> None:
        """For the watcher: leave this for the loop, if anything; so the last look ended."""
        with self._lock:
            self._held = prepared
            self.verdict = verdict
            if verdict.result is Result.REFUSED:
                self.refusal = verdict

    def withdraw(self) -> tuple[Standing, Prepared | None]:
        """For the watcher: what is in force, and what lay here. While the slot is empty, the one stays true."""
        with self._lock:
            held, self._held = self._held, None
            return self._standing, held

    def take(self, *, with_decoder: bool = True) -> Prepared | None:
        """For the loop: take what lies here, if it may have a decoder or has none. It counts as in force from now."""
        with self._lock:
            held = self._held
            if held is None or (held.decoder is not None and not with_decoder):
                return None
            self._held, self._of_taken = None, self.verdict
            self._standing = Standing(held.config, held.deployed or self._standing.deployed)
            return held

    def taken(self) -> Verdict:
        """For the loop: it goes by what it took. The last look may have been at a newer file, or at a bad one."""
        with self._lock:
            if self.verdict is self._of_taken and self.verdict.result is Result.PREPARED:
                self.verdict = Verdict(Result.APPLIED, self.verdict.words)
            return self.verdict

    def status(self) -> dict[str, object]:
        """How the last look ended, and the last one that was refused; ready to be shown."""
        return {**self.verdict.status(), "last_refusal": self.refusal.status() if self.refusal else None}
