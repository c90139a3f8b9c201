"""Operators that lay numbers out differently, pick some, or make new ones."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tta_daemon.model.imported import Compute
from tta_daemon.model.onnx_import.operator import Bound, Operator, bound, plain

Sizes = Sequence[int]

FARTHEST = 1 << 31


def _constant(of: Bound) -> Compute:
    given = of.node.attributes
    for name in ("value", "value_float", "value_int", "value_floats", "value_ints"):
        if name in given:
            value = given[name]
            return lambda: value if isinstance(value, Tensor) else torch.tensor(value)
    raise of.unsupported("a constant of a type that is not read")


def _shape(of: Bound) -> Compute:
    start, end = of.integer("start", 0), of.node.attributes.get("end")
    return lambda x: torch.tensor(x.shape[start : end if isinstance(end, int) else None], dtype=torch.int64)


def _reshape(of: Bound) -> Compute:
    literal = bool(of.integer("allowzero", 0))

    def reshape(x: Tensor, shape: Sizes) -> Tensor:
        if literal:
            return x.reshape(tuple(shape))
        return x.reshape([x.size(i) if isinstance(size, int) and size == 0 else size for i, size in enumerate(shape)])

    return reshape


def _flatten(of: Bound) -> Compute:
    axis = of.integer("axis", 1)

    def flatten(x: Tensor) -> Tensor:
        at = axis + x.dim() if axis < 0 else axis
        if at == 1 and x.dim() > 1:
            return x.flatten(1)
        return x.reshape(x.shape[:at].numel(), -1) if at else x.reshape(1, -1)

    return flatten


def _squeeze(of: Bound) -> Compute:
    named = of.integers("axes")

    def squeeze(x: Tensor, axes: Sizes | None = named) -> Tensor:
        return x.squeeze() if axes is None else x.squeeze(tuple(axes))

    return squeeze


def _unsqueeze(of: Bound) -> Compute:
    named = of.integers("axes")

    def unsqueeze(x: Tensor, axes: Sizes | int | None = named) -> Tensor:
        wanted = [axes] if isinstance(axes, int) else list(axes or ())
        for axis in sorted(axis % (x.dim() + len(wanted)) for axis in wanted):
            x = x.unsqueeze(axis)
        return x

    return unsqueeze


def _transpose(of: Bound) -> Compute:
    order = of.integers("perm")
    return lambda x: x.permute(order if order is not None else tuple(reversed(range(x.dim()))))


def _concat(of: Bound) -> Compute:
    axis = of.integer("axis", 0)
    return lambda *given: torch.cat(given, axis)


def _split(of: Bound) -> Compute:
    axis, named, parts = of.integer("axis", 0), of.integers("split"), len(of.node.outputs)

    def split(x: Tensor, sizes: Sizes | None = named) -> tuple[Tensor, ...]:
        return torch.split(x, -(-x.size(axis) // parts) if sizes is None else list(sizes), axis)

    return split


def _slice(x: Tensor, starts: Sizes, ends: Sizes, axes: Sizes | None = None, steps: Sizes | None = None) -> Tensor:
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis, step = axes[i] if axes is not None else i, steps[i] if steps is not None else 1
        if step > 0:
            x = x[(slice(None),) * (axis % x.dim()) + (slice(_near(start), _near(end), step),)]
        else:
            picked = range(x.size(axis))[slice(start, max(end, -x.size(axis) - 1), step)]
            x = x.index_select(axis, torch.tensor(list(picked), device=x.device, dtype=torch.int64))
    return x


def _near(place: int) -> int:
    """A place in an axis; exporters write the largest number there is where they mean the end."""
    return max(-FARTHEST, min(FARTHEST, place)) if isinstance(place, int) else place


def _gather(of: Bound) -> Compute:
    axis = of.integer("axis", 0)

    def gather(x: Tensor, index: Tensor | int) -> Tensor:
        if isinstance(index, int):
            return x.select(axis, index)
        size, at = x.size(axis), axis % x.dim()
        positive = torch.where(index < 0, index + size, index)
        picked = x.index_select(at, positive.reshape(-1).to(torch.int64))
        return picked.reshape(*x.shape[:at], *index.shape, *x.shape[at + 1 :])

    return gather


def _gather_elements(of: Bound) -> Compute:
    axis = of.integer("axis", 0)
    return lambda x, index: x.gather(axis, torch.where(index < 0, index + x.size(axis), index))


def _gather_nd(of: Bound) -> Compute:
    if of.integer("batch_dims", 0):
        raise of.unsupported("picking by batch is not known")
    return lambda x, index: x[index.to(torch.int64).unbind(-1)]


def _scatter_nd(of: Bound) -> Compute:
    if of.text("reduction", "none") != "none":
        raise of.unsupported("numbers are only replaced, not combined")

    def scatter(x: Tensor, index: Tensor, update: Tensor) -> Tensor:
        return x.index_put(index.to(torch.int64).unbind(-1), update)

    return scatter


def _expand(x: Tensor, shape: Sizes) -> Tensor:
    rank = max(x.dim(), len(shape))
    mine = (1,) * (rank - x.dim()) + tuple(x.shape)
    wanted = (1,) * (rank - len(shape)) + tuple(shape)
    return x.expand([m if isinstance(w, int) and w == 1 else w for m, w in zip(mine, wanted, strict=True)])


def _pad(of: Bound) -> Compute:
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}.get(
        of.text("mode", "constant")
    )
    if mode is None:
        raise of.unsupported("this mode is not known")

    def pad(x: Tensor, pads: Sizes, value: float | None = None, axes: Sizes | None = None) -> Tensor:
        sides = [[0, 0] for _ in range(x.dim())]
        for i, axis in enumerate(axes if axes is not None else range(x.dim())):
            sides[axis] = [pads[i], pads[i + len(pads) // 2]]
        if mode != "constant":
            if sides[0] != [0, 0] or sides[1] != [0, 0]:
                raise of.unsupported("batch and channels are padded by constants only")
            del sides[:2]
        flat = [size for side in reversed(sides) for size in side]
        return functional.pad(x, flat, mode, value if mode == "constant" else None)

    return pad


def _filled(of: Bound) -> Compute:
    value = of.tensor("value")
    like = torch.zeros(1) if value is None else value
    return lambda shape: torch.full(tuple(shape), like.item(), dtype=like.dtype)


def _range(start: float, end: float, step: float) -> Tensor:
    return torch.arange(start, end, step)


def _triangle(of: Bound) -> Compute:
    cut = torch.triu if of.integer("upper", 1) else torch.tril
    return lambda x, k=0: cut(x, k)


def _depth_to_space(of: Bound) -> Compute:
    block, rows_first = of.integer("blocksize", 1), of.text("mode", "DCR") == "CRD"

    def shuffle(x: Tensor) -> Tensor:
        if rows_first:
            return functional.pixel_shuffle(x, block)
        n, c, h, w = x.shape
        apart = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
        return apart.reshape(n, c // block**2, h * block, w * block)

    return shuffle


def _space_to_depth(of: Bound) -> Compute:
    block = of.integer("blocksize", 1)

    def gather(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        apart = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
        return apart.reshape(n, c * block**2, h // block, w // block)

    return gather


_INTERPOLATION = {
    ("linear", "half_pixel"): ("bilinear", False), ("linear", "pytorch_half_pixel"): ("bilinear", False),
    ("linear", "align_corners"): ("bilinear", True), ("cubic", "half_pixel"): ("bicubic", False),
    ("cubic", "pytorch_half_pixel"): ("bicubic", False), ("cubic", "align_corners"): ("bicubic", True),
    ("nearest", "asymmetric"): ("nearest", None), ("nearest", "half_pixel"): ("nearest-exact", None),
}  # fmt: skip


def _resize(of: Bound) -> Compute:
    kind = (of.text("mode", "nearest"), of.text("coordinate_transformation_mode", "half_pixel"))
    known = _INTERPOLATION.get(kind)
    if known is None or of.integer("antialias", 0) or of.integers("axes") is not None:
        raise of.unsupported(f"interpolation of the kind {' '.join(kind)} is not known")
    mode, corners = known

    def resize(x: Tensor, _: Any = None, scales: Any = None, sizes: Sizes | None = None) -> Tensor:  # noqa: ANN401 - lists or None
        size = list(sizes)[2:] if sizes else [int(n * s) for n, s in zip(x.shape[2:], scales[2:], strict=True)]
        return functional.interpolate(x, size=size, mode=mode, align_corners=corners)

    return resize


OPERATORS: Mapping[str, Operator] = {
    "Concat": bound(_concat),
    "Constant": bound(_constant),
    "ConstantOfShape": bound(_filled, static=(0,)),
    "DepthToSpace": bound(_depth_to_space),
    "Expand": plain(_expand, static=(1,)),
    "Flatten": bound(_flatten),
    "Gather": bound(_gather, scalars=(1,)),
    "GatherElements": bound(_gather_elements),
    "GatherND": bound(_gather_nd),
    "Pad": bound(_pad, static=(1, 2, 3)),
    "Range": plain(_range, static=(0, 1, 2)),
    "Reshape": bound(_reshape, static=(1,)),
    "Resize": bound(_resize, static=(1, 2, 3)),
    "ScatterND": bound(_scatter_nd),
    "Shape": bound(_shape),
    "Size": plain(lambda x: torch.tensor(x.numel(), dtype=torch.int64)),
    "Slice": plain(_slice, static=(1, 2, 3, 4)),
    "SpaceToDepth": bound(_space_to_depth),
    "Split": bound(_split, static=(1,)),
    "Squeeze": bound(_squeeze, static=(1,)),
    "Tile": plain(lambda x, repeats: x.repeat(tuple(repeats)), static=(1,)),
    "Transpose": bound(_transpose),
    "Trilu": bound(_triangle, static=(1,)),
    "Unsqueeze": bound(_unsqueeze, static=(1,)),
}
