"""A daemon in memory whose configuration is a file, in one call."""

from pathlib import Path

from torch import Tensor
from world import Memory

from tta_daemon.assemble import prepare
from tta_daemon.control.checkpoint import Checkpoint
from tta_daemon.control.config import load
from tta_daemon.control.reload import Reloader
from tta_daemon.control.slot import Slot, Verdict
from tta_daemon.control.toml import document
from tta_daemon.stream.memory_log import MemoryLog

Sections = dict[str, dict[str, object]]

BASE: Sections = {
    "model": {"factory": "world:network", "input_size": [16, 16], "threads": 1},
    "batch": {"size": 8, "patience_s": 0.0},
    "adapt": {"method": "tent", "learn_from": 4},
    "settle": {"every_s": 0.001},
    "kafka": {"labels_topic": "labels"},
}


def settings(**sections: dict[str, object]) -> Sections:
    """The settings of the small daemon; what is given wins, table by table."""
    return {name: BASE.get(name, {}) | sections.get(name, {}) for name in dict.fromkeys([*BASE, *sections])}


class Reloaded(Memory):
    """A daemon in memory and the watcher of its file; the watcher looks when it is told to."""

    def __init__(self, folder: Path, log: MemoryLog | None = None, checkpoint: Checkpoint | None = None) -> None:
        self.file = folder / "config.toml"
        if not self.file.exists():
            self.write()
        super().__init__(load(self.file, {}), log, checkpoint)
        self.said: list[Verdict] = []
        self.reloader = Reloader(self.file, {}, prepare, self.slot, self.said.append)

    @property
    def slot(self) -> Slot:
        """The slot between the two."""
        return self.daemon.slot

    def write(self, **sections: dict[str, object]) -> None:
        """Put these settings in the place of the file, at once as a whole."""
        self.put(document(settings(**sections)).encode())

    def put(self, content: bytes) -> None:
        """Put this in the place of the file."""
        fresh = self.file.with_name("fresh")
        fresh.write_bytes(content)
        fresh.replace(self.file)

    def reload(self, **sections: dict[str, object]) -> Verdict:
        """Write these settings, look at them, and let the loop take them if they are good."""
        self.write(**sections)
        verdict = self.reloader.look()
        self.daemon.orders.take_over()
        return verdict

    def go_on(self) -> None:
        """Turn until everything that was sent is answered and settled."""
        if not hasattr(self.daemon, "source"):
            self.daemon.connect()
        for _ in range(1000):
            self.daemon.turn()
            if not (sum(self.daemon.source.lag().values()) or self.daemon.ledger.open_count):
                break
        else:
            raise AssertionError("the daemon does not come to rest")
        self.daemon.settle()

    def memory(self) -> dict[str, Tensor]:
        """A copy of everything learned."""
        return dict(self.daemon.learner.adapter.dump())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two memories are equal, bit for bit."""
    return set(one) == set(other) and all(one[name].equal(other[name]) for name in one)
