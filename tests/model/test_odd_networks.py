"""Any network that answers with N x C: its head is the layer that is seen to answer, the one that is named, or none."""

import sys
from types import SimpleNamespace

import pytest
import torch
from nets import images
from torch import nn

import adapters
from adapters import METHODS
from tta_daemon.control.sections import Model
from tta_daemon.errors import ConfigError
from tta_daemon.model.load import load


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())

    def features(self, x):
        return self.body(x).mean((2, 3))


class ConvHead(Body):
    """It ends in a convolution: nothing in it is linear."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(8, 5, 1)

    def forward(self, x):
        return self.last(self.body(x)).mean((2, 3))


class ManyHeads(Body):
    """The head that answers is neither the first nor the last; the last is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.answers = nn.Linear(8, 5), nn.Linear(8, 5)
        self.beside, self.unused = nn.Linear(8, 5), nn.Linear(8, 9)

    def forward(self, x):
        y = self.features(x)
        self.first(y)
        answer = self.answers(y)
        self.beside(y)
        return answer


class Ensemble(Body):
    """Two heads answer together."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 5), nn.Linear(8, 5)

    def forward(self, x):
        y = self.features(x)
        return self.one(y) + self.two(y)


class Tokens(Body):
    """The head answers for every place, and the answers are averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.body(x).flatten(2).transpose(1, 2)).mean(1)


class Scaled(Body):
    """A bare weight instead of a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(5, 8))

    def forward(self, x):
        return 10 * nn.functional.normalize(self.features(x)) @ nn.functional.normalize(self.prototypes).T


class Twice(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)), x


HEADS = {"ConvHead": None, "ManyHeads": "answers", "Ensemble": "two", "Tokens": "head", "Scaled": None}


def settings(name: str, **more: object) -> Model:
    return Model.model_validate({"factory": f"{__name__}:{name}", "input_size": (16, 16), **more})


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The factory's module under the name that settings give."""
    monkeypatch.setitem(sys.modules, __name__, SimpleNamespace(**globals()))


@pytest.mark.parametrize("name", HEADS)
def test_the_head_is_found_and_methods_work(name: str) -> None:
    classifier = load(settings(name)).classifier
    assert (classifier.head or None) == HEADS[name]
    assert classifier.num_classes == 5
    for method, row in METHODS.items():
        if adapters.unmet(method, classifier) or method == "ecotta":
            assert method == "ecotta" or (row.needs.linear_head and not classifier.head)
            continue
        outcome = adapters.step(adapters.build(method, classifier), images(16))
        assert outcome.logits.shape == (16, 5)
        assert torch.isfinite(outcome.logits).all()


def test_a_head_can_be_named() -> None:
    assert load(settings("Ensemble", head="one")).classifier.head == "one"
    for name in ("body", "nowhere", "body.0"):
        with pytest.raises(ConfigError, match=r"model\.head: .*is no linear layer.*named_modules"):
            load(settings("Ensemble", head=name))


def test_what_is_no_classifier_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.factory: the network answers with tuple, not with N x C logits"):
        load(settings("Twice"))
