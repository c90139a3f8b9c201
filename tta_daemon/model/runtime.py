"""ONNX Runtime: answers faster than torch does, by constant tensors or by tensors that are given to it."""

from collections.abc import Mapping, Sequence

import onnxruntime
import structlog
import torch
from onnx import ModelProto
from onnxruntime import OrtValue
from torch import Tensor, nn

from tta_daemon.errors import ConfigError
from tta_daemon.model import graph
from tta_daemon.model.wanted import Wanted

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""What ONNX Runtime calls the devices that torch knows."""

ERRORS_ONLY = 3

log = structlog.get_logger(__name__)


class Runtime:
    """A graph, ready to answer.

    With nothing that moves, ONNX Runtime folds BatchNorm into the convolutions before it. Tensors that move are kept
    where it computes, and copied there only when they change. Adapters of ONNX Runtime have no part in this: a run with
    bound inputs ignores them silently.

    Attributes:
        asked: the execution provider that was asked for.
        provider: the one that was obtained.

    Args:
        model: the graph, as `graph.traced` returned it.
        wanted: where to compute.
        moving: names of the tensors that `take` will change.

    Raises:
        ConfigError: ONNX Runtime does not take the graph, or does not have the device.
        ValueError: the graph has no tensor of a name in ``moving``.
    """

    def __init__(self, model: ModelProto, wanted: Wanted, moving: Sequence[str] = ()) -> None:
        device = torch.device(wanted.device)
        self.asked = PROVIDERS.get(device.type, "")
        if not self.asked:
            message = f"ONNX Runtime is not used on {device.type}"
            raise ConfigError("model.device", message, f"say one of {', '.join(PROVIDERS)}")
        self._outputs = [output.name for output in model.graph.output]
        shapes = graph.held(model)
        self._session = _session(graph.opened(model, moving), self.asked, wanted)
        self.provider = self._session.get_providers()[0]
        require(wanted, self.asked, self.provider)
        self._place = (device.type, device.index or 0) if self.provider == self.asked else ("cpu", 0)
        self._shapes = {name: shapes[name] for name in moving}
        self._given: dict[str, OrtValue] = {}

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """What the graph gives, where ``images`` are: float32, N x 3 x H x W in [0, 1].

        Raises:
            RuntimeError: ONNX Runtime fails on them.
        """
        seen = OrtValue.ortvalue_from_numpy(images.detach().cpu().contiguous().numpy())
        try:
            answers = self._session.run_with_ort_values(self._outputs, {graph.IMAGES: seen, **self._given})
        except Exception as fault:
            raise RuntimeError(f"ONNX Runtime: {fault}") from fault
        return tuple(torch.from_numpy(answer.numpy().copy()).to(images.device) for answer in answers)

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Answer by these tensors from now on; those not named are as the graph holds them.

        Raises:
            ValueError: one of them does not move, or has another shape; nothing has changed.
        """
        for name, tensor in tensors.items():
            if self._shapes.get(name) != tuple(tensor.shape):
                raise ValueError(f"{name} of {tuple(tensor.shape)} is no tensor that moves in this graph")
        values = {name: tensor.detach().float().cpu().contiguous().numpy() for name, tensor in tensors.items()}
        kept = {name: value for name, value in self._given.items() if name in values}
        for name, value in kept.items():
            value.update_inplace(values[name])
        new = {n: OrtValue.ortvalue_from_numpy(v.copy(), *self._place) for n, v in values.items() if n not in kept}
        self._given = kept | new


def require(wanted: Wanted, asked: str, obtained: str) -> None:
    """Compare two execution providers. Raises ConfigError where they differ and none but that asked for will do."""
    if asked == obtained:
        return
    message = f"ONNX Runtime was asked for {asked} and computes by {obtained}"
    if wanted.required:
        remedy = "install the onnxruntime-gpu that fits the driver, or say model.require_device = false"
        raise ConfigError("model.require_device", message, remedy)
    log.warning(message)


def started(looked: nn.Module, outputs: Sequence[str], size: Sequence[int], wanted: Wanted) -> Runtime:
    """A runtime with nothing that moves, which was seen to give what ``looked`` gives.

    Raises:
        ConfigError: the network cannot be exported, or ONNX Runtime does not have the device or answers differently.
    """
    runtime = Runtime(graph.traced(looked, outputs, size), wanted)
    require_same(runtime, looked, size)
    return runtime


def require_same(runtime: Runtime, looked: nn.Module, size: Sequence[int]) -> None:
    """Compare the two on a few images of noise, of another batch size than was traced. Raises ConfigError."""
    images = torch.rand(3, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), graph.classifier_of(looked).unmixed():
        expected = looked(images.to(next(looked.buffers()).device))
    for want, got in zip(expected, runtime(images), strict=True):
        away, scale = float((want.cpu() - got).abs().max()), float(want.abs().max())
        if got.shape != want.shape or not away <= 1e-4 + 1e-3 * scale:
            message = f"ONNX Runtime answers differently from torch: {away:.2g} of {scale:.2g}"
            raise ConfigError("model.factory", message, graph.REMEDY)


def _session(model: ModelProto, provider: str, wanted: Wanted) -> onnxruntime.InferenceSession:
    """Threads that wait for work sleep: the loop answers and learns in turn, on the same cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = wanted.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    where = {"device_id": str(torch.device(wanted.device).index or 0)}
    chosen = [PROVIDERS["cpu"]] if provider == PROVIDERS["cpu"] else [(provider, where), PROVIDERS["cpu"]]
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, chosen)
    except Exception as fault:
        message = f"ONNX Runtime refuses the network: {' '.join(str(fault).split())[:300]}"
        raise ConfigError("model.factory", message, graph.REMEDY) from fault
