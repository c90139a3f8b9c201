"""What belongs to one stream beside the tensors that its adapter has learned."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from adapters import Memory
from tta_daemon.control.sections import Guard as Settings
from tta_daemon.model.load import Deployed
from tta_daemon.watch.guard import Guard
from tta_daemon.watch.watching import Watch, watch_of

GUARD, WATCH = "guard/", "watch/"
"""What the names of their tensors begin with in a checkpoint."""


@dataclass(slots=True, eq=False)
class Life:
    """A stream's own judgement, and its memory of its past.

    Attributes:
        guard: whose answers leave, and what is learned from.
        watch: how far this stream has drifted; None where nothing is known of the source.
        batches: answered since birth, those apart that were learned from before.
        drifted: whether there is anything to adapt to.
    """

    guard: Guard
    watch: Watch | None = None
    batches: int = 0
    drifted: bool = True

    @classmethod
    def new(cls, deployed: Deployed, guard: Settings) -> "Life":
        """Nothing has been seen yet."""
        return cls(Guard(guard), watch_of(deployed))

    def dump(self) -> Memory:
        """A copy of all that was seen, for the checkpoint."""
        kept = {f"{GUARD}{name}": tensor for name, tensor in self.guard.dump().items()}
        watched = self.watch.dump() if self.watch is not None else {}
        return kept | {f"{WATCH}{name}": tensor for name, tensor in watched.items()}

    def load(self, saved: Memory, batches: int) -> None:
        """Go on where ``saved`` was taken; what does not fit begins anew, which does no harm."""
        self.batches = batches
        try:
            self.guard.load(_of(GUARD, saved.items()))
        except (KeyError, ValueError, RuntimeError):
            self.guard.departed()  # a state from before there was a guard
        if self.watch is not None:
            self.watch.resume(_of(WATCH, saved.items()))


def _of(part: str, saved: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    return {name.removeprefix(part): tensor for name, tensor in saved if name.startswith(part)}
