"""Mixed precision: whether a device computes convolutions and linear layers faster in bfloat16."""

from collections.abc import Callable, Mapping

import structlog
import torch

from tta_daemon.control.sections import Model
from tta_daemon.errors import ConfigError

SETTING = "model.mixed_precision"

log = structlog.get_logger(__name__)


def mixed_by(model: Model) -> torch.dtype | None:
    """The dtype that the settings ask for. Where the device gains nothing by it, that is said and does no harm.

    Raises:
        ConfigError: the device cannot.
    """
    if model.mixed_precision == "no":
        return None
    device = torch.device(model.device)
    if not torch.amp.is_autocast_available(device.type):
        raise ConfigError(SETTING, f"PyTorch has no mixed precision on {device.type}", 'say "no"')
    if not gains(device):
        log.warning("mixed precision gains nothing here, and may cost time", setting=SETTING, device=str(device))
    return torch.bfloat16


def gains(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16: AVX-512 BF16, AMX, Arm's BF16, or a GPU from Ampere on."""
    if device.type == "cpu":
        return any(has is True for name, has in _capabilities().items() if name.endswith("bf16"))
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return True


def _capabilities() -> Mapping[str, object]:
    """What the processor can do, by name, where this PyTorch can tell; else that it may well."""
    tell: Callable[[], Mapping[str, object]] | None = getattr(torch.cpu, "get_capabilities", None)
    return tell() if tell is not None else {"bf16": True}
