"""Where ONNX Runtime is to compute; apart from it, because not everybody has it."""

from dataclasses import dataclass

import torch

from tta_daemon.control.sections import Model


@dataclass(frozen=True, slots=True)
class Wanted:
    """On which device, with how many threads, and whether nowhere else will do."""

    device: str = "cpu"
    threads: int = 1
    required: bool = True


def wanted_by(model: Model) -> Wanted:
    """Where torch computes; by as many threads as torch, where nobody says how many."""
    return Wanted(model.device, model.threads or torch.get_num_threads(), model.require_device)
