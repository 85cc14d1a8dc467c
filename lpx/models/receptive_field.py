"""Receptive field, stride and grid of any convolutional module, read off its traced graph.

The recurrences are those of Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional
Neural Networks", Distill 2019: r_l = r_{l-1} + (k_l - 1) j_{l-1}, j_l = j_{l-1} s_l,
n_l = floor((n + 2p - k) / s) + 1. Here the two ends of unit 0's field are followed instead of r, so
that asymmetric padding and where a unit looks come out too. Where paths join, the field is their
union: a skip path never enlarges it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from lpx.errors import LpxError, out_of_memory


@dataclass(frozen=True)
class ReceptiveField:
    """What a classification unit sees, in input pixels.

    Attributes:
        size: Side of the square that a unit sees, pixels; None where `strictly_local` is False.
        stride: Distance of neighbouring units, pixels; None where unknown.
        start: First pixel (may be negative: padding) that unit 0 sees; None where unknown.
        grid: Units (h, w).
        strictly_local: Whether no pixel outside the field can change a unit.
        reason: The operation that breaks locality; empty where none does.
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
        """(x0, y0, x1, y1) of the pixels that unit (row, column) sees, x1 and y1 exclusive."""
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
        low = self.low - padding * self.step
        reach = ((kernel - 1) * dilation - padding) * self.step
        return _Field(low, self.high + reach, self.step * stride)


@dataclass(frozen=True)
class _Global:
    """A value that depends on every pixel, and the operation that made it so."""

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
    """The one number of a square kernel, stride or padding ([] and [n] mean the same for both)."""
    if len(set(values)) > 1:
        raise LpxError(
            f"a kernel, stride or padding of {list(values)}", "only square ones are analysed"
        )
    return int(values[0])


def _call(node: fx.Node) -> tuple[str, dict[str, Any]]:
    """Name of an ATen operation without `aten.`, overload and in-place mark, and its arguments."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        # Not an operation: Python's getitem on a tuple of tensors, or control flow.
        return getattr(node.target, "__name__", str(node.target)), {}
    values: dict[str, Any] = {a.name: a.default_value for a in schema.arguments}
    values |= dict(zip(values, node.args, strict=False)) | dict(node.kwargs)
    return schema.name.removeprefix("aten::").removesuffix("_"), values


def _follow(node: fx.Node, field: _Field) -> _Field | _Global:
    """The field after an operation whose joined inputs have field `field`."""
    name, values = _call(node)
    if name in _ELEMENTWISE:
        return field
    if name == "batch_norm":
        # Without running statistics it takes those of the batch, in eval mode too.
        return _Global(f"{node.name}: {name} over the batch") if values["training"] else field
    if name in _ALONG_A_DIMENSION:
        rank = node.all_input_nodes[0].meta["val"].ndim
        if values["dim"] % rank < rank - 2:
            return field
    if name == "conv2d":
        kernel = _square(node.args[1].meta["val"].shape[-2:])  # type: ignore[union-attr]
        dilation = _square(values["dilation"])
        padding = values["padding"]
        if isinstance(padding, str):
            padding = [(kernel - 1) * dilation // 2 if padding == "same" else 0]
        return field.window(kernel, _square(values["stride"]), _square(padding), dilation)
    if name in ("max_pool2d", "avg_pool2d"):
        kernel = _square(values["kernel_size"])
        stride = _square(values["stride"]) if values["stride"] else kernel
        dilation = _square(values.get("dilation", [1]))
        return field.window(kernel, stride, _square(values["padding"]), dilation)
    if name == "pad" and values["mode"] != "circular":
        pads: list[int] = list(values["pad"])
        left, _, top, *_ = [*pads, 0, 0, 0]
        if left == top:
            shift = left * field.step
            return _Field(field.low - shift, field.high - shift, field.step)
        return _Global(f"{node.name}: pads height and width differently")
    return _Global(f"{node.name}: {name} mixes positions")


def _join(fields: list[_Field | _Global], node: fx.Node) -> _Field | _Global:
    if broken := next((f for f in fields if isinstance(f, _Global)), None):
        return broken
    local = [f for f in fields if isinstance(f, _Field)]
    if len({f.step for f in local}) != 1:
        return _Global(f"{node.name}: joins paths of different strides")
    return _Field(min(f.low for f in local), max(f.high for f in local), local[0].step)


def _macs(node: fx.Node) -> int:
    """Multiply-accumulates of a convolution or matrix product on one face."""
    name, _ = _call(node)
    if name not in ("conv2d", "linear"):
        return 0
    weight = node.args[1].meta["val"].shape  # type: ignore[union-attr]
    return int(node.meta["val"].shape[1:].numel() * weight[1:].numel())


def _trace(module: nn.Module, input_size: int) -> fx.Graph:
    modes = [(part, part.training) for part in module.modules()]
    try:
        faces = torch.zeros(1, 3, input_size, input_size)
        program = torch.export.export(module.eval(), (faces,), strict=False)
    except Exception as error:
        # torch.export has no one error type; whatever it says, the user's model is the reason.
        if short := out_of_memory(error):
            raise short from error
        raise LpxError(
            f"{type(module).__name__} cannot be traced at {input_size} px",
            (str(error).strip().splitlines() or [type(error).__name__])[0],
            "use a larger `input_size`, or a module that torch.export can trace",
        ) from error
    finally:
        for part, training in modes:
            part.training = training
    graph: fx.Graph = program.graph
    return graph


def analyse(module: nn.Module, input_size: int) -> ReceptiveField:
    """Receptive field of a module that maps [B, 3, H, W] to [B, h, w] or [B, C, h, w].

    Args:
        module: Any module that `torch.export` can trace; it is analysed in eval mode and left as
            it was. Of several outputs the last one (the map) is analysed.
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
            if inputs := [fields[a] for a in node.all_input_nodes if a in fields]:
                joined = _join(inputs, node)
                fields[node] = _follow(node, joined) if isinstance(joined, _Field) else joined
    last = graph.output_node().args[0][-1]  # type: ignore[index]
    return _result(fields.get(last), last.meta["val"], macs / 1e9)  # type: ignore[arg-type,union-attr]


def _input_name(graph: fx.Graph) -> str:
    """Name of the placeholder of the faces: the last one, after parameters and buffers."""
    names: list[str] = [node.name for node in graph.nodes if node.op == "placeholder"]
    return names[-1]


def _result(field: _Field | _Global | None, value: Tensor, gmac: float) -> ReceptiveField:
    grid = (int(value.shape[-2]), int(value.shape[-1])) if value.ndim > 2 else (1, 1)
    if not isinstance(field, _Field):
        reason = field.reason if field else "the output does not depend on the input"
        return ReceptiveField(None, None, None, grid, False, reason, gmac)
    size = field.high - field.low + 1
    return ReceptiveField(size, field.step, field.low, grid, True, "", gmac)
