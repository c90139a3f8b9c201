"""A reload is all or nothing, between two batches, and a changed number never costs learned weights."""

import json
import sys
import threading
from collections import Counter

import pytest
import torch
from reloading import Reloaded, same
from torch import nn
from world import network, npy, pictures

from tta_daemon.control.checkpoint import MemoryCheckpoint
from tta_daemon.control.errands import Errand
from tta_daemon.control.settings import MASK
from tta_daemon.control.slot import Result
from tta_daemon.errors import BrokerUnreachable, ConfigError, DeliveryError
from tta_daemon.left import MOST_LEFT


@pytest.fixture
def world(tmp_path):
    return Reloaded(tmp_path)


@pytest.fixture
def learned(world):
    """A world that has learned a little."""
    world.send(pictures(16))
    world.go_on()
    assert world.daemon.learner.step == 2
    return world


def value(world, name, **labels):
    return world.metrics.registry.get_sample_value(name, labels)


def test_a_changed_number_keeps_what_was_learned(learned):
    before, adapter = learned.memory(), learned.daemon.learner.adapter
    verdict = learned.reload(adapt={"options": {"lr": 0.01}})
    assert verdict.result is Result.PREPARED
    assert verdict.words == "adapt.options.lr: 0.001 -> 0.01"
    assert learned.slot.verdict.result is Result.APPLIED
    assert learned.daemon.learner.adapter is adapter
    assert adapter.options.lr == 0.01
    assert same(before, learned.memory())


def test_a_refused_file_changes_nothing_and_says_why(learned):
    daemon = learned.daemon
    parts = daemon.config, daemon.deployed, daemon.decoder, daemon.learner.adapter, daemon.batcher.size
    before = learned.memory()
    verdict = learned.reload(adapt={"method": "tnet"}, batch={"size": 16})
    assert verdict.result is Result.REFUSED
    assert "adapt.method" in verdict.words
    assert "mean tent?" in verdict.words
    assert learned.slot.refusal is learned.slot.verdict
    assert parts == (daemon.config, daemon.deployed, daemon.decoder, daemon.learner.adapter, daemon.batcher.size)
    assert same(before, learned.memory())


def test_what_needs_a_restart_is_refused_by_name_and_all_else_with_it(learned):
    verdict = learned.reload(kafka={"labels_topic": "other"}, batch={"size": 16})
    assert verdict.result is Result.REFUSED
    assert "kafka.labels_topic" in verdict.words
    assert "restart the daemon, or put the old value back" in verdict.words
    assert learned.daemon.batcher.size == 8


def test_a_method_that_is_left_remembers_when_it_returns(learned):
    before = learned.memory()
    for method in ("norm", "cotta", "tent"):
        assert learned.reload(adapt={"method": method}).result is Result.PREPARED
        assert learned.daemon.learner.method == method
    assert same(before, learned.memory())


def test_only_so_many_methods_that_were_left_are_remembered(learned):
    for method in ("norm", "cotta", "rotta", "eata", "sar", "roid"):
        learned.reload(adapt={"method": method})
    assert len(learned.daemon.learner._left) == MOST_LEFT
    learned.reload()
    assert learned.daemon.learner.step == 0


@pytest.mark.parametrize(
    ("method", "before", "after"),
    [
        ("tent", {"optimizer": "sgd"}, {"optimizer": "adam"}),
        ("tent", {"optimizer": "adam"}, {"optimizer": "sgd"}),
        ("vida", {"rank_low": 2}, {"rank_low": 1}),
        ("rmt", {"projection": 16}, {"projection": 8}),
    ],
)
def test_other_structural_options_begin_anew_and_remember_too(tmp_path, method, before, after):
    world = Reloaded(tmp_path)
    world.reload(adapt={"method": method, "options": before})
    world.send(pictures(16))
    world.go_on()
    memory = world.memory()
    assert world.reload(adapt={"method": method, "options": after}).result is Result.PREPARED
    assert world.daemon.learner.step == 0
    world.send(pictures(16))
    world.go_on()
    assert world.daemon.learner.step == 2
    world.reload(adapt={"method": method, "options": before})
    assert same(memory, world.memory())


def test_another_seed_keeps_what_was_learned_and_rolls_other_dice(learned):
    learned.reload(adapt={"method": "cotta"})
    learned.send(pictures(16))
    learned.go_on()
    before = learned.memory()
    learned.reload(adapt={"method": "cotta", "seed": 1})
    after = learned.memory()
    assert [name for name in before if not before[name].equal(after[name])] == ["dice._extra_state/state"]


def test_other_weights_are_another_model_with_a_memory_of_its_own(learned, tmp_path):
    torch.save(network().state_dict(), tmp_path / "same.pt")
    other = network()
    with torch.no_grad():
        next(other.parameters()).mul_(2.0)
    torch.save(other.state_dict(), tmp_path / "other.pt")
    before = learned.memory()
    learned.reload(model={"weights": "other.pt"})
    assert (learned.daemon.deployed.name, learned.daemon.learner.step) == ("other", 0)
    learned.reload(model={"weights": "same.pt"})
    assert learned.daemon.deployed.name == "same"
    assert same(before, learned.memory())


def test_a_newer_file_replaces_one_not_yet_taken(world):
    world.daemon.connect()
    for size in (16, 32):
        world.write(batch={"size": size})
        assert world.reloader.look().result is Result.PREPARED
    world.daemon.turn()
    assert world.daemon.batcher.size == 32
    assert value(world, "tta_config_reloads_total", result="applied") == 1


def test_a_bad_file_leaves_a_good_one_that_waits(world):
    world.daemon.connect()
    world.write(batch={"size": 16})
    world.reloader.look()
    world.put(b"[batch]\nsize = 0")
    assert world.reloader.look().result is Result.REFUSED
    world.daemon.turn()
    assert world.daemon.batcher.size == 16
    assert world.slot.verdict.result is Result.REFUSED
    assert value(world, "tta_config_last_reload_successful") == 0


def test_putting_the_old_file_back_takes_back_what_waits(world):
    world.daemon.connect()
    world.write(batch={"size": 16})
    world.reloader.look()
    world.write()
    assert world.reloader.look().result is Result.UNCHANGED
    world.daemon.turn()
    assert world.daemon.batcher.size == 8


def test_a_file_that_comes_while_the_loop_takes_another_is_compared_with_that(world):
    world.daemon.connect()
    world.write(batch={"size": 16})
    world.reloader.look()
    taken = world.slot.take()  # the loop is just about to go by it
    world.write()
    assert world.reloader.look().words == "batch.size: 16 -> 8"
    assert taken.config.batch.size == 16


def test_a_method_that_cannot_work_on_the_model_is_refused(world, monkeypatch):
    def refuse(*_, **__):
        raise ConfigError("adapt.method", "no norms", "choose another")

    monkeypatch.setattr("tta_daemon.assemble.newborn", refuse)
    assert world.reload(adapt={"method": "norm"}).result is Result.REFUSED
    assert world.slot.take() is None


@pytest.mark.parametrize("fault", [MemoryError("no"), RuntimeError("CUDA error"), RecursionError("deep"), OSError("x")])
def test_whatever_goes_wrong_in_preparing_is_a_refusal(world, monkeypatch, fault):
    def break_down(*_, **__):
        raise fault

    monkeypatch.setattr("tta_daemon.assemble.load", break_down)
    verdict = world.reload(model={"labels": list("abcde")})
    assert verdict.result is Result.REFUSED
    assert type(fault).__name__ in verdict.words
    assert world.reload(batch={"size": 16}).result is Result.PREPARED


def test_what_waits_is_answered_by_the_model_it_was_decoded_for(world):
    world.write(batch={"size": 8, "patience_s": 1000.0})
    world.reloader.look()
    world.send(pictures(3))
    world.daemon.connect()
    world.daemon.turn()
    world.daemon.turn()
    assert world.daemon.batcher.waiting == 3
    large = [npy(picture) for picture in torch.zeros(5, 24, 24, 3, dtype=torch.uint8).numpy()]
    world.reload(model={"input_size": [24, 24], "labels": ["a", "b", "c", "d", "e"]})
    world.reload(model={"input_size": [24, 24], "labels": ["a", "b", "c", "d", "e"]}, batch={"patience_s": 0.0})
    world.send(large)
    world.go_on()
    assert Counter(world.answered()) == Counter(f"images-0-{n}" for n in range(8))
    labels = [json.loads(r.value)["predictions"][0]["label"] for r in world.log.records("answers")]
    assert all(label.isdigit() for label in labels[:3])
    assert not any(label.isdigit() for label in labels[3:])


@pytest.mark.parametrize(
    ("change", "sizes"),
    [({"adapt": {"method": "norm"}}, [8, 32]), ({"input": {"max_images": 7}}, [40])],
    ids=["another method", "another decoder"],
)
def test_it_is_taken_between_two_batches_of_a_long_turn_where_they_can_stay(world, change, sizes):
    world.send(pictures(40))
    daemon, answer = world.daemon, world.daemon.answering.answer
    daemon.connect()

    def reloading(batch):
        answer(batch)
        if daemon.ledger.open_count == 32:
            world.write(**change)
            world.reloader.look()

    daemon.answering.answer = reloading
    daemon.turn()
    assert len(world.answered()) == 40
    methods = [json.loads(r.value)["method"] for r in world.log.records("answers")]
    assert list(Counter(methods).values()) == sizes
    daemon.turn()
    assert world.slot.verdict.result is Result.APPLIED


def test_a_newer_file_wins_where_the_broker_fails_while_one_is_taken(world, monkeypatch):
    monkeypatch.setattr("tta_daemon.backoff.PAUSES_S", (0.01,))
    world.reload(batch={"size": 8, "patience_s": 1000.0})
    world.send(pictures(3))
    world.daemon.connect()
    world.daemon.turn()
    sink, daemon = world.daemon.sink, world.daemon
    send, abandon = sink.send, sink.abandon

    def fail(_):
        sink.send = send
        raise DeliveryError("away")

    def later():
        sink.abandon = abandon
        world.write(batch={"size": 16})
        world.reloader.look()
        raise DeliveryError("still away")

    sink.send, sink.abandon = fail, later
    world.write(input={"max_images": 7}, batch={"size": 12, "patience_s": 1000.0})
    world.reloader.look()
    daemon.turn()
    assert world.slot.withdraw()[0].config is daemon.config
    assert (daemon.config.batch.size, daemon.batcher.size, daemon.config.input.max_images) == (16, 16, 256)
    world.go_on()
    assert Counter(world.answered()) == Counter(f"images-0-{n}" for n in range(3))


def test_a_file_that_comes_while_another_is_taken_is_not_called_applied(world):
    world.write(batch={"size": 16})
    world.reloader.look()
    world.slot.take()
    world.write(batch={"size": 32})
    world.reloader.look()
    assert world.slot.taken().result is Result.PREPARED
    world.slot.take()
    assert world.slot.taken().result is Result.APPLIED


def test_what_the_world_refuses_is_refused_with_its_line(world):
    verdict = world.reload(model={"weights": "absent.pt"})
    line = world.file.read_text().splitlines().index('weights = "absent.pt"') + 1
    assert verdict.words.startswith(f"config.toml, line {line}: model.weights: ")
    verdict = world.reload(kafka={"group_id": "other"})
    line = world.file.read_text().splitlines().index('group_id = "other"') + 1
    assert verdict.words.startswith(f"config.toml, line {line}: kafka.group_id: ")


@pytest.mark.parametrize("code", ["import sys; sys.exit(2)", "1 / 0", "def net(:", "def net(): raise SystemExit"])
def test_a_factory_that_breaks_its_import_is_refused_and_the_watcher_lives(world, tmp_path, monkeypatch, code):
    (tmp_path / "breaks_down.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "breaks_down", raising=False)
    world.reloader.start()
    world.write(model={"factory": "breaks_down:net"})
    verdict = world.reloader.ask().result(60)
    assert verdict.result is Result.REFUSED
    assert "model." in verdict.words
    world.write(batch={"size": 16})
    assert world.reloader.ask().result(60).result is Result.PREPARED
    world.reloader.stop(60)


def test_decoders_that_go_leave_no_threads_behind(learned):
    known = set(threading.enumerate())
    for size in range(100, 110):
        learned.reload(input={"max_images": size})
        learned.send(pictures(8))
        learned.go_on()
    learned.daemon.disconnect()
    new = [thread for thread in threading.enumerate() if thread not in known and thread.name.startswith("decode")]
    for thread in new:
        thread.join(60)
    assert not [thread for thread in new if thread.is_alive()]


class Slow(nn.Module):
    """A factory that takes as long as it is told."""

    begun, go = threading.Event(), threading.Event()

    def __new__(cls):
        cls.begun.set()
        assert cls.go.wait(60)
        return network()


def test_the_loop_goes_on_while_a_model_is_being_loaded(world, monkeypatch):
    monkeypatch.setattr("world.slow", Slow, raising=False)
    world.daemon.connect()
    world.reloader.start()
    world.write(model={"factory": "world:slow"})
    asked = world.reloader.ask()
    assert Slow.begun.wait(60)
    world.send(pictures(32))
    while len(world.answered()) < 32:
        world.daemon.turn()
    assert world.daemon.learner.step == 4
    assert not asked.done()
    Slow.go.set()
    assert asked.result(60).result is Result.PREPARED
    world.daemon.turn()
    world.reloader.stop(60)
    assert world.daemon.deployed.name == "world:slow"


def test_it_is_taken_while_there_is_no_broker_yet(world, monkeypatch):
    world.write(batch={"size": 16}, watch={"window": 5})
    world.reloader.look()
    tries = []
    connect = world.daemon._connect

    def later():
        tries.append(world.daemon.batcher.size)
        if len(tries) < 2:
            raise BrokerUnreachable("nobody")
        return connect()

    monkeypatch.setattr("tta_daemon.backoff.PAUSES_S", (0.01,))
    world.daemon._connect = later
    assert world.daemon.connect()
    assert tries == [8, 16]
    assert world.daemon.labels.accuracy.window == 5
    assert world.daemon.board.status()["config"]["digest"] == world.daemon.config.digest


def test_it_is_taken_while_the_broker_is_away(learned, monkeypatch):
    monkeypatch.setattr("tta_daemon.backoff.PAUSES_S", (0.01,))
    sink, tries, before = learned.daemon.sink, [], {}
    abandon = sink.abandon

    def later():
        tries.append(learned.daemon.batcher.size)
        if len(tries) < 2:
            before.update(learned.memory())
            learned.write(batch={"size": 4})
            learned.reloader.look()
            raise DeliveryError("nobody")
        sink.broken = None
        abandon()

    sink.broken, sink.abandon = DeliveryError("away"), later
    learned.send(pictures(8, seed=1))
    while not tries:
        learned.daemon.turn()
    assert tries == [8, 4]
    assert same(before, learned.memory())
    learned.go_on()
    assert learned.committed() == 24


def test_the_outside_is_told(learned):
    learned.daemon._reported_at = -1e9
    digest = learned.daemon.config.digest
    learned.reload(batch={"size": 0})
    learned.reload(log={"level": "warning"}, http={"token": "hunter2", "lifecycle": True})
    learned.daemon._reported_at = -1e9
    learned.daemon.report()
    status = learned.daemon.board.status()
    assert status["config"]["digest"] == learned.daemon.config.digest != digest
    assert status["config"]["settings"]["http"]["token"] == MASK
    assert status["reload"]["result"] == "applied"
    assert "batch.size: 0 is not at least 1" in status["reload"]["last_refusal"]["words"]
    assert status["reload"]["last_refusal"]["at"].endswith("+00:00")
    assert "hunter2" not in json.dumps(status)
    assert value(learned, "tta_config_info", digest=learned.daemon.config.digest) == 1
    assert value(learned, "tta_config_info", digest=digest) is None


@pytest.mark.parametrize(
    "http",
    [{"lifecycle": True, "token_file": "absent"}, {"lifecycle": True, "token_file": "empty"}],
    ids=["absent", "empty"],
)
def test_nobody_may_ask_without_a_token(world, tmp_path, http):
    (tmp_path / "empty").write_text("\n")
    verdict = world.reload(http=http)
    assert verdict.result is Result.REFUSED
    assert "http.token_file" in verdict.words


def test_a_reset_forgets_what_was_learned(learned):
    asked = learned.daemon.errands.ask(Errand.RESET)
    learned.daemon.turn()
    assert asked.result(0).words == "tent has forgotten 2 steps and begins anew"
    assert learned.daemon.learner.step == 0
    assert value(learned, "tta_restores_total", reason="requested") == 1
    learned.send(pictures(8))
    learned.go_on()
    assert learned.daemon.learner.step == 1


def test_a_checkpoint_is_saved_when_asked_for(tmp_path):
    store = MemoryCheckpoint()
    world = Reloaded(tmp_path, checkpoint=store)
    world.reload(checkpoint={"every_s": 1e9})
    world.send(pictures(16))
    world.go_on()
    asked = world.daemon.errands.ask(Errand.CHECKPOINT)
    world.daemon.turn()
    assert asked.result(0) == (True, "the state is saved, at step 2")
    assert same(world.memory(), dict(store.latest("").memory))


def test_a_checkpoint_needs_a_place(learned):
    asked = learned.daemon.errands.ask(Errand.CHECKPOINT)
    learned.daemon.turn()
    assert asked.result(0).done is False


def test_a_stop_answers_only_while_there_is_time(world):
    world.write(batch={"size": 8, "patience_s": 1000.0}, limits={"drain_s": 5.0})
    world.reloader.look()
    world.send(pictures(7))
    world.daemon.connect()
    while world.daemon.batcher.waiting < 7:
        world.daemon.turn()
    world.daemon.batcher.size = 2
    now = [0.0]
    answer = world.daemon.answering.answer

    def slowly(batch):
        now[0] += 3.0
        answer(batch)

    world.daemon.clock, world.daemon.answering.answer = lambda: now[0], slowly
    world.daemon.drain()
    assert (len(world.answered()), world.committed()) == (4, 4)
