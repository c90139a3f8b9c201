"""The only place that calls ``backward`` and steps; what is not finite moves nothing."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from adapters.options import Optimizer
from adapters.parts.vector import Vector

_MOMENTS: Mapping[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.Adam: ("step", "exp_avg", "exp_avg_sq"),
    torch.optim.SGD: ("momentum_buffer",),
}


class Descent(nn.Module):
    """An optimizer over vectors that refuses losses and gradients that are not finite.

    A refused step changes nothing at all: no weight, no moment, no momentum. An empty selection counts as not finite,
    since the mean over nothing is NaN. Gradients stay readable until the next call.
    """

    def __init__(self, *vectors: Vector, optimizer: Optimizer = "adam", nesterov: bool = False) -> None:
        super().__init__()
        self._vectors = vectors
        leaves = [nn.Parameter(v.values) for v in vectors]
        self._optimizer: torch.optim.Optimizer
        if optimizer == "adam":
            self._optimizer = torch.optim.Adam([{"params": [leaf]} for leaf in leaves], fused=True)
        else:
            groups = [{"params": [leaf]} for leaf in leaves]
            self._optimizer = torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=nesterov, fused=True)
        self._leaves = leaves

    def __call__(self, loss: Tensor, lr: float | Sequence[float], momentum: float = 0.9) -> bool:
        """Descend ``loss`` once, with one step size or one a vector. False: refused, nothing changed."""
        return self.backward(loss) and self.step(lr, momentum)

    def backward(self, loss: Tensor) -> bool:
        """Leave the gradient of ``loss`` in the vectors. False where the loss or its gradient is not finite."""
        gradients = [v.gradient for v in self._vectors]
        for gradient in gradients:
            gradient.zero_()
        if not loss.requires_grad:
            return False
        loss.backward()  # type: ignore[no-untyped-call]
        size = torch.stack([g.abs().max() for g in gradients]).max()
        return bool(torch.isfinite(loss.detach() + size))

    def step(self, lr: float | Sequence[float], momentum: float = 0.9) -> bool:
        """Step along the gradients as they stand."""
        rates = [lr] * len(self._leaves) if isinstance(lr, float | int) else list(lr)
        for group, rate, leaf, vector in zip(
            self._optimizer.param_groups, rates, self._leaves, self._vectors, strict=True
        ):
            leaf.grad = vector.gradient
            group["lr"] = rate
            if "betas" in group:
                group["betas"] = (momentum, group["betas"][1])
            else:
                group["momentum"] = momentum
        self._optimizer.step()
        return True

    def forget(self) -> None:
        """Drop moments and momentum, as if no step had been taken."""
        self._optimizer.state.clear()

    def get_extra_state(self) -> Mapping[str, Tensor]:
        """The optimizer's moments by ``vector/name``; empty before the first step."""
        state = self._optimizer.state
        return {
            f"{i}/{name}": moment
            for i, leaf in enumerate(self._leaves)
            for name, moment in state.get(leaf, {}).items()
            if isinstance(moment, Tensor)
        }

    def set_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `get_extra_state` returned.

        Raises:
            ValueError: it is of another optimizer or of other vectors; nothing has changed.
        """
        known = _MOMENTS[type(self._optimizer)]
        for key, moment in state.items():
            index, _, name = key.partition("/")
            fits = int(index) < len(self._leaves) and moment.shape in ((), self._leaves[int(index)].shape)
            if name not in known or not fits:
                raise ValueError(f"{key} is no moment of this optimizer, or one of other tensors")
        self._optimizer.state.clear()
        for key, moment in state.items():
            index, _, name = key.partition("/")
            leaf = self._leaves[int(index)]
            self._optimizer.state[leaf][name] = moment.detach().clone().to(leaf.device)
