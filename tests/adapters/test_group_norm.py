"""Networks with GroupNorm: their first norm is given what needs no gradient, which has crashed the process."""

import subprocess
import sys

CODE = """
import torch
from torch import nn
import adapters
body = [nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
adapter = adapters.build("tent", adapters.Classifier(nn.Sequential(*body, nn.Linear(8, 4))))
for _ in range(2):
    outcome = adapters.step(adapter, torch.rand(16, 3, 18, 18))
print(torch.isfinite(outcome.logits).all().item())
"""


def test_tent_learns_in_them() -> None:
    said = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120, check=False)
    assert (said.returncode, said.stdout.strip()) == (0, "True"), said.stderr
