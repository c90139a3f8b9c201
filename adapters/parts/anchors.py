"""Quadratic pulls that hold learning tensors near where they came from (EATA, eq. 8; PETAL, eq. 5)."""

from torch import Tensor

from adapters.parts.vector import Vector


def weighted_distance(vector: Vector, center: Tensor, weight: Tensor) -> Tensor:
    """Sum of ``weight`` (x - ``center``)^2 over all elements x of ``vector``, which its parameters learn from."""
    return (weight * (vector.attached() - center).square()).sum()
