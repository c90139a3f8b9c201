"""The tensors that learn, laid end to end, so that restoring, averaging and stepping are one operation each."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn


class Vector:
    """One flat tensor of which the given parameters become views; so do their gradients, once `gradient` is asked for.

    ``values`` and ``gradient`` have one element for each element of the parameters, in the given order.

    Raises:
        ValueError: there is nothing to lay out, or the parameters differ in dtype or device.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        if not parameters:
            raise ValueError("nothing here can learn: the network has none of the tensors that the method trains")
        if len({(p.dtype, p.device) for p in parameters}) > 1:
            raise ValueError("the learning tensors differ in dtype or device; convert the network to one of each")
        self.parameters = list(parameters)
        laid = _laid_already(self.parameters)
        self.values = laid if laid is not None else torch.cat([_end_to_end(p.detach()) for p in self.parameters])
        if laid is None:
            for parameter, view in zip(self.parameters, self.views(self.values), strict=True):
                parameter.data = view
        self._gradient: Tensor | None = None

    @property
    def gradient(self) -> Tensor:
        """Where ``backward`` leaves the gradient of the last loss. All zeros before the first."""
        if self._gradient is None:
            self._gradient = torch.zeros_like(self.values)
            for parameter, view in zip(self.parameters, self.views(self._gradient), strict=True):
                parameter.grad = view
        return self._gradient

    def attached(self) -> Tensor:
        """The values as a function of the parameters, so that a loss on them reaches the parameters."""
        return cast("Tensor", _Attached.apply(self, *self.parameters))  # type: ignore[no-untyped-call]

    def views(self, flat: Tensor) -> list[Tensor]:
        """``flat``, which has one element for each of ours, cut and shaped like the parameters."""
        pieces = torch.split(flat, [p.numel() for p in self.parameters])
        return [
            piece.as_strided(p.shape, p.stride(), piece.storage_offset()) if _dense(p) else piece.view(p.shape)
            for piece, p in zip(pieces, self.parameters, strict=True)
        ]

    def row_major(self, flat: Tensor) -> Tensor:
        """``flat`` in the order of a file: parameter by parameter, row by row, whatever their memory format."""
        return torch.cat([view.reshape(-1) for view in self.views(flat)])

    def laid(self, row_major: Tensor) -> Tensor:
        """What `row_major` returned, in the order of ``values`` and in its dtype; itself where it is so already.

        Raises:
            ValueError: it is of other parameters than these.
        """
        if row_major.shape != self.values.shape:
            raise ValueError(f"the prior is of {row_major.numel()} elements, but {self.values.numel()} learn here")
        if all(p.is_contiguous() for p in self.parameters):
            return row_major.to(self.values)
        flat = torch.empty_like(self.values)
        start = 0
        for view in self.views(flat):
            view.copy_(row_major[start : start + view.numel()].view(view.shape))
            start += view.numel()
        return flat


class _Attached(torch.autograd.Function):
    """The parameters as the flat tensor that they are views of; its gradient is cut the same way."""

    @staticmethod
    def forward(ctx: Any, vector: Vector, *_: Tensor) -> Tensor:  # noqa: ANN401 - torch's own context
        """The flat tensor."""
        ctx.vector = vector
        return vector.values.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - as above
        """The pieces of the flat gradient."""
        return None, *ctx.vector.views(gradients[0].contiguous())


def _laid_already(parameters: Sequence[nn.Parameter]) -> Tensor | None:
    """The storage that these parameters already fill end to end, if there is one."""
    first = parameters[0].detach()
    offset = first.storage_offset()
    for p in parameters:
        same = p.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not (same and p.storage_offset() == offset and _dense(p)):
            return None
        offset += p.numel()
    return first.as_strided((offset - first.storage_offset(),), (1,), first.storage_offset())


def _dense(tensor: Tensor) -> bool:
    return tensor.is_contiguous() or (tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last))  # noqa: PLR2004 - images


def _end_to_end(tensor: Tensor) -> Tensor:
    if _dense(tensor):
        return tensor.as_strided((tensor.numel(),), (1,), tensor.storage_offset())
    return tensor.reshape(-1)
