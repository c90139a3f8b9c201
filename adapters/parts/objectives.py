"""Losses per image, N, in nats. Each is one equation; averaging and selecting is the method's business."""

import torch
from torch import Tensor
from torch.nn import functional


def entropy(logits: Tensor) -> Tensor:
    """H(p) = -sum p ln p, p = softmax(logits) (Tent, eq. 1).

    >>> entropy(torch.zeros(1, 4)).exp().round().tolist()
    [4.0]
    """
    log_p = functional.log_softmax(logits, 1)
    return -(log_p.exp() * log_p).sum(1)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-sum softmax(target) ln softmax(logits); both arguments carry gradient unless detached."""
    return -(functional.softmax(target, 1) * functional.log_softmax(logits, 1)).sum(1)


def symmetric_cross_entropy(one: Tensor, other: Tensor) -> Tensor:
    """Half the cross-entropy in either direction (RMT, eq. 4, alpha = 0.5)."""
    return 0.5 * (cross_entropy(one, other) + cross_entropy(other, one))


def generalized_cross_entropy(logits: Tensor, q: float) -> Tensor:
    """(1 - p_y^q) / q for the network's own hard label y; q -> 0 is cross-entropy, q = 1 is 1 - p_y (RPL, eq. 1)."""
    log_p = functional.log_softmax(logits, 1)
    own = log_p.gather(1, logits.argmax(1, keepdim=True)).squeeze(1)
    return -own if q == 0.0 else (1.0 - torch.exp(q * own)) / q


def soft_likelihood_ratio(logits: Tensor, ceiling: float = 0.99, floor: float = 1e-5) -> Tensor:
    """-sum p ln(p / (1 - p) + floor), p clamped to ``ceiling`` (ROID, eq. 4)."""
    p = functional.softmax(logits, 1).clamp(max=ceiling)
    return -(p * torch.log(p / (1.0 - p) + floor)).sum(1)


def mean_of(losses: Tensor, selected: Tensor) -> Tensor:
    """Mean over the selected images; NaN where none is, which `Descent` refuses."""
    return torch.where(selected, losses, 0.0).sum() / selected.sum()
