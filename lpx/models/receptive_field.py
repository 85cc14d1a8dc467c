"""Receptive field, stride and grid of a convolutional module, computed on its traced graph.

The recurrences are those of Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional
Neural Networks", Distill 2019: r_l = r_{l-1} + (k_l - 1) j_{l-1}, j_l = j_{l-1} s_l,
n_l = floor((n + 2p - k) / s) + 1. Here both ends of unit 0's field are followed instead of r, which
also handles asymmetric padding and gives the position of the field. Where paths join, the field is
their union: a skip path never enlarges it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from lpx.errors import LpxError, first_line, out_of_memory


@dataclass(frozen=True)
class ReceptiveField:
    """Receptive field of a classification unit, in input pixels.

    Attributes:
        size: Side of the square that a unit sees, pixels; None if `strictly_local` is False.
        stride: Distance of neighbouring units, pixels; None if unknown.
        start: First pixel that unit 0 sees, negative in the padding; None if unknown.
        grid: Units (h, w).
        strictly_local: Whether a unit depends on no pixel outside its field.
        reason: The operation that breaks locality; "" if none does.
        gmac: Multiply-accumulates of one face, in units of 1e9.
    """

    size: int | None
    stride: int | None
    start: int | None
    grid: tuple[int, int]
    strictly_local: bool
    reason: str
    gmac: float

    def box(self, row: int, column: int) -> tuple[int, int, int, int] | None:
        """Return (x0, y0, x1, y1) of the pixels that a unit sees, x1 and y1 exclusive.

        None if the field is unknown.
        """
        if self.size is None or self.stride is None or self.start is None:
            return None
        x0 = self.start + column * self.stride
        y0 = self.start + row * self.stride
        return x0, y0, x0 + self.size, y0 + self.size


@dataclass(frozen=True)
class _Field:
    """Pixels [low, high] that unit 0 sees, and the step to the next unit."""

    low: int
    high: int
    step: int

    def window(self, kernel: int, stride: int, padding: int, dilation: int = 1) -> _Field:
        """Return the field after a convolution or pooling."""
        low = self.low - padding * self.step
        reach = ((kernel - 1) * dilation - padding) * self.step
        return _Field(low, self.high + reach, self.step * stride)


@dataclass(frozen=True)
class _Global:
    """A value that may depend on every pixel, and the operation that is the reason."""

    reason: str


_ELEMENTWISE = {
    "add",
    "mul",
    "sub",
    "div",
    "sigmoid",
    "tanh",
    "relu",
    "relu6",
    "prelu",
    "leaky_relu",
    "elu",
    "silu",
    "gelu",
    "mish",
    "softplus",
    "hardtanh",
    "hardswish",
    "hardsigmoid",
    "clamp",
    "dropout",
    "feature_dropout",
    "alias",
    "to",
    "_to_copy",
    "contiguous",
    "clone",
    "detach",
    "squeeze",
    "unsqueeze",
    "getitem",
}
_ALONG_A_DIMENSION = {"cat", "chunk", "split", "split_with_sizes"}


def _square(values: Any) -> int:
    """Return the number of a square kernel, stride or padding, given as [n] or [n, n]."""
    if len(set(values)) > 1:
        raise LpxError(
            f"a kernel, stride or padding of {list(values)}", "only square ones are analysed"
        )
    return int(values[0])


class _Call(NamedTuple):
    """An operation and its arguments by name."""

    name: str
    arguments: dict[str, Any]


def _call(node: fx.Node) -> _Call:
    """Return the name of an ATen operation, without namespace and overload, and its arguments."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        # Not an operation of PyTorch: Python's getitem on a tuple of tensors, or control flow.
        return _Call(getattr(node.target, "__name__", str(node.target)), {})
    values: dict[str, Any] = {a.name: a.default_value for a in schema.arguments}
    values |= dict(zip(values, node.args, strict=False)) | dict(node.kwargs)
    # A trailing underscore marks the variant that works in place.
    return _Call(schema.name.removeprefix("aten::").removesuffix("_"), values)


def _follow(node: fx.Node, field: _Field) -> _Field | _Global:
    """Return the field after an operation, from the joined field of its inputs."""
    name, values = _call(node)
    if name in _ELEMENTWISE:
        return field
    if name == "batch_norm":
        # Without running statistics it uses those of the batch, in eval mode too.
        if values["training"]:
            return _Global(f"{node.name}: {name} over the batch")
        return field
    if name in _ALONG_A_DIMENSION:
        rank = node.all_input_nodes[0].meta["val"].ndim
        # The last two dimensions are the positions; joining others leaves positions where they are.
        if values["dim"] % rank < rank - 2:
            return field
    if name == "conv2d":
        kernel = _square(node.args[1].meta["val"].shape[-2:])  # type: ignore[union-attr]
        dilation = _square(values["dilation"])
        padding = values["padding"]
        if padding == "same":
            padding = [(kernel - 1) * dilation // 2]
        elif padding == "valid":
            padding = [0]
        return field.window(kernel, _square(values["stride"]), _square(padding), dilation)
    if name in ("max_pool2d", "avg_pool2d"):
        kernel = _square(values["kernel_size"])
        # An empty list is PyTorch's default: no overlap.
        stride = _square(values["stride"]) if values["stride"] else kernel
        dilation = _square(values.get("dilation", [1]))
        return field.window(kernel, stride, _square(values["padding"]), dilation)
    if name == "pad" and values["mode"] != "circular":
        # From the last dimension to the first: left, right, top, bottom; missing ones are 0.
        pads: list[int] = list(values["pad"])
        left, _, top, *_ = [*pads, 0, 0, 0]
        if left == top:
            shift = left * field.step
            return _Field(field.low - shift, field.high - shift, field.step)
        return _Global(f"{node.name}: pads height and width differently")
    return _Global(f"{node.name}: {name} mixes positions")


def _join(fields: list[_Field | _Global], node: fx.Node) -> _Field | _Global:
    """Return the union of the fields of an operation's inputs."""
    local: list[_Field] = []
    for field in fields:
        if isinstance(field, _Global):
            return field
        local.append(field)
    if len({field.step for field in local}) != 1:
        return _Global(f"{node.name}: joins paths of different strides")
    low = min(field.low for field in local)
    high = max(field.high for field in local)
    return _Field(low, high, local[0].step)


def _macs(node: fx.Node) -> int:
    """Return the multiply-accumulates of a convolution or matrix product on one face."""
    name, _ = _call(node)
    if name not in ("conv2d", "linear"):
        return 0
    weight = node.args[1].meta["val"].shape  # type: ignore[union-attr]
    # Each output value is a sum over all of the weight's dimensions but the first.
    return int(node.meta["val"].shape[1:].numel() * weight[1:].numel())


def _trace(module: nn.Module, input_size: int) -> fx.Graph:
    # `eval` changes the mode of every part: each gets its own back.
    modes = [(part, part.training) for part in module.modules()]
    try:
        faces = torch.zeros(1, 3, input_size, input_size)
        program = torch.export.export(module.eval(), (faces,), strict=False)
    except Exception as error:
        # torch.export has no common error type, and the reason is always the user's model.
        if short := out_of_memory(error):
            raise short from error
        raise LpxError(
            f"{type(module).__name__} cannot be traced at {input_size} px",
            first_line(error),
            "use a larger `input_size`, or a module that torch.export can trace",
        ) from error
    finally:
        for part, training in modes:
            part.training = training
    graph: fx.Graph = program.graph
    return graph


def analyse(module: nn.Module, input_size: int) -> ReceptiveField:
    """Compute the receptive field of a module that maps [B, 3, H, W] to [B, h, w] or [B, C, h, w].

    Args:
        module: Any module that `torch.export` can trace. It is analysed in eval mode, and its mode
            restored. Of several outputs the last one (the map) is analysed.
        input_size: Side of the square input, pixels.

    Raises:
        LpxError: The input is too small for a single unit, or the module cannot be traced.
    """
    fields: dict[fx.Node, _Field | _Global] = {}
    macs = 0
    graph = _trace(module, input_size)
    faces = _input_name(graph)
    for node in graph.nodes:
        if node.name == faces:
            fields[node] = _Field(0, 0, 1)
        elif node.op == "call_function":
            macs += _macs(node)
            # Weights, and what is computed of them alone, have no field.
            inputs = [fields[one] for one in node.all_input_nodes if one in fields]
            if not inputs:
                continue
            joined = _join(inputs, node)
            if isinstance(joined, _Field):
                joined = _follow(node, joined)
            fields[node] = joined
    last = graph.output_node().args[0][-1]  # type: ignore[index]
    return _result(fields.get(last), last.meta["val"], macs / 1e9)  # type: ignore[arg-type,union-attr]


def _input_name(graph: fx.Graph) -> str:
    """Return the name of the placeholder of the faces."""
    names: list[str] = [node.name for node in graph.nodes if node.op == "placeholder"]
    # Parameters and buffers come first.
    return names[-1]


def _result(field: _Field | _Global | None, value: Tensor, gmac: float) -> ReceptiveField:
    grid = (1, 1)
    if value.ndim > 2:
        grid = (int(value.shape[-2]), int(value.shape[-1]))
    if not isinstance(field, _Field):
        reason = field.reason if field else "the output does not depend on the input"
        return ReceptiveField(None, None, None, grid, False, reason, gmac)
    size = field.high - field.low + 1
    return ReceptiveField(size, field.step, field.low, grid, True, "", gmac)
