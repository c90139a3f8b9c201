"""Ten batches, a file, a new process, ten more: bit for bit what twenty in a row give. Every method."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from nets import images, tiny_cnn
from safetensors.torch import load_file, save_file
from samples import SAMPLES, make
from torch import Tensor

import adapters
from adapters import METHODS, Adapter

HALF, SIZE = 10, 12


def newborn(name: str) -> Adapter:
    return make(name, next(iter(SAMPLES[name].variants.values())), tiny_cnn())


def half(adapter: Adapter, *, second: bool) -> Tensor:
    """The answers to one half of the stream, learned from."""
    batches = range(HALF * second, HALF * (1 + second))
    return torch.stack([adapters.step(adapter, images(SIZE, seed=batch)).logits for batch in batches])


def resume(folder: Path) -> None:
    """What the new process does."""
    torch.set_num_threads(1)
    for name in METHODS:
        adapter = newborn(name)
        adapter.load(load_file(folder / f"{name}.memory"))
        answers = half(adapter, second=True)
        save_file({**adapter.dump(), "answers": answers}, folder / f"{name}.resumed")


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what a new process made of every method's memory."""
    folder = tmp_path_factory.mktemp("memories")
    for name in METHODS:
        adapter = newborn(name)
        half(adapter, second=False)
        save_file(dict(adapter.dump()), folder / f"{name}.memory")
    here = Path(__file__).resolve()
    path = os.pathsep.join(str(p) for p in (here.parents[2], here.parents[1], here.parent))
    command = "import sys, pathlib, test_resume; test_resume.resume(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", command, folder], env={**os.environ, "PYTHONPATH": path}, check=True)
    return folder


@pytest.mark.parametrize("name", METHODS)
def test_a_new_process_goes_on_bit_for_bit(name: str, resumed: Path) -> None:
    straight = newborn(name)
    half(straight, second=False)
    answers = half(straight, second=True)
    theirs = load_file(resumed / f"{name}.resumed")
    assert torch.equal(theirs.pop("answers"), answers)
    ours = straight.dump()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
