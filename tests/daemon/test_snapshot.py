"""A saved state is given back bit for bit, or refused; nothing else ever happens."""

import json

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import load, save

from tta_daemon.control.snapshot import FORMAT, Snapshot, decode, encode
from tta_daemon.errors import CheckpointError
from tta_daemon.stream.records import Partition

IDENTITY = {"model": "d1", "method": "tent"}
BLOB = encode(
    Snapshot("cam/1", {"w": torch.arange(6.0).view(2, 3), "n": torch.tensor(3)}, {Partition("images", 0): 8}, IDENTITY)
)


def test_every_kind_of_tensor_comes_back_as_it_was() -> None:
    memory = {
        "weights": torch.randn(3, 4, 2, 2).to(memory_format=torch.channels_last),
        "steps": torch.tensor(3, dtype=torch.int64),
        "generator": torch.Generator().get_state(),
        "bank": torch.empty(0, 3, 16, 16),
        "flags": torch.tensor([True, False]),
        "half": torch.randn(5).bfloat16(),
        "strange": torch.tensor([float("nan"), float("inf"), -0.0]),
        "_extra_state/0/exp_avg": torch.randn(4, dtype=torch.float64),
    }
    learned = {Partition("images", 1): 7, Partition("images", 0): 1 << 40}
    given = Snapshot("", memory, learned, IDENTITY, batches=12, about={"torch": torch.__version__})
    back = decode(encode(given))
    assert (back.stream, back.learned, back.identity, back.batches) == ("", learned, IDENTITY, 12)
    assert back.about == given.about
    assert list(back.memory) != []
    for name, tensor in memory.items():
        assert back.memory[name].dtype == tensor.dtype
        assert back.memory[name].shape == tensor.shape
        assert (
            back.memory[name]
            .contiguous()
            .view(-1)
            .view(torch.uint8)
            .equal(tensor.contiguous().view(-1).view(torch.uint8))
        )


def test_it_is_a_safetensors_file() -> None:
    assert load(BLOB)["w"].equal(torch.arange(6.0).view(2, 3))


def test_a_state_of_another_model_is_refused_and_both_sides_are_named() -> None:
    snapshot = decode(BLOB)
    snapshot.belongs_to(IDENTITY)
    with pytest.raises(CheckpointError) as refused:
        snapshot.belongs_to({"model": "d2", "method": "tent", "adapt.options.optimizer": "sgd"})
    assert "model 'd1', not 'd2'" in str(refused.value)
    assert "adapt.options.optimizer none, not 'sgd'" in str(refused.value)
    assert "--fresh-state" in str(refused.value)
    assert "method" not in str(refused.value)


def decoded(blob: bytes) -> Snapshot | None:
    """What may come of any bytes."""
    try:
        return decode(blob)
    except CheckpointError:
        return None


@given(st.binary(max_size=400))
@example(b"")
@example(b"\xff" * 8)
@example((1 << 62).to_bytes(8, "little") + b"{}")
@example((2).to_bytes(8, "little") + b"{}")
@example((100_000).to_bytes(8, "little") + b"[" * 100_000)
def test_random_bytes_are_refused(blob: bytes) -> None:
    assert decoded(blob) is None


@given(st.integers(0, len(BLOB) - 1))
def test_a_truncated_state_is_refused(length: int) -> None:
    assert decoded(BLOB[:length]) is None


@given(st.integers(0, len(BLOB) * 8 - 1))
def test_a_flipped_bit_is_refused(bit: int) -> None:
    broken = bytearray(BLOB)
    broken[bit // 8] ^= 1 << bit % 8
    found = decoded(bytes(broken))
    assert found is None or same(found, decode(BLOB))  # a bit of the padding says nothing


def same(a: Snapshot, b: Snapshot) -> bool:
    equal = a.memory.keys() == b.memory.keys() and all(a.memory[name].equal(b.memory[name]) for name in a.memory)
    return equal and (a.stream, a.learned, a.identity) == (b.stream, b.learned, b.identity)


@given(st.integers(9, 1 << 63))
def test_a_header_that_claims_a_huge_size_is_refused(length: int) -> None:
    assert decoded(length.to_bytes(8, "little") + BLOB[8:]) is None or length == int.from_bytes(BLOB[:8], "little")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
FIELDS = ("stream", "learned", "identity", "batches", "about")


@given(st.dictionaries(st.sampled_from(FIELDS), json_values) | json_values)
def test_a_manifest_of_any_shape_with_a_digest_that_matches_is_a_state_or_refused(manifest: object) -> None:
    from tta_daemon.control.snapshot import _digest  # noqa: PLC0415

    text = json.dumps(manifest)
    memory = {"w": torch.zeros(2)}
    decoded(save(memory, {"format": FORMAT, "manifest": text, "digest": _digest(text, memory)}))
