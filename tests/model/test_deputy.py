"""ONNX Runtime answers in a method's place: what the method would say now, whatever it learns meanwhile."""

import dataclasses
import sys

import pytest
import torch
from nets import images, tiny_cnn, tiny_vit
from samples import SAMPLES, make, options_of
from world import Memory, config, pictures

import adapters
from adapters import METHODS
from tta_daemon.answered import Hold
from tta_daemon.assemble import prepare
from tta_daemon.control.preflight import _model
from tta_daemon.errors import ConfigError
from tta_daemon.learner import Learner
from tta_daemon.model.deputy import Deputy
from tta_daemon.model.load import Deployed, load
from tta_daemon.watch.guard import Lives

NOT_ONE = {"rmt", "ecotta", "vida"}
NETS = {"cnn": tiny_cnn, "vit": tiny_vit}
ROWS = [
    (name, variant, net)
    for name, sample in SAMPLES.items()
    for variant in sample.variants
    for net, network in NETS.items()
    if name not in NOT_ONE
    and (name, variant) not in {("norm", "alpha"), ("norm", "instance"), ("norm", "ema"), ("norm", "ema in two passes")}
    and not adapters.unmet(name, network(), sample.prior)
]


def same(got, want):
    torch.testing.assert_close(got, want, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("row", ROWS, ids=["-".join(row) for row in ROWS])
def test_it_says_what_the_method_would_predict_and_follows_what_that_learns(row):
    name, variant, net = row
    classifier = NETS[net]()
    deployed = Deployed(classifier, tuple("abcde"), "", "net", (16, 16))
    options = SAMPLES[name].variants[variant]
    deputy, adapter = Deputy(deployed, make(name, options, classifier), name), make(name, options, classifier)
    for count in (12, 5):
        seen = images(count, seed=9)
        same(deputy(adapter, seen)[0], adapter.predict(seen))
        for seed in range(2):
            adapters.step(adapter, images(12, seed=seed))
        same(deputy(adapter, seen)[0], adapter.predict(seen))
    adapter.rewind()
    same(deputy(adapter, seen)[0], adapter.predict(seen))


def test_running_statistics_are_those_of_the_batches_before():
    classifier = tiny_cnn()
    adapter = make("norm", {"mode": "ema"}, classifier)
    deputy = Deputy(Deployed(classifier, tuple("abcde"), "", "net", (16, 16)), adapter, "norm")
    seen = images(12, seed=9)
    same(deputy(adapter, seen)[0], classifier(seen))
    adapters.step(adapter, images(12))
    state = {**classifier.network.state_dict(), **adapter.answerer().tensors()}
    before = deputy(adapter, seen)[0]
    classifier.network.load_state_dict(state)
    same(before, classifier(seen))


@pytest.mark.parametrize("name", sorted(NOT_ONE))
def test_methods_whose_answers_are_not_one_networks_are_refused(name):
    given = config(adapt={"method": name, "serve": "runtime"})
    with pytest.raises(ConfigError, match=f"adapt.serve: the answers of {name} are not those of one network"):
        Learner(load(given.model), given.adapt, 1.0, given.guard)
    with pytest.raises(ConfigError, match=r"adapt\.serve"):
        list(_model(given))


def test_a_mode_that_no_network_has_is_refused():
    given = config(adapt={"method": "norm", "options": {"mode": "instance"}, "serve": "runtime"})
    with pytest.raises(ConfigError, match=r"adapt\.serve"):
        Learner(load(given.model), given.adapt, 1.0, given.guard)


def learner_of(*, mode="off", sample=1.0, **adapt):
    given = config(adapt={"serve": "runtime", **adapt}, guard={"mode": mode, "window": 16})
    return Learner(load(given.model), given.adapt, sample, given.guard)


def test_every_batch_is_answered_by_it_and_learned_from_by_torch():
    learner = learner_of(every=3)
    holds = []
    for seed in range(6):
        seen = images(12, seed=seed)
        would_say = learner.adapter.predict(seen)
        learner.adapter.predict = forbidden
        answered = learner.answer(seen)
        del learner.adapter.predict
        same(answered.logits, would_say)
        answered.learn()
        holds.append(answered.hold)
    assert holds == [None, Hold.EVERY, Hold.EVERY] * 2
    assert learner.step == 2
    assert learner.providers == {"adapted": ("CPUExecutionProvider", "CPUExecutionProvider")}


def forbidden(_):
    raise AssertionError("torch was asked")


def test_it_learns_what_it_would_have_learned_answering_by_itself():
    by_runtime, by_method = learner_of(), learner_of(serve="method")
    for seed in range(3):
        for learner in (by_runtime, by_method):
            assert learner.answer(images(12, seed=seed)).learn()
    one, other = by_runtime.adapter.dump(), by_method.adapter.dump()
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_the_guard_weighs_what_it_says():
    learner = learner_of(mode="guarded")
    weighed = []
    weigh = learner.guard.weigh
    learner.guard.weigh = lambda source, said: weighed.append(said) or weigh(source, said)
    answered = learner.answer(images(16))
    assert torch.equal(weighed[0][Lives.BATCH], answered.adapted)
    assert answered.serve is learner.guard.serve


def test_a_small_batch_is_answered_beside_the_source_in_torch():
    by_runtime, by_method = learner_of(learn_from=8), learner_of(serve="method", learn_from=8)
    seen = images(3)
    assert by_runtime.answer(seen).hold is Hold.SMALL
    assert torch.equal(by_runtime.answer(seen).logits, by_method.answer(seen).logits)


def test_what_fails_there_is_answered_by_the_source():
    learner = learner_of()
    learner._deputy = forbidden_by_runtime
    answered = learner.answer(images(12))
    assert answered.hold is Hold.FAILED
    same(answered.logits, learner._deployed.classifier(images(12)))


def forbidden_by_runtime(*_):
    raise RuntimeError("ONNX Runtime: out of memory")


def test_a_restart_goes_on_bit_for_bit():
    first, second = learner_of(every=2), learner_of(every=2)
    for seed in range(3):
        first.answer(images(12, seed=seed)).learn()
    second.resume(first.snapshot({}))
    for seed in range(3, 6):
        one, other = first.answer(images(12, seed=seed)), second.answer(images(12, seed=seed))
        assert torch.equal(one.logits, other.logits)
        one.learn()
        other.learn()


def test_a_daemon_answers_by_it_the_same_bytes_each_time():
    said = []
    for _ in range(2):
        world = Memory(config(adapt={"serve": "runtime"}, guard={"mode": "guarded", "window": 16}))
        world.send(pictures(32))
        world.run_dry()
        said.append([record.value for record in world.log.records("answers")])
    assert len(said[0]) == 32
    assert said[0] == said[1]


def test_a_reload_turns_it_on_and_off_and_keeps_what_was_learned():
    old, new = config(), config(adapt={"serve": "runtime"})
    deployed = load(old.model)
    learner = Learner(deployed, old.adapt, 1.0, old.guard)
    for seed in range(3):
        learner.answer(images(12, seed=seed)).learn()
    seen, memory = images(12, seed=9), learner.adapter.dump()
    for one, other in ((old, new), (new, old)):
        ready = prepare(one, other, deployed)
        learner.take(deployed, other.adapt, 1.0, other.guard, ready.adapter, ready.deputy)
        assert all(torch.equal(tensor, memory[name]) for name, tensor in learner.adapter.dump().items())
        assert bool(learner.providers) == (other is new)
        same(learner.answer(seen).logits, learner.adapter.predict(seen))


def test_an_option_that_it_was_built_by_builds_another():
    old = config(adapt={"method": "norm", "serve": "runtime", "options": {"source_images": 16.0}})
    new = config(adapt={"method": "norm", "serve": "runtime", "options": {"source_images": 200.0}})
    deployed = load(old.model)
    learner = Learner(deployed, old.adapt, 1.0, old.guard)
    seen = images(12)
    before = learner.answer(seen).logits
    ready = prepare(old, new, deployed)
    assert ready.adapter is None
    learner.take(deployed, new.adapt, 1.0, new.guard, None, ready.deputy)
    after = learner.answer(seen).logits
    same(after, learner.adapter.predict(seen))
    assert not torch.allclose(before, after, atol=1e-3)


def test_another_live_setting_keeps_it():
    old, new = config(adapt={"serve": "runtime"}), config(adapt={"serve": "runtime"}, batch={"size": 4})
    deployed = load(old.model)
    assert prepare(old, new, deployed).deputy is None
    learner = Learner(deployed, old.adapt, 1.0, old.guard)
    learner.take(deployed, new.adapt, 1.0, new.guard, None, None)
    assert "adapted" in learner.providers


def test_without_onnx_runtime_it_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for name in ("runtime", "deputy"):
        monkeypatch.delitem(sys.modules, f"tta_daemon.model.{name}", raising=False)
    with pytest.raises(ConfigError, match=r"adapt.serve: onnxruntime is missing \(pip install 'tta-daemon\[onnx\]'\)"):
        learner_of()


def test_every_method_is_either_here_or_refused():
    assert {name for name, _, _ in ROWS} | NOT_ONE == set(METHODS)
    assert dataclasses.is_dataclass(options_of("norm", {}))
