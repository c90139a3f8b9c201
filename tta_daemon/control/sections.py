"""Every setting of the daemon, section by section; a method's own options stand beside the method."""

import hashlib
import json
from dataclasses import asdict
from typing import Any, Literal, Self

from pydantic import ValidationInfo, field_validator, model_validator

from tta_daemon.control import checks, method_options
from tta_daemon.control.faults import refusal
from tta_daemon.control.kafka_settings import Kafka
from tta_daemon.control.settings import (
    LIVE,
    REBUILD,
    RESTART,
    File,
    Formats,
    Secret,
    Section,
    Size,
    Table,
    Texts,
    Triple,
    setting,
    shown,
)

Level = Literal["debug", "info", "warning", "error"]


class Input(Section):
    """What a record may hold, and how it becomes images of the model's size."""

    max_bytes: int = setting(16 << 20, "Largest record value, in bytes.", REBUILD, ge=1)
    max_pixels: int = setting(32_000_000, "Largest image, in pixels, checked before it is decoded.", REBUILD, ge=1)
    max_images: int = setting(256, "Most images in one record.", REBUILD, ge=1)
    resize: Literal["refuse", "stretch", "crop"] = setting(
        "refuse", "Images of another size: refuse, stretch, or crop the middle square.", REBUILD
    )
    decoders: int = setting(2, "Threads that decode.", REBUILD, ge=1, le=64)


class Model(Section):
    """The deployed classifier."""

    factory: str = setting(
        "", "Function that returns the network: package.module:function.", REBUILD, pattern=r"^$|^[\w.]+:[\w.]+$"
    )
    arguments: Table = setting({}, "Keyword arguments of that function.", REBUILD)
    artifact: File = setting(
        "", "Instead of a function: an .onnx or .pt2 file, or the folder of a Hugging Face model.", REBUILD
    )
    weights: File = setting("", "Its weights: .safetensors or .pt (never unpickled).", REBUILD)
    checkpoint_key: str = setting("", "Where in a .pt file the weights lie, such as state_dict.", REBUILD)
    strip_prefix: str = setting("", "What every name in the weights starts with too much, such as module.", REBUILD)
    labels: Texts = setting((), "Names of the classes, in order; empty: their numbers.", REBUILD)
    prior: File = setting("", "What tta-daemon prepare found out about the source; none: no drift is told.", REBUILD)
    input_size: Size = setting((32, 32), "Height and width that the network sees.", REBUILD)
    mean: Triple = setting((0.0, 0.0, 0.0), "Mean of red, green and blue that it was trained with.", REBUILD)
    std: Triple = setting((1.0, 1.0, 1.0), "Standard deviation that it was trained with.", REBUILD)
    head: str = setting("", "Linear layer that answers, by its dotted name; empty: the one that is seen to.", REBUILD)
    device: str = setting("cpu", "Where torch computes: cpu, cuda, cuda:1.", REBUILD, pattern=r"^[a-z]+(:\d+)?$")
    dtype: Literal["float32", "float64"] = setting(
        "float32", "What weights, statistics and losses are kept in.", REBUILD
    )
    mixed_precision: Literal["no", "bfloat16"] = setting(
        "no", "bfloat16: convolutions and linear layers compute in it, where that is faster.", REBUILD
    )
    threads: int = setting(0, "Threads of torch on a CPU; 0: torch chooses.", REBUILD, ge=0, le=1024)
    frozen: Literal["torch", "runtime"] = setting(
        "torch", "What answers as deployed, for guard and watch: torch, or ONNX Runtime.", REBUILD
    )
    require_device: bool = setting(True, "Refuse an ONNX Runtime that does not compute on the device.", REBUILD)


class Adapt(Section):
    """What is learned from the stream, and when."""

    method: str = setting("tent", "How to adapt; docs/methods.md compares the methods.", REBUILD)
    when: Literal["always", "drift", "never"] = setting("always", "always, only while drift is seen, or never.", LIVE)
    learn_from: int = setting(16, "Fewest images in a batch worth learning from.", LIVE, ge=1)
    every: int = setting(1, "Learn from every n-th batch.", LIVE, ge=1)
    budget: float = setting(1.0, "Largest share of wall time that learning may take.", LIVE, ge=0, le=1)
    max_lag_s: float = setting(0.0, "Lag above which learning yields to answering; 0: it never does.", LIVE, ge=0)
    serve: Literal["method", "runtime"] = setting(
        "method", "Who answers: the method in torch, or ONNX Runtime by what it has learned.", REBUILD
    )
    seed: int = setting(0, "Seed of the method's own randomness.", REBUILD, ge=0)
    options: Table = setting({}, "Options of the method, below [adapt.options].", REBUILD)

    @field_validator("method")
    @classmethod
    def _known_method(cls, name: str) -> str:
        method_options.require(name)
        return name

    @field_validator("options")
    @classmethod
    def _known_options(cls, given: Table, info: ValidationInfo) -> Table:
        if "method" in info.data:
            method_options.read(info.data["method"], given)
        return given

    def chosen(self) -> Any:  # noqa: ANN401 - the options type of whichever method was chosen
        """The method's options: its published defaults with what the file says."""
        return method_options.read(self.method, self.options)


class Batch(Section):
    """How images gather before they are answered together."""

    size: int = setting(64, "Images that fill a batch.", LIVE, ge=1, le=65_536)
    patience_s: float = setting(0.2, "How long the first image of a batch waits for the others.", LIVE, ge=0)


class Limits(Section):
    """What the daemon holds at most, and when it gives up."""

    waiting_images: int = setting(1024, "Images waiting at which batches leave before they are full.", LIVE, ge=1)
    waiting_bytes: int = setting(256 << 20, "Bytes waiting at which batches leave before they are full.", LIVE, ge=1)
    reject_ratio: float = setting(0.5, "Share of rejected records above which the daemon stops.", LIVE, gt=0, le=1)
    reject_window: int = setting(1000, "Records over which that share is taken.", LIVE, ge=1)
    drain_s: float = setting(30.0, "How long a stop, or a rebalance, may take to answer what is left.", LIVE, gt=0)


class Settle(Section):
    """How often answers are confirmed and offsets committed."""

    every_s: float = setting(1.0, "Time between two commits.", LIVE, gt=0)
    timeout_s: float = setting(30.0, "How long a commit may take, all of it.", LIVE, gt=0)


class Streams(Section):
    """Which records share what is learned."""

    by: Literal["none", "partition", "key"] = setting(
        "none", "One adapter for all records, one per partition, or one per record key.", RESTART
    )
    max_resident: int = setting(
        64, "Streams in memory; others wait on the disk, or are forgotten where there is no checkpoint.", LIVE, ge=1
    )
    max_known: int = setting(10_000, "Streams remembered at all; the longest unseen is forgotten first.", LIVE, ge=1)
    start: Literal["source", "nearest"] = setting(
        "source", "A new stream begins as the source, or as the stream in memory that is most like it.", LIVE
    )
    ttl_s: float = setting(604_800.0, "Time after which an unseen stream is forgotten; 0: never.", LIVE, ge=0)
    restore_s: float = setting(
        300.0, "How long a partition waits for its streams' states; those not there by then begin anew.", LIVE, gt=0
    )
    shown: int = setting(5, "Streams that metrics name: the worst ones.", LIVE, ge=0, le=100)


class Checkpoint(Section):
    """Where what was learned outlives the process."""

    kind: Literal["none", "file", "kafka"] = setting(
        "none", "none: forgotten at a restart; file: in a folder; kafka: in a topic, with the answers.", RESTART
    )
    folder: File = setting("", "Folder for kind file, one per replica.", RESTART)
    keep: int = setting(3, "States kept of each stream in a folder.", RESTART, ge=1, le=1000)
    topic: str = setting("", "Compacted topic for kind kafka; empty: GROUP_ID-state.", RESTART)
    every_s: float = setting(10.0, "Time between two saves; what came after the last is learned anew.", LIVE, ge=0)
    relearn_most: int = setting(
        50_000, "Most records of a partition learned anew at a start, before it goes on answering.", RESTART, ge=0
    )


class Watch(Section):
    """How closely the daemon watches itself."""

    sample: float = setting(
        1.0, "Share of batches, of those the guard looks at, that the frozen model answers too.", LIVE, ge=0, le=1
    )
    label_window: int = setting(100_000, "Answers remembered until their labels come.", LIVE, ge=1)
    label_wait_s: float = setting(3600.0, "How long an answer waits for its label.", LIVE, gt=0)
    window: int = setting(1000, "Labeled images in the recent accuracy.", LIVE, ge=1)


class Guard(Section):
    """What keeps adaptation from doing harm: whose answers leave, and when what was learned is forgotten."""

    mode: Literal["guarded", "observe", "off"] = setting(
        "guarded", "guarded: whoever tells most answers; observe: the source; off: the adapted model.", LIVE
    )
    window: int = setting(128, "Fewest images over which answers are compared.", LIVE, ge=16, le=100_000)
    gain: float = setting(0.05, "Share of all there is to tell that adapted answers must add to go alone.", LIVE, ge=0)
    loss: float = setting(0.015, "How much less they may tell and still be blended with the source's.", LIVE, ge=0)
    doubt: float = setting(0.03, "How much less confident they may be than the source's.", LIVE, ge=0, le=1)
    mixed: float = setting(
        1.0,
        "Source images mixed into the norms, per image, where that tells more; 0: never.",
        LIVE,
        ge=0,
        le=1000,
    )
    look_every: int = setting(
        16, "While the adapted model answers and nothing changes, look at every n-th batch.", LIVE, ge=1, le=10_000
    )
    check_every: int = setting(
        8, "Compare with a newborn adapter at every n-th batch learned from; 0: never.", LIVE, ge=0, le=1_000_000
    )
    rewind: Literal["full", "selective"] = setting(
        "full", "full: all is forgotten; selective: at first only the half that is far from the images.", LIVE
    )
    reset_every: int = setting(0, "Forget everything after so many steps; 0: never.", LIVE, ge=0)


class Publish(Section):
    """What was learned, handed to the inference service next door: needs a folder or a topic, and the extra onnx."""

    folder: File = setting("", "Folder that the service watches, one per replica; none: no files.", RESTART)
    topic: str = setting("", "Compacted topic, a record for each state up to 900 kB; empty: none.", RESTART)
    formats: Formats = setting(("safetensors", "onnx_adapter"), "Files of each state in the folder.", RESTART)
    every_s: float = setting(10.0, "Time between two publications.", LIVE, gt=0)
    keep: int = setting(3, "States kept in the folder.", RESTART, ge=1, le=1000)

    @property
    def wanted(self) -> bool:
        """Whether there is anywhere to publish to."""
        return bool(self.folder or self.topic)


class Http(Section):
    """Metrics, health and status by HTTP."""

    host: str = setting("127.0.0.1", "Address to listen at; 0.0.0.0 lets other machines in.", RESTART, min_length=1)
    port: int = setting(9464, "Port to listen at; 0: any free one.", RESTART, ge=0, le=65_535)
    lifecycle: bool = setting(False, "Whether reload, reset and checkpoint may be asked for by HTTP.", LIVE)
    token: Secret = setting("", "Bearer token of those requests; better in token_file or the environment.", LIVE)
    token_file: File = setting("", "File that holds that token.", LIVE)
    images: int = setting(
        0,
        "Recent images, with answer and label, on the status page, for all who reach the port.",
        LIVE,
        ge=0,
        le=60,
    )
    stall_s: float = setting(60.0, "Standstill of the loop after which the daemon calls itself unhealthy.", LIVE, gt=0)


class Log(Section):
    """What is written to standard output."""

    level: Level = setting("info", "debug, info, warning or error.", LIVE)
    format: Literal["auto", "json", "console"] = setting("auto", "json, console, or by whether a person reads.", LIVE)


class Config(Section):
    """Every setting in force. An instance has passed every check that needs no look at the world."""

    kafka: Kafka = Kafka()
    input: Input = Input()
    model: Model = Model()
    adapt: Adapt = Adapt()
    batch: Batch = Batch()
    limits: Limits = Limits()
    settle: Settle = Settle()
    streams: Streams = Streams()
    checkpoint: Checkpoint = Checkpoint()
    watch: Watch = Watch()
    guard: Guard = Guard()
    publish: Publish = Publish()
    http: Http = Http()
    log: Log = Log()

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if faults := list(checks.together(self)):
            raise refusal(faults)
        return self

    def masked(self) -> dict[str, Any]:
        """All settings as plain values, the method's options with their defaults, secrets hidden."""
        plain: dict[str, Any] = shown(self)
        plain["adapt"]["options"] = asdict(self.adapt.chosen())
        return plain

    @property
    def state_topic(self) -> str:
        """The topic of saved states, where that is where they go; else empty."""
        derived = f"{self.kafka.group_id}-state"
        return (self.checkpoint.topic or derived) if self.checkpoint.kind == "kafka" else ""

    @property
    def digest(self) -> str:
        """Twelve letters that change when a setting does. Secrets have no part in it."""
        text = json.dumps(self.masked(), sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:12]
