"""The methods as research code writes them, to measure against: view by view, tensor by tensor, copy by copy.

Each gives the answers that ``adapters`` gives (`tests/adapters/test_naive.py`), but for what is restored at random.
"""

from collections.abc import Callable, Mapping

from torch import Tensor

from .affine import Eata, Norm, Roid, Rpl, Sar, Tent
from .rotta import Rotta
from .teachers import Cotta, Petal, Rmt

NAIVE: Mapping[str, Callable[..., Callable[[Tensor], Tensor]]] = {
    "norm": Norm, "tent": Tent, "rpl": Rpl, "eata": Eata, "sar": Sar, "roid": Roid, "rotta": Rotta, "cotta": Cotta,
    "petal": Petal, "rmt": Rmt,
}  # fmt: skip
"""Method -> class, built from a classifier, the method's options, its prior and a seed; called with a batch, it answers
and learns. EcoTTA and ViDA are missing: there is no published code of theirs that does what the papers say."""

__all__ = ["NAIVE"]
