"""What was learned by methods that were left, for when one of them returns."""

from typing import NamedTuple

import torch

from adapters import Adapter, Memory
from tta_daemon.control.snapshot import Identity

MOST_LEFT = 4
"""States of methods that were left which are remembered: the latest."""

DICE = ("dice._extra_state/state",)
"""Where an adapter's memory holds its randomness."""

Fortune = tuple[int, torch.device]
"""What an adapter's randomness comes from."""


class _State(NamedTuple):
    memory: Memory
    fortune: Fortune


class Left:
    """Bounded: the latest few are remembered, by what they belong to."""

    def __init__(self) -> None:
        self._states: dict[frozenset[tuple[str, str]], _State] = {}

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._states)

    def leave(self, identity: Identity, adapter: Adapter, fortune: Fortune) -> None:
        """Remember what an adapter has learned."""
        self._states[frozenset(identity.items())] = _State(adapter.dump(), fortune)

    def give_back(self, identity: Identity, adapter: Adapter, fortune: Fortune) -> None:
        """Let the adapter go on where its like was left, if it was; with new randomness, where that is wanted.

        Raises:
            ValueError, KeyError, RuntimeError: what was learned does not fit.
        """
        state = self._states.pop(frozenset(identity.items()), None)
        while len(self._states) > MOST_LEFT:
            del self._states[next(iter(self._states))]
        if state is not None:
            dice = {} if state.fortune == fortune else {n: t for n, t in adapter.dump().items() if n in DICE}
            adapter.load({**state.memory, **dice})
