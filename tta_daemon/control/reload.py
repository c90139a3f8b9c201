"""Reload: a changed file is prepared beside the loop, and taken by the loop between two batches.

Two phases. *Preparing* reads, checks and builds all that the change needs, touches nothing, and may refuse. *Taking*
puts what was prepared in the place of the old; it builds nothing and cannot fail. What waits to be taken lies in one
slot: a newer file replaces it.
"""

import hashlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue

import structlog

from tta_daemon.control.config import LARGEST_FILE, Change, Config, Reach, changes, read
from tta_daemon.control.faults import ConfigRefused, Fault
from tta_daemon.control.slot import Prepare, Prepared, Result, Slot, Standing, Verdict
from tta_daemon.control.toml import written
from tta_daemon.errors import ConfigError

LOOK_EVERY_S = 1.0
STILL_S = 0.1
"""How long a file must hold still before it is read: whoever writes it may not be done."""

SWITCH_S = 0.0005
"""How long Python computes for the preparation before it looks whether the loop wants to."""

NEVER = "never"

log = structlog.get_logger(__name__)


class Reloader:
    """Watches a configuration file by its content, and prepares what it says.

    Args:
        path: the file. It may be replaced (``mv``), rewritten, or be a link into a ConfigMap that is swapped.
        environ: what the environment says in place of the file.
        prepare: builds what a change needs.
        slot: where that waits for the loop.
        told: called with every verdict, on the thread that looked.
    """

    def __init__(
        self,
        path: Path,
        environ: Mapping[str, str],
        prepare: Prepare,
        slot: Slot,
        told: Callable[[Verdict], None] = lambda _: None,
    ) -> None:
        self.slot = slot
        self._path, self._environ = path, environ
        self._prepare, self._told = prepare, told
        self._looked_at = self._seen = NEVER  # the file may have changed since it was read for the start
        self._asked: SimpleQueue[Future[Verdict] | None] = SimpleQueue()  # its put may interrupt itself: signals do
        self._looking = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="reload", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Stop watching."""
        self._asked.put(None)
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def ask(self) -> Future[Verdict]:
        """Have the file looked at now, changed or not. Safe to call from a signal handler."""
        asked: Future[Verdict] = Future()
        self._asked.put(asked)
        return asked

    def look(self) -> Verdict:
        """Read the file, check it, prepare what it needs and leave that for the loop."""
        with self._looking:
            first = self._looked_at == NEVER
            self._looked_at = self._seen = content_digest(self._path)
            with _yielding():
                verdict = self._look()
            if not (first and verdict.result is Result.UNCHANGED):
                self._told(verdict)
        return verdict

    def _look(self) -> Verdict:
        standing, waiting = self.slot.withdraw()
        try:
            new, places = read(self._path, self._environ)
            found = tuple(changes(standing.config, new))
            try:
                ready = self._built(standing, new, found)
            except ConfigError as error:
                raise places.added(error) from error
        except (Exception, SystemExit) as fault:  # noqa: BLE001 - whatever it is, the daemon goes on as it was
            ready, verdict = waiting, _refusal(fault)
        else:
            words = "; ".join(f"{c.path}: {c.old} -> {c.new}" for c in found)
            verdict = Verdict(Result.PREPARED, words) if found else Verdict(Result.UNCHANGED, "it is in force already")
        self.slot.put(ready, verdict)
        return verdict

    def _built(self, standing: Standing, new: Config, found: tuple[Change, ...]) -> Prepared | None:
        _refuse_restarts(found)
        return self._prepare(standing.config, new, standing.deployed) if found else None

    def _watch(self) -> None:
        while (asked := self._wait()) is not None:
            if asked or self._changed():
                verdict = self.look()
                for future in asked:
                    with suppress(Exception):  # nobody waits for it any more
                        future.set_result(verdict)

    def _wait(self) -> list[Future[Verdict]] | None:
        """Whoever asked for a look, after a while also nobody; None when it is time to stop."""
        asked: list[Future[Verdict]] = []
        try:
            while (future := self._asked.get(not asked, self._patience_s())) is not None:
                asked.append(future)
        except Empty:
            return asked
        for left in asked:
            left.cancel()
        return None

    def _patience_s(self) -> float:
        return LOOK_EVERY_S if self._seen == self._looked_at else STILL_S

    def _changed(self) -> bool:
        """Whether the file holds something else than at the last look, and holds still."""
        before, self._seen = self._seen, content_digest(self._path)
        return before == self._seen != self._looked_at


def content_digest(path: Path) -> str:
    """What tells one content of the file from another; empty where it cannot be read. Follows links."""
    try:
        with path.open("rb") as file:
            return hashlib.sha256(file.read(LARGEST_FILE + 1)).hexdigest()
    except OSError:
        return ""


@contextmanager
def _yielding() -> Iterator[None]:
    """Let other threads compute more often than Python would: the loop must not stand still while we prepare."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _refusal(fault: Exception | SystemExit) -> Verdict:
    if isinstance(fault, ConfigError):
        log.error("reload refused; everything stays as it was", reason=str(fault))
        return Verdict(Result.REFUSED, str(fault))
    log.error("reload refused; everything stays as it was", exc_info=fault)
    return Verdict(Result.REFUSED, f"it could not be prepared: {type(fault).__name__}: {fault}")


def _refuse_restarts(found: tuple[Change, ...]) -> None:
    stuck = [c for c in found if c.reach is Reach.RESTART]
    if stuck:
        remedy = "restart the daemon, or put the old value back"
        raise ConfigRefused([Fault(change.path, _stuck(change), remedy) for change in stuck])


def _stuck(change: Change) -> str:
    if change.old == change.new:  # both hidden
        return "a secret cannot change by a reload"
    return f"{written(change.old)} cannot become {written(change.new)} by a reload"
