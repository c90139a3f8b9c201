"""Learning on demand keeps its bounds, whatever the stream does: share of time, every n-th batch, lag, drift."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nets import images
from world import config

import adapters
from tta_daemon.control.sections import Adapt
from tta_daemon.learner import Learner
from tta_daemon.model.load import load
from tta_daemon.speakers import Speakers


@dataclass(frozen=True)
class Turn:
    """Of one batch: how long it was waited for, how old it is, whether there is drift, how long learning takes."""

    waited_s: float
    lag_s: float
    drifted: bool
    learning_s: float


class Slow:
    """A learner on a clock that moves only while it waits and learns."""

    def __init__(self, adapt: Adapt, deployed, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.learner = Learner(deployed, adapt, 0.0, config().guard, lambda: self.now)
        self.started: list[tuple[float, float]] = []
        self.takes_s = 0.0
        monkeypatch.setattr(adapters, "answer", self._answer)
        monkeypatch.setattr(Speakers, "adapted", lambda _, x: torch.zeros(len(x), 5))

    def _answer(self, _, x):
        def learn():
            self.started.append((self.now, self.takes_s))
            self.now += self.takes_s
            return {}

        return adapters.Answer(torch.zeros(len(x), 5), learn)

    def turn(self, turn: Turn, batch) -> bool:
        """Whether this batch was learned from."""
        self.now += turn.waited_s
        self.takes_s = turn.learning_s
        before = len(self.started)
        self.learner.answer(batch, turn.lag_s).learn()
        return len(self.started) > before


SECONDS = st.floats(0.0, 10.0)
TURNS = st.lists(st.builds(Turn, SECONDS, SECONDS, st.booleans(), SECONDS), min_size=1, max_size=25)
DEPLOYED = load(config().model)
BATCH = images(8)

many = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@many
@given(turns=TURNS, budget=st.floats(0.01, 1.0))
def test_learning_never_takes_more_than_its_share_of_the_time_nor_rests_longer(turns, budget):
    with pytest.MonkeyPatch.context() as monkeypatch:
        slow = Slow(Adapt(method="tent", learn_from=4, budget=budget), DEPLOYED, monkeypatch)
        for turn in turns:
            last = slow.started[-1] if slow.started else None
            learned = slow.turn(turn, BATCH)
            if last is not None and not learned:
                assert slow.now < last[0] + last[1] / budget + 1e-6, "it rested longer than it had to"
        first = slow.started[0][0]
        spent = 0.0
        for began, took in slow.started:
            assert spent <= budget * (began - first) + 1e-6
            spent += took


@many
@given(turns=TURNS, every=st.integers(1, 5), max_lag_s=st.floats(0.1, 9.0))
def test_what_is_not_due_or_late_or_without_drift_is_never_learned_from_and_all_else_is(turns, every, max_lag_s):
    with pytest.MonkeyPatch.context() as monkeypatch:
        adapt = Adapt(method="tent", learn_from=4, when="drift", every=every, max_lag_s=max_lag_s)
        slow = Slow(adapt, DEPLOYED, monkeypatch)
        for number, turn in enumerate(turns):
            slow.learner.life.drifted = turn.drifted
            due = number % every == 0 and turn.lag_s <= max_lag_s and turn.drifted
            assert slow.turn(turn, BATCH) is due


def test_no_budget_is_no_learning():
    with pytest.MonkeyPatch.context() as monkeypatch:
        slow = Slow(Adapt(method="tent", learn_from=4, budget=0.0), DEPLOYED, monkeypatch)
        assert not any(slow.turn(Turn(1e9, 0.0, True, 1.0), BATCH) for _ in range(3))
