"""Answers as an adapter does, by ONNX Runtime: torch then only learns."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from adapters import Adapter, Classifier
from adapters.parts.norms import Rule, StreamNorm, alone, from_source, normalizing
from tta_daemon.model import graph
from tta_daemon.model.load import Deployed
from tta_daemon.model.publish import answerer_of
from tta_daemon.model.runtime import Runtime, require_same
from tta_daemon.watch.view import Head


class Deputy:
    """The network that an adapter answers by, normalized as the adapter does: by the batch, or by what it keeps.

    The tensors that learn are taken over at each call, so that no answer is older than what was last learned.

    Args:
        deployed: the model.
        adapter: of the method whose adapters are to be stood in for; its options decide how norms go by the batch.
        method: its name.

    Raises:
        ConfigError: no one network answers as the method does, or ONNX Runtime cannot have it.
    """

    def __init__(self, deployed: Deployed, adapter: Adapter, method: str) -> None:
        answerer = answerer_of(adapter, method, "adapt.serve")
        by_batch = answerer.by_batch
        rule = _beside(answerer.source_images) if answerer.source_images else _by_batch
        looked = _Normalized(answerer.network.classifier, rule) if by_batch else graph.Answers(deployed.classifier)
        outputs = graph.Answers(deployed.classifier).outputs
        model = graph.traced(looked, outputs, deployed.size)
        self._head = deployed.classifier.head
        self.runtime = Runtime(
            model, deployed.wanted, [name for name in answerer.tensors() if name in graph.held(model)]
        )
        require_same(self.runtime, looked, deployed.size)

    def __call__(self, adapter: Adapter, images: Tensor) -> tuple[Tensor, Head | None]:
        """What ``adapter`` would answer to images, N x 3 x H x W in [0, 1]: logits, and what its head was given.

        Raises:
            RuntimeError: ONNX Runtime fails on them.
        """
        answerer = adapter.answerer()
        if answerer is None:
            raise RuntimeError("the adapter has come to answer by more than one network")
        self.runtime.take(answerer.tensors())
        logits, *features = self.runtime(images)
        return adapter.finish(logits), self._headed(answerer.network.classifier, features)

    def _headed(self, classifier: Classifier, features: Sequence[Tensor]) -> Head | None:
        linear = classifier.network.get_submodule(self._head) if self._head else None
        if not isinstance(linear, nn.Linear) or not features:
            return None
        bias = None if linear.bias is None else linear.bias.detach().clone()
        return Head(features[0], linear.weight.detach().clone(), bias)


class _Normalized(graph.Answers):
    """Answers whose norms follow a rule that can be traced."""

    def __init__(self, classifier: Classifier, rule: Rule) -> None:
        super().__init__(classifier)
        self.rule = rule

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        with normalizing(self.classifier, self.rule):
            return super().forward(images)


def _by_batch(norm: StreamNorm, x: Tensor) -> Tensor:
    """As `from_batch`, spelled in what ONNX has: the batch is one instance, all its places in one row."""
    if alone(x):
        return from_source(norm, x)
    by_channel = x.transpose(0, 1)
    row = by_channel.reshape(1, x.size(1), -1)
    y = functional.instance_norm(row, None, None, norm.weight, norm.bias, use_input_stats=True, eps=norm.eps)
    return torch.reshape(y, by_channel.shape).transpose(0, 1)


def _beside(source_images: float) -> Rule:
    """As `pseudo_counted`, likewise."""

    def rule(norm: StreamNorm, x: Tensor) -> Tensor:
        spots = x.flatten(2) if x.dim() > 2 else x.unsqueeze(2)  # noqa: PLR2004 - N x C
        mean = spots.mean((0, 2))
        var = (spots - mean.view(1, -1, 1)).square().mean((0, 2))
        weight = x.size(0) / (source_images + x.size(0))
        source_mean, source_var = norm.source
        return norm.normalize(x, source_mean + (mean - source_mean) * weight, source_var + (var - source_var) * weight)

    return rule
