"""What belongs to one stream beside the tensors that its adapter has learned."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters import Memory
from tta_daemon.control.sections import Guard as Settings
from tta_daemon.model.load import Deployed
from tta_daemon.watch.guard import Guard
from tta_daemon.watch.watching import Watch, watch_of

GUARD, WATCH = "guard/", "watch/"
"""What the names of their tensors begin with in a checkpoint."""

PACE = "pace"
"""The name of what else there is: `Life.sampled` and `Life.drifted`."""


@dataclass(slots=True, eq=False)
class Life:
    """A stream's own judgement, and its memory of its past.

    Attributes:
        guard: whose answers leave, and what is learned from.
        watch: how far this stream has drifted; None where nothing is known of the source.
        batches: answered since birth, those apart that were learned from before.
        drifted: whether there is anything to adapt to.
        sampled: what has gathered of a batch's right to be seen by the frozen model; at 1 one is.
    """

    guard: Guard
    watch: Watch | None = None
    batches: int = 0
    drifted: bool = True
    sampled: float = 0.0

    @classmethod
    def new(cls, deployed: Deployed, guard: Settings, now: float) -> "Life":
        """Nothing has been seen yet; ``now`` is in seconds, and labels of answers from before mean others."""
        return cls(Guard(guard, now), watch_of(deployed))

    def dump(self) -> Memory:
        """A copy of all that was seen, for the checkpoint."""
        kept = {f"{GUARD}{name}": tensor for name, tensor in self.guard.dump().items()}
        watched = self.watch.dump() if self.watch is not None else {}
        kept |= {f"{WATCH}{name}": tensor for name, tensor in watched.items()}
        return kept | {PACE: torch.tensor([self.sampled, self.drifted], dtype=torch.float64)}

    def load(self, saved: Memory, batches: int) -> None:
        """Go on where ``saved`` was taken; what does not fit begins anew, which does no harm."""
        self.batches = batches
        if (pace := saved.get(PACE)) is not None and pace.numel() == 2:  # noqa: PLR2004 - both
            self.sampled, self.drifted = float(pace[0]), bool(pace[1])
        try:
            self.guard.load(_of(GUARD, saved.items()))
        except (KeyError, ValueError, RuntimeError, IndexError):
            self.guard = Guard(self.guard.settings)  # a state of an older version
        if self.watch is not None:
            self.watch.resume(_of(WATCH, saved.items()))


def _of(part: str, saved: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    return {name.removeprefix(part): tensor for name, tensor in saved if name.startswith(part)}
