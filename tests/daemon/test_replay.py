"""Replaying drives the daemon itself: same answers as the bare method, whole, repeatable, and accounted for."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import world
from nets import images

import adapters
from tta_daemon.control.config import Config
from tta_daemon.errors import TooManyRejected
from tta_daemon.model.load import load
from tta_daemon.offline.replay.memory import Peak
from tta_daemon.offline.replay.orders import parse, plan
from tta_daemon.offline.replay.results import Results, judged
from tta_daemon.offline.replay.run import Run, run
from tta_daemon.offline.replay.streams import Stream
from tta_daemon.offline.replay.values import Arrays, Value


def pixels(count: int, seed: int = 0) -> np.ndarray:
    return (images(count, seed=seed) * 255).byte().permute(0, 2, 3, 1).contiguous().numpy()


def stream(count: int = 48, keys: tuple[str, ...] = ()) -> Stream:
    labels = np.random.default_rng(3).integers(0, 5, count)
    return Stream("s", Arrays(pixels(count)), labels, ("fog", "clean"), np.arange(count) * 2 // count, None, keys)


def went(config: Config, source: Stream, order: str = "continual", **more: object) -> tuple[Run, list[int]]:
    told: list[int] = []
    laid = plan(source, parse(order), 0, **more)
    return run(config, load(config.model), source, laid, told.append), told


@pytest.mark.parametrize("method", adapters.METHODS)
def test_a_replay_is_the_method_on_full_batches(method: str) -> None:
    config = world.config(adapt={"method": method}, batch={"size": 16})
    source, deployed = stream(), load(config.model)
    if adapters.unmet(method, deployed.classifier):
        pytest.skip(f"{method} cannot work on this network")
    laid = plan(source, parse("continual"), 0)
    found = run(config, deployed, source, laid, lambda _: None)
    adapter = adapters.build(method, deployed.classifier, config.adapt.chosen(), seed=config.adapt.seed)
    batches = torch.from_numpy(pixels(48)[laid.images]).permute(0, 3, 1, 2).contiguous().float().div(255).split(16)
    logits = torch.cat([adapters.step(adapter, batch).logits / adapter.temperature for batch in batches]).double()
    truth = torch.from_numpy(source.labels[laid.images])
    p = logits.softmax(1)
    np.testing.assert_array_equal(found.sheet.right, (logits.argmax(1) == truth).numpy())
    np.testing.assert_allclose(found.sheet.confidence, p.max(1).values, rtol=1e-6)
    np.testing.assert_allclose(
        found.sheet.nll, torch.nn.functional.cross_entropy(logits, truth, reduction="none"), 1e-5
    )
    one_hot = torch.nn.functional.one_hot(truth, p.size(1))
    np.testing.assert_allclose(found.sheet.brier, (p - one_hot).square().sum(1), rtol=1e-5)
    assert found.sheet.answered.all()
    assert (found.batches, found.learned_from) == (3, 3)


def test_batches_are_full_whatever_the_patience_and_the_last_one_is_what_is_left() -> None:
    for patience_s in (0.0, 0.2, 60.0):
        found, told = went(world.config(batch={"size": 10, "patience_s": patience_s}), stream())
        assert told == [10, 10, 10, 10, 8]
        assert found.held == {}


def test_streams_have_batches_of_their_own() -> None:
    config = world.config(batch={"size": 8}, streams={"by": "key"})
    _, told = went(config, stream(48, keys=("north", "south", "south") * 16), "recorded")
    assert told == [8, 8, 8, 8, 8, 8]
    _, told = went(config, stream(48, keys=("north",) * 44 + ("south",) * 4), "recorded")
    assert sorted(told) == [4, 4, 8, 8, 8, 8, 8]


def test_bursts_end_batches_and_small_ones_are_held_back() -> None:
    config = world.config(batch={"size": 16, "patience_s": 0.2}, adapt={"learn_from": 8})
    source = stream(200)
    laid = plan(source, parse("bursts:10"), 0, gap_s=1.0)
    found = run(config, load(config.model), source, laid, lambda _: None)
    sizes = np.unique(laid.arrivals, return_counts=True)[1]
    parts = [size for burst in sizes for size in (*[16] * (burst // 16), burst % 16) if size]
    assert found.batches == len(parts)
    assert found.learned_from == sum(size >= 8 for size in parts)
    assert found.held == {"small_batch": sum(size < 8 for size in parts)}
    assert found.sheet.answered.all()


def test_the_same_replay_twice_is_the_same() -> None:
    for order in ("mixed", "recurring:2+correlated:0.1"):
        one, two = (went(world.config(adapt={"method": "rotta"}), stream(), order)[0] for _ in range(2))
        np.testing.assert_array_equal(one.sheet.nll, two.sheet.nll)


def test_what_is_rejected_is_counted_and_not_scored() -> None:
    class Holed(Arrays):
        def __getitem__(self, index: int) -> Value:
            return Value("image/png", b"nonsense") if index % 6 == 0 else super().__getitem__(index)

    source = stream()
    broken = Stream("s", Holed(pixels(48)), source.labels, source.domains, source.domain)
    found, told = went(world.config(limits={"reject_ratio": 0.5}), broken, "recorded")
    assert found.rejected == {"undecodable": 8}
    assert sum(told) == 40
    assert found.sheet.answered.tolist() == [n % 6 != 0 for n in range(48)]
    assert found.letters[0].value == b"nonsense"
    with pytest.raises(TooManyRejected):
        went(world.config(limits={"reject_ratio": 0.1, "reject_window": 10}), broken, "recorded")


def test_a_failing_method_is_accounted_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> object:
        raise RuntimeError("no memory")

    monkeypatch.setattr(adapters.METHODS["tent"].adapter, "adapt", broken)
    found, _ = went(world.config(batch={"size": 16}), stream())
    assert found.held == {"failed": 3}
    assert found.sheet.answered.all()


def test_a_lag_that_only_a_replay_has_holds_nothing_back() -> None:
    config = world.config(adapt={"max_lag_s": 1e-9}, batch={"size": 16})
    assert went(config, stream())[0].held == {}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak")
def test_the_peak_is_above_what_was_taken_before() -> None:
    peak = Peak(torch.device("cpu"))
    before = peak.mib
    torch.ones(64 << 18)  # 64 MiB, gone at once
    assert before < 20
    assert 60 < peak.mib < 100


def test_results_hold_every_method_against_the_source(results: Callable[[str], Results]) -> None:
    found = results("recurring:3")
    plain = json.loads(found.text())
    assert [m["method"] for m in plain["methods"]] == ["source", "tent", "norm"]
    assert plain["methods"][0]["overall"]["against"]["difference"] == 0
    for method in plain["methods"]:
        assert set(method["domains"]) == {"fog", "clean"}
        assert len(method["rounds"]) == 3
        whole = sum(score["images"] for score in method["domains"].values())
        assert whole == method["overall"]["images"] == sum(score["images"] for score in method["rounds"]) == 144
    assert [s["domain"] for s in plain["stretches"]] == ["fog", "clean"] * 3
    assert results("mixed").stretches != ()  # few images change seldom enough to be shown


@pytest.fixture
def results() -> Callable[[str], Results]:
    def made(order: str) -> Results:
        source = stream()
        laid = plan(source, parse(order), 0)
        configs = [world.config(adapt={"method": m}, batch={"size": 16}) for m in ("source", "tent", "norm")]
        runs = [run(c, load(c.model), source, laid, lambda _: None) for c in configs]
        return judged(runs, [{} for _ in runs], source, laid, {"stream": "s"})

    return made


def test_a_batch_is_scored_by_its_own_labels_though_streams_interleave() -> None:
    source = stream(48, keys=("a", "b", "b") * 16)
    config = world.config(batch={"size": 8}, streams={"by": "key"}, adapt={"method": "source"})
    found, _ = went(config, source, "recorded")
    plain, _ = went(world.config(adapt={"method": "source"}), source, "recorded")
    np.testing.assert_array_equal(found.sheet.right, plain.sheet.right)
    np.testing.assert_allclose(found.sheet.nll, plain.sheet.nll, rtol=1e-4)
