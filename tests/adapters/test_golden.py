"""Step by step, the logits that published implementations gave; see the golden folder's README for the setting."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from nets import cifar_resnet, golden_batches, shared, source_batches

import adapters
from adapters.cotta import CottaOptions
from adapters.eata import EataOptions, EataPrior, estimate_fisher
from adapters.norm_only import NormOnlyOptions
from adapters.roid import RoidOptions
from adapters.rpl import RplOptions
from adapters.sar import SarOptions
from adapters.source_only import SourceOnlyOptions
from adapters.tent import TentOptions

CASES = {
    "source": ("source", SourceOnlyOptions()),
    "norm_test": ("norm", NormOnlyOptions(mode="batch")),
    "norm_alpha": ("norm", NormOnlyOptions(mode="alpha", alpha=0.1)),
    "norm_ema": ("norm", NormOnlyOptions(mode="ema", momentum=0.1, passes=2)),
    "tent": ("tent", TentOptions()),
    "rpl": ("rpl", RplOptions()),
    "eta": ("eata", EataOptions(fisher_weight=0.0)),
    "eata": ("eata", EataOptions(fisher_weight=1.0)),
    "sar_reset_fixed": ("sar", SarOptions(lr=0.01, recover_below=0.205)),
    "roid": ("roid", RoidOptions(view_strength=0.0, literal=True)),
    "cotta_views2_flip": ("cotta", CottaOptions(views=2, view_kind="flip", augment_below=2.0, restore_rate=0.0)),
}
"""Case of the golden folder -> method and options."""

REVERSED = {"sar_reset_fixed"}


def prior(case: str, golden: Mapping[str, np.ndarray]) -> Any:
    """What the recorded run knew of the source."""
    if case == "eata":
        return EataPrior(torch.cat([torch.from_numpy(golden[k]) for k in golden if k.startswith("fisher::")]))
    return None


@pytest.mark.parametrize("case", CASES)
def test_trajectory(case: str, record_property: pytest.FixtureRequest) -> None:
    golden = np.load(shared(f"golden/{case}.npz"))
    method, options = CASES[case]
    adapter = adapters.build(method, cifar_resnet(20, torch.float64), options, prior(case, golden))
    batches = golden_batches()
    logits = torch.stack([adapters.step(adapter, b).logits for b in (batches[::-1] if case in REVERSED else batches)])
    difference = float(np.abs(logits.numpy() - golden["logits_f64"]).max())
    record_property("largest logit difference", difference)
    assert difference < 1e-5


def test_fisher_is_that_of_the_published_code() -> None:
    golden = np.load(shared("golden/eata.npz"))
    fisher = estimate_fisher(cifar_resnet(20, torch.float64), source_batches()).fisher
    recorded = prior("eata", golden).fisher  # in float32, whose rounding moves it by a part in ten thousand
    assert float((fisher - recorded).abs().max()) < 2e-4 * float(recorded.max())


def test_sar_recovers_where_the_published_code_does() -> None:
    adapter = adapters.build("sar", cifar_resnet(20, torch.float64), CASES["sar_reset_fixed"][1])
    recovered = [adapters.step(adapter, batch).signals["recovered"] for batch in golden_batches()[:-4:-1]]
    assert recovered == [1.0, 0.0, 0.0]
