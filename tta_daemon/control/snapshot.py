"""What was learned up to one point of the input: the value that is saved, its bytes, and what it belongs to."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from adapters import Memory
from adapters.options import knobs
from tta_daemon.control.sections import Adapt
from tta_daemon.errors import CheckpointError
from tta_daemon.model.load import Deployed, digest_of
from tta_daemon.stream.records import Partition

FORMAT = "tta-daemon state 1"

BESIDE = "beside/"
"""What the names of tensors begin with that are no adapter's."""

REMEDY = "go back to what it belongs to, or start with --fresh-state, which sets the saved state aside"

BROKEN = (
    SafetensorError, ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError, OverflowError,
    AssertionError, MemoryError,
)  # fmt: skip
"""What JSON, safetensors and torch raise on bytes that are no state; a RecursionError is a RuntimeError."""

Identity = Mapping[str, str]
"""What a state makes sense with: the model, the method, and each option that shapes it."""


def identity_of(deployed: Deployed, adapt: Adapt) -> Identity:
    """What a state that is learned by these settings belongs to."""
    options, like = adapt.chosen(), deployed.classifier
    shaping = [knob.name for knob in knobs(type(options)) if knob.reach == "rebuild"]
    return {
        "model": deployed.digest[:16],
        "model.dtype": str(like.mean.dtype),
        "model.mean": str(like.mean.flatten().tolist()),
        "model.std": str(like.std.flatten().tolist()),
        "adapt.method": adapt.method,
        **({"model.prior": deployed.known.digest} if deployed.known and deployed.prior(adapt.method) else {}),
        **{f"adapt.options.{name}": str(getattr(options, name)) for name in shaping},
    }


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """A stream's state, complete: resuming from it is as if nothing had happened.

    ``memory`` has learned every record of ``learned``'s partitions before the offsets there, and no other. ``beside``
    is what was seen of the same records by those who watch; a state without it, or of another prior, is as good.
    """

    stream: str
    memory: Memory
    learned: Mapping[Partition, int]
    identity: Identity
    batches: int = 0
    about: Mapping[str, str] = field(default_factory=dict)
    beside: Memory = field(default_factory=dict)

    def belongs_to(self, identity: Identity) -> None:
        """Make sure that this state is for this model, method and options.

        Raises:
            CheckpointError: it is not; the message names both sides and the remedy.
        """
        names = [name for name in (*identity, *self.identity) if self.identity.get(name) != identity.get(name)]
        if names:
            sides = (
                f"{name} {_said(self.identity, name)}, not {_said(identity, name)}" for name in dict.fromkeys(names)
            )
            raise CheckpointError(f"the saved state of stream {self.stream!r} is of {'; '.join(sides)} ({REMEDY})")


def encode(snapshot: Snapshot) -> bytes:
    """A safetensors file that any tool can open, with a manifest and a digest over everything in its metadata."""
    everything = {**snapshot.memory, **{f"{BESIDE}{name}": tensor for name, tensor in snapshot.beside.items()}}
    memory = {name: tensor.detach().cpu().contiguous() for name, tensor in everything.items()}
    manifest = json.dumps({
        "stream": snapshot.stream,
        "learned": [[*partition, offset] for partition, offset in sorted(snapshot.learned.items())],
        "identity": dict(snapshot.identity),
        "batches": snapshot.batches,
        "about": dict(snapshot.about),
    })  # fmt: skip
    return save(memory, {"format": FORMAT, "manifest": manifest, "digest": _digest(manifest, memory)})


def decode(blob: bytes) -> Snapshot:
    """What `encode` was given.

    Raises:
        CheckpointError: these bytes are not, or not all, what `encode` returned; nothing else is ever raised.
    """
    try:
        return _decode(blob)
    except BROKEN as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(f"these {len(blob)} bytes are no saved state: {reason}") from error


def glance(blob: bytes) -> Snapshot:
    """What a state says of itself, its tensors left unread and its digest unproven.

    Raises:
        CheckpointError: these bytes do not begin as those of a state do.
    """
    try:
        return _said_by(_metadata(blob)["manifest"], {})
    except BROKEN as error:
        raise CheckpointError(f"these {len(blob)} bytes are no saved state: {type(error).__name__}") from error


def _decode(blob: bytes) -> Snapshot:
    metadata = _metadata(blob)
    if metadata.get("format") != FORMAT:
        raise ValueError(f"its format is {str(metadata.get('format'))[:40]!r}, not {FORMAT!r}")
    memory, text = load(blob), metadata["manifest"]
    if metadata.get("digest") != _digest(text, memory):
        raise ValueError("its digest does not match: it was damaged")
    return _said_by(text, memory)


def _said_by(text: str, memory: Memory) -> Snapshot:
    manifest = json.loads(text)
    return Snapshot(
        stream=_text(manifest["stream"]),
        memory={name: tensor for name, tensor in memory.items() if not name.startswith(BESIDE)},
        learned={Partition(_text(topic), _count(number)): _count(at) for topic, number, at in manifest["learned"]},
        identity={_text(name): _text(value) for name, value in manifest["identity"].items()},
        batches=_count(manifest["batches"]),
        about={_text(name): _text(value) for name, value in manifest["about"].items()},
        beside={name.removeprefix(BESIDE): tensor for name, tensor in memory.items() if name.startswith(BESIDE)},
    )


def _metadata(blob: bytes) -> Mapping[str, Any]:
    """The text part of a safetensors file: eight bytes of length, then JSON, then tensors."""
    length = int.from_bytes(blob[:8], "little")
    if len(blob) < 8 + length:
        raise ValueError("it was cut short")
    metadata: Mapping[str, Any] = json.loads(blob[8 : 8 + length])["__metadata__"]
    return metadata


def _digest(manifest: str, memory: Memory) -> str:
    return hashlib.sha256(f"{manifest}\n{digest_of(memory)}".encode()).hexdigest()


def _said(identity: Identity, name: str) -> str:
    return repr(identity[name]) if name in identity else "none"


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise ValueError(f"{value!r} is no count")
    return value
