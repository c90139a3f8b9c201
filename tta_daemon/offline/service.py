"""The daemon as its users run it: a process of its own with a configuration file, watched by its HTTP pages."""

import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from prometheus_client.parser import text_string_to_metric_families

from tta_daemon.control.asking import NoAnswer, ask, good
from tta_daemon.errors import TtaError


class ServiceFailed(TtaError):  # noqa: N818 - named for what happened
    """The daemon did not do what it should; the message ends with the last lines of its log."""


class Service:
    """`tta-daemon run --config FILE` as a child process. Leaving the block ends it, by force if it must.

    Args:
        config: the configuration file.
        url: where it says that the daemon listens.
        log: the file that the daemon's output goes to.
    """

    def __init__(self, config: Path, url: str, log: Path) -> None:
        self.url = url
        self.log = log
        self._command = [sys.executable, "-m", "tta_daemon.cli", "run", "--config", str(config)]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id, while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def __enter__(self) -> Self:
        """Start it; it is not ready yet."""
        return self.start()

    def start(self) -> Self:
        """Start it; it is not ready yet."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TTA_")}
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own command line
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C in this terminal is for us; we end the daemon in our own time
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it, whatever happened."""
        self.kill()

    def kill(self) -> None:
        """End it at once (SIGKILL), if it still runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def getting_ready(self, timeout_s: float) -> Iterator[None]:
        """Ask `/-/ready` ten times a second until it says yes: the model is loaded and the broker reached.

        Raises:
            ServiceFailed: it ended, or was not ready in time.
        """
        deadline = time.monotonic() + timeout_s
        while not self._is_ready():
            self.must_run()
            if time.monotonic() > deadline:
                raise ServiceFailed(f"the daemon was not ready within {timeout_s:g} s{self.last_words()}")
            yield
            time.sleep(0.1)

    def must_run(self) -> None:
        """Raise ServiceFailed if the daemon has ended by itself."""
        if self._process is not None and (code := self._process.poll()) is not None:
            raise ServiceFailed(f"the daemon ended with exit code {code}{self.last_words()}")

    def metrics(self) -> dict[str, float]:
        """Return what `/metrics` says now, as Prometheus would read it: `name{label="value"}` to number.

        Empty where the daemon is too busy to say.
        """
        try:
            code, text = ask(self.url, "/metrics")
        except NoAnswer:
            return {}
        if not good(code):
            return {}
        return {
            _series(sample.name, sample.labels): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def stop(self, timeout_s: float) -> int:
        """Ask it to drain and end (SIGTERM), and return its exit code.

        Raises:
            ServiceFailed: it was still running when the time was over.
        """
        if self._process is None:
            raise RuntimeError("not started")
        self._process.terminate()
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ServiceFailed(f"SIGTERM did not end the daemon within {timeout_s:g} s{self.last_words()}") from None

    def last_words(self, lines: int = 20) -> str:
        """Return the end of its log, for a message."""
        with self.log.open(errors="replace") as log:
            tail = deque(log, maxlen=lines)
        return f". Its log ends with:\n{''.join(tail)}" if tail else ". It said nothing"

    def _is_ready(self) -> bool:
        try:
            code, _ = ask(self.url, "/-/ready")
        except NoAnswer:
            return False
        return good(code)


def _series(name: str, labels: dict[str, str]) -> str:
    """Write a series as Prometheus does.

    >>> _series("tta_accuracy_ratio", {"window": "all", "model": "source"})
    'tta_accuracy_ratio{model="source",window="all"}'
    """
    inside = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
    return f"{name}{{{inside}}}" if inside else name
