"""The learner's rules: what it holds back, what a failure costs, and that changed numbers count from now on."""

import pytest
from nets import images
from world import config

from tta_daemon.answered import Hold
from tta_daemon.control.sections import Adapt
from tta_daemon.learner import Learner
from tta_daemon.model.load import load
from tta_daemon.watch.metrics import Metrics


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def learner(clock):
    given = config(adapt={"learn_from": 4})
    return Learner(load(given.model), given.adapt, 1.0, given.guard, clock)


def rule(learner, **settings):
    """Go on with these settings of [adapt]."""
    adapt = Adapt(**{"method": "tent", "learn_from": 4} | settings)
    learner.take(learner._deployed, adapt, 1.0, learner.guard.settings, None)


def held(learner, count=8, lag_s=0.0):
    answered = learner.answer(images(count), lag_s)
    answered.learn()
    return answered.hold


def failing(*_):
    raise RuntimeError("out of memory")


@pytest.mark.parametrize(
    ("settings", "count", "lag_s", "reason"),
    [
        ({"when": "never"}, 8, 0.0, Hold.NEVER),
        ({"learn_from": 9}, 8, 0.0, Hold.SMALL),
        ({"max_lag_s": 5.0}, 8, 6.0, Hold.LAG),
        ({}, 8, 6.0, None),
    ],
)
def test_rules_count_from_the_next_batch_on(learner, settings, count, lag_s, reason):
    assert held(learner) is None
    rule(learner, **settings)
    assert held(learner, count, lag_s) is reason
    rule(learner)
    assert held(learner) is None


def test_every_nth_batch(learner):
    rule(learner, every=3)
    assert [held(learner) for _ in range(6)] == [None, Hold.EVERY, Hold.EVERY] * 2


def test_a_larger_budget_ends_the_rest_that_a_smaller_one_began(learner, clock):
    learn = learner._learn

    def slowly(answer, images):
        inner = answer.learn

        def learning():
            clock.now += 1.0
            return inner()

        return learn(type(answer)(answer.logits, learning), images)

    learner._learn = slowly
    rule(learner, budget=0.1)
    assert held(learner) is None
    clock.now += 8.5
    assert held(learner) is Hold.BUDGET
    rule(learner, budget=0.5)
    assert held(learner) is None
    rule(learner, budget=0.0)
    clock.now += 1e6
    assert held(learner) is Hold.BUDGET
    rule(learner, budget=1.0)
    assert held(learner) is None


def test_a_failed_step_is_no_step(learner):
    metrics = Metrics()
    assert held(learner) is None
    answered = learner.answer(images(8))
    learner.adapter.rewind()
    broken = learner._learn
    learner._learn = lambda answer, seen: broken(type(answer)(answer.logits, failing), seen)
    answered = learner.answer(images(8))
    metrics.learned(answered.learn(), answered.hold)
    assert value(metrics, "tta_adaptation_steps_total") == 0
    assert value(metrics, "tta_adaptation_skipped_total", reason="failed") == 1
    assert value(metrics, "tta_restores_total", reason="failed") == 1
    assert learner.step == 0


def test_a_failed_answer_is_the_source_models(learner):
    metrics = Metrics()
    learner.adapter.adapt = failing
    answered = learner.answer(images(8))
    assert answered.hold is Hold.FAILED
    assert answered.logits.equal(answered.source)
    metrics.learned(answered.learn(), answered.hold)
    assert value(metrics, "tta_adaptation_skipped_total", reason="failed") == 1
    assert value(metrics, "tta_restores_total", reason="failed") == 1


def value(metrics, name, **labels):
    return metrics.registry.get_sample_value(name, labels)
