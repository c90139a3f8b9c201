"""Step by step, the logits that published implementations gave; see the golden folder's README for the setting."""

import numpy as np
import pytest
import torch
from nets import cifar_resnet, golden_batches, shared

import adapters
from adapters.norm_only import NormOnlyOptions
from adapters.source_only import SourceOnlyOptions
from adapters.tent import TentOptions

CASES = {
    "source": ("source", SourceOnlyOptions()),
    "norm_test": ("norm", NormOnlyOptions(mode="batch")),
    "norm_alpha": ("norm", NormOnlyOptions(mode="alpha", alpha=0.1)),
    "norm_ema": ("norm", NormOnlyOptions(mode="ema", momentum=0.1, passes=2)),
    "tent": ("tent", TentOptions()),
}
"""Case of the golden folder -> method and options."""


@pytest.mark.parametrize("case", CASES)
def test_trajectory(case: str, record_property: pytest.FixtureRequest) -> None:
    golden = np.load(shared(f"golden/{case}.npz"))
    method, options = CASES[case]
    adapter = adapters.build(method, cifar_resnet(20, torch.float64), options)
    logits = torch.stack([adapters.step(adapter, batch).logits for batch in golden_batches()])
    difference = float(np.abs(logits.numpy() - golden["logits_f64"]).max())
    record_property("largest logit difference", difference)
    assert difference < 1e-5
