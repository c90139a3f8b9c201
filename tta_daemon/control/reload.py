"""Reload: a changed file is prepared beside the loop, and taken by the loop between two batches.

Two phases. *Preparing* reads, checks and builds all that the change needs, touches nothing, and may refuse. *Taking*
puts what was prepared in the place of the old; it builds nothing and cannot fail. What waits to be taken lies in one
slot: a newer file replaces it.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from adapters import Adapter
from tta_daemon.control.config import Change, Config, Reach, changes, load
from tta_daemon.control.faults import ConfigRefused, Fault
from tta_daemon.errors import ConfigError
from tta_daemon.model.load import Deployed
from tta_daemon.stream.decode import Decoder

LOOK_EVERY_S = 1.0
LARGEST_FILE = 1 << 20

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A configuration ready to be taken, and the components that it needs built anew; None where the old one stays."""

    config: Config
    changes: tuple[Change, ...]
    deployed: Deployed | None = None
    adapter: Adapter | None = None
    decoder: Decoder | None = None


Prepare = Callable[[Config, Config, Deployed], Prepared]
"""From the configuration in force, the new one and the deployed model; raises ConfigError to refuse."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one look at the file."""

    result: str
    words: str


class Slot:
    """One thing handed from the watcher to the loop; a newer one replaces it. Beside it, how the last look ended."""

    def __init__(self) -> None:
        self.verdict = Verdict("none", "")
        self._lock = threading.Lock()
        self._held: Prepared | None = None

    def put(self, prepared: Prepared) -> None:
        """Leave it for the loop."""
        with self._lock:
            self._held = prepared

    def take(self) -> Prepared | None:
        """Take what lies here, if anything does."""
        with self._lock:
            held, self._held = self._held, None
            return held


class Reloader:
    """Watches a configuration file by its content, and prepares what it says.

    Args:
        path: the file. It may be replaced (``mv``), rewritten, or be a link into a ConfigMap that is swapped.
        environ: what the environment says in place of the file.
        prepare: builds what a change needs.
        in_force: the configuration and model that the loop works by at this moment.
        told: called with every verdict, on the watcher's thread.
    """

    def __init__(
        self,
        path: Path,
        environ: Mapping[str, str],
        prepare: Prepare,
        in_force: Callable[[], tuple[Config, Deployed]],
        told: Callable[[Verdict], None],
    ) -> None:
        self.slot = Slot()
        self._path, self._environ = path, environ
        self._prepare, self._in_force, self._told = prepare, in_force, told
        self._digest = content_digest(path)
        self._asked = threading.Event()
        self._stopping = threading.Event()
        self._looking = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="reload", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Stop watching."""
        self._stopping.set()
        self._asked.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def ask(self) -> None:
        """Look at the file now, changed or not. Safe to call from a signal handler."""
        self._asked.set()

    def look(self) -> Verdict:
        """Read the file, check it, prepare what it needs and leave that for the loop."""
        with self._looking:
            self._digest = content_digest(self._path)
            verdict = self.slot.verdict = self._look()
        self._told(verdict)
        return verdict

    def _look(self) -> Verdict:
        waiting = self.slot.take()  # while we prepare, the loop must not move the ground under us
        in_force, deployed = self._in_force()
        try:
            new = _read(self._path, self._environ)
            found = tuple(changes(in_force, new))
            if not found:
                return Verdict("unchanged", "the file says what is in force")
            _refuse_restarts(found)
            prepared = self._prepare(in_force, new, deployed)
        except ConfigError as fault:
            if waiting is not None:
                self.slot.put(waiting)
            log.error("reload refused; everything stays as it was", reason=str(fault))  # noqa: TRY400 - the words say it all
            return Verdict("refused", str(fault))
        self.slot.put(prepared)
        return Verdict("applied", ", ".join(f"{c.path}: {c.old} -> {c.new}" for c in found))

    def _watch(self) -> None:
        while not self._stopping.is_set():
            asked = self._asked.wait(LOOK_EVERY_S)
            self._asked.clear()
            if self._stopping.is_set():
                return
            try:
                if asked or content_digest(self._path) != self._digest:
                    self.look()
            except Exception:
                log.exception("the configuration could not be looked at; trying again")
                time.sleep(LOOK_EVERY_S)


def content_digest(path: Path) -> str:
    """What tells one content of the file from another; empty where it cannot be read. Follows links."""
    try:
        with path.open("rb") as file:
            return hashlib.sha256(file.read(LARGEST_FILE + 1)).hexdigest()
    except OSError:
        return ""


def _read(path: Path, environ: Mapping[str, str]) -> Config:
    try:
        size = path.stat().st_size
    except OSError:
        size = 0
    if size > LARGEST_FILE:
        raise ConfigError(str(path), f"{size} bytes are no configuration", f"keep it below {LARGEST_FILE} bytes")
    return load(path, environ)


def _refuse_restarts(found: tuple[Change, ...]) -> None:
    stuck = [c for c in found if c.reach is Reach.RESTART]
    if stuck:
        remedy = "restart the daemon, or put the old value back"
        raise ConfigRefused([Fault(c.path, f"{c.old!r} cannot become {c.new!r} by a reload", remedy) for c in stuck])
