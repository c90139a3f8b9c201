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
from adapters.petal import PetalOptions
from adapters.rmt import RmtOptions, RmtPrior, estimate_prototypes
from adapters.roid import RoidOptions
from adapters.rotta import RottaOptions
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
    "rotta_flip": ("rotta", RottaOptions(view_kind="flip")),
    "cotta_views2_flip": ("cotta", CottaOptions(views=2, view_kind="flip", augment_below=2.0, restore_rate=0.0)),
    "petal_flip_d30_m90": (
        "petal",
        PetalOptions(views=2, view_kind="flip", augment_below=2.0, teacher_momentum=0.9, restored_share=0.3),
    ),
    "rmt_cont1_flip": ("rmt", RmtOptions(view_kind="flip")),
}
"""Case of the golden folder -> method and options."""

REVERSED = {"sar_reset_fixed"}


def prior(case: str, golden: Mapping[str, np.ndarray]) -> Any:
    """What the recorded run knew of the source."""
    if case == "eata":
        return EataPrior(torch.cat([torch.from_numpy(golden[k]) for k in golden if k.startswith("fisher::")]))
    if case == "rmt_cont1_flip":
        return RmtPrior(torch.from_numpy(golden["prototypes_f64"]))
    return None


def begin(case: str, adapter: adapters.Adapter, golden: Mapping[str, np.ndarray]) -> None:
    """What was random at the birth of the recorded run."""
    if case == "rmt_cont1_flip":
        found = {k.removeprefix("projector_f64::"): golden[k] for k in golden if k.startswith("projector_f64::")}
        adapter.get_submodule("projector").load_state_dict({k: torch.from_numpy(v) for k, v in found.items()})


@pytest.mark.parametrize("case", CASES)
def test_trajectory(case: str, record_property: pytest.FixtureRequest) -> None:
    golden = np.load(shared(f"golden/{case}.npz"))
    method, options = CASES[case]
    adapter = adapters.build(method, cifar_resnet(20, torch.float64), options, prior(case, golden))
    begin(case, adapter, golden)
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


def test_prototypes_are_those_of_the_published_code() -> None:
    golden = np.load(shared("golden/rmt_cont1_flip.npz"))
    labels = torch.from_numpy(np.load(shared("golden/source500.npz"))["labels"]).split(50)
    batches = list(zip(source_batches(), labels, strict=True))
    prototypes = estimate_prototypes(cifar_resnet(20, torch.float64), batches).prototypes
    assert float((prototypes - torch.from_numpy(golden["prototypes_f64"])).abs().max()) < 1e-10
