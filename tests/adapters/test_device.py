"""Every method on an accelerator, where there is one: it stays there, and its memory travels."""

import pytest
import torch
from nets import images, tiny_cnn
from samples import SAMPLES, make

import adapters
from adapters import METHODS, Adapter

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def newborn(name: str) -> Adapter:
    return make(name, next(iter(SAMPLES[name].variants.values())), tiny_cnn().cuda())


@pytest.mark.parametrize("name", METHODS)
def test_a_memory_moves_to_another_process_by_way_of_the_host(name: str) -> None:
    adapter, other = newborn(name), newborn(name)
    for seed in range(3):
        logits = adapters.step(adapter, images(12, seed=seed).cuda()).logits
        assert logits.is_cuda
        assert torch.isfinite(logits).all()
    other.load({key: tensor.cpu() for key, tensor in adapter.dump().items()})
    ours, theirs = (adapters.step(a, images(12, seed=9).cuda()).logits for a in (adapter, other))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    adapters.step(adapter, torch.full((12, 3, 16, 16), torch.nan, device="cuda"))
    assert all(torch.isfinite(tensor.double()).all() for tensor in adapter.dump().values())
    adapter.rewind()
    birth, newborns = adapter.dump(), newborn(name).dump()
    assert all(torch.equal(birth[key], newborns[key]) for key in newborns)
