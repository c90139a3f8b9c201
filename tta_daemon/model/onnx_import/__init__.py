"""ONNX files as networks of torch, in our own reading: nothing is executed that a file brings along.

``read`` believes nothing that the file says; ``fold`` computes what never changes; ``patterns`` and ``modules`` find
the layers that methods look for; ``build`` makes the network; ``compare`` asks ONNX Runtime whether it answers alike.
"""

from collections.abc import Sequence

from tta_daemon.model.imported import ImportedNetwork
from tta_daemon.model.onnx_import.build import build
from tta_daemon.model.onnx_import.fold import fold
from tta_daemon.model.onnx_import.graph import Graph, Unreadable, Unsupported
from tta_daemon.model.onnx_import.patterns import recognized

__all__ = ["Graph", "ImportedNetwork", "Unreadable", "Unsupported", "network_of"]


def network_of(graph: Graph, size: Sequence[int]) -> ImportedNetwork:
    """The network of a graph, for images of this height and width.

    Raises:
        Unsupported: an operator, or a way of using it, is not known.
        Unreadable: the operators do not fit each other.
    """
    return build(recognized(fold(graph, size))).eval()
