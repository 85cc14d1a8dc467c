"""Even out the ranges of channels between two convolutions, without changing the function.

Cross-layer equalisation of Nagel et al., "Data-Free Quantization Through Weight Equalization and
Bias Correction", ICCV 2019, section 4.1: channel c of the first convolution is divided by s_c and
its reader's weights for channel c are multiplied by it, which a ReLU between them lets through.
With r1 and r2 the largest magnitudes of a channel's weights in the first and in the second,
s_c = sqrt(r1 / r2) makes both sqrt(r1 r2). Depthwise convolutions, whose channels may differ a
hundredfold under one scale for all activations, gain most.

Two things differ from the paper. s_c is rounded to a power of two, so that floating-point results
stay the same bit for bit. And a Clip(0, 6) stays a Clip(0, 6): the paper puts a ReLU in its place,
which is another function. A channel behind one is scaled only where interval arithmetic proves that
the upper limit never acts, neither before nor after.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from lpx.graph.bounds import Interval, intervals
from lpx.graph.nodes import name_of

_SWEEPS = 20
_LARGEST_EXPONENT = 6
"""A channel is scaled by 2**6 at most: one that batch norm has all but switched off has tiny
weights, and would get a bias that half precision cannot hold."""
# Operators that commute with a positive factor per channel.
_COMMUTE = frozenset({"Relu", "LeakyRelu", "MaxPool", "AveragePool", "Clip"})


@dataclass(frozen=True)
class Pair:
    """Two convolutions, and what was done between them.

    Attributes:
        first: Name of the node that makes the channels.
        second: Name of the node that reads them; "" where there is none to scale.
        channels: How many there are.
        scaled: How many of them were scaled.
        reason: Why not all were.
    """

    first: str
    second: str
    channels: int
    scaled: int
    reason: str


def equalise(model: ir.Model) -> tuple[Pair, ...]:
    """Equalise in place.

    Before: a float32 graph with batch norms folded and every node named. After: the same nodes,
    tensors and outputs; weights and biases of pairs of convolutions are scaled per channel.

    Returns:
        One entry per convolution, in graph order.
    """
    found = [(node, *_partner(node)) for node in model.graph if _is_convolution(node)]
    links = [_Link(first, second, clip) for first, second, clip, _ in found if second is not None]
    for _ in range(_SWEEPS):
        known = intervals(model)
        if not any([link.step(known) for link in links]):
            break
    done = {link.first: link for link in links}
    return tuple(_report(first, done.get(first), reason) for first, _, _, reason in found)


def _report(node: ir.Node, link: _Link | None, reason: str) -> Pair:
    channels = _weight(node).shape[0]
    if link is None:
        return Pair(name_of(node), "", channels, 0, reason)
    scaled = int(np.count_nonzero(link.exponents))
    return Pair(name_of(node), name_of(link.second), channels, scaled, link.reason)


def _is_convolution(node: ir.Node) -> bool:
    """Whether a node is a two-dimensional convolution whose weight and bias are its own."""
    if node.op_type != "Conv":
        return False
    constants = [value for value in node.inputs[1:] if value is not None]
    if not all(value.is_initializer() and len(value.uses()) == 1 for value in constants):
        return False
    return _weight(node).ndim == 4


def _weight(node: ir.Node) -> NDArray[np.float32]:
    value = node.inputs[1]
    assert value is not None
    assert value.const_value is not None
    array: NDArray[np.float32] = value.const_value.numpy()
    return array


def _partner(node: ir.Node) -> tuple[ir.Node | None, ir.Node | None, str]:
    """The convolution that alone reads this one's channels, the Clip between, or why none."""
    value, clip = node.outputs[0], None
    while True:
        readers = tuple(value.uses())
        if value.is_graph_output() or len(readers) != 1:
            return None, None, f"{value.name} is read by more than one node, or is an output"
        reader, index = readers[0]
        if _is_convolution(reader) and index == 0:
            return reader, clip, ""
        if reader.op_type not in _COMMUTE:
            return None, None, f"{reader.op_type} does not commute with a factor per channel"
        if reader.op_type == "Clip":
            if clip is not None or not _cuts_at_zero(reader):
                return None, None, "a Clip whose lower limit is not 0"
            clip = reader
        value = reader.outputs[0]


def _cuts_at_zero(clip: ir.Node) -> bool:
    low, high = (clip.inputs[i] if len(clip.inputs) > i else None for i in (1, 2))
    if low is None or low.const_value is None or float(low.const_value.numpy()) != 0:
        return False
    return high is None or high.const_value is not None


class _Link:
    """Two convolutions under way: the exponents that their channels have been scaled by so far."""

    def __init__(self, first: ir.Node, second: ir.Node, clip: ir.Node | None) -> None:
        self.first, self.second, self.clip = first, second, clip
        self.exponents = np.zeros(_weight(first).shape[0], np.int64)
        self.reason = ""

    def step(self, known: dict[str, Interval]) -> bool:
        """Scale once by what evens out the two weights; whether anything changed."""
        made = np.abs(_weight(self.first)).max(axis=(1, 2, 3)).astype(np.float64)
        read = self._read_magnitudes()
        alive = (made > 0) & (read > 0)
        ratio = np.where(alive, made, 1.0) / np.where(alive, read, 1.0)
        wanted = np.rint(np.log2(ratio) / 2).astype(np.int64)
        wanted = np.clip(self.exponents + wanted, -_LARGEST_EXPONENT, _LARGEST_EXPONENT)
        change = self._allowed(wanted - self.exponents, known)
        self._scale(change)
        self.exponents += change
        return bool(change.any())

    def _read_magnitudes(self) -> NDArray[np.float64]:
        """Largest weight that the second convolution has for each channel."""
        weight = np.abs(_weight(self.second)).max(axis=(2, 3)).astype(np.float64)
        groups = self.second.attributes.get_int("group", 1)
        found: NDArray[np.float64] = weight.reshape(groups, -1, weight.shape[1]).max(axis=1)
        return found.reshape(-1)

    def _allowed(self, change: NDArray[np.int64], known: dict[str, Interval]) -> NDArray[np.int64]:
        """The change that leaves the upper limit of a Clip idle; none where it may act."""
        if self.clip is None or len(self.clip.inputs) < 3 or self.clip.inputs[2] is None:
            return change
        assert self.clip.inputs[0] is not None
        limit = float(self.clip.inputs[2].const_value.numpy())  # type: ignore[union-attr]
        highest = np.broadcast_to(known[str(self.clip.inputs[0].name)].high, change.shape)
        idle = highest <= limit
        if acting := int(np.count_nonzero(~idle)):
            self.reason = f"{acting} channels may reach the upper limit of {name_of(self.clip)}"
        share = np.where(idle & (highest > 0), highest / limit, 2.0**-_LARGEST_EXPONENT / 4)
        least = np.ceil(np.log2(share)).astype(np.int64)
        return np.where(idle, np.maximum(change, least), 0)

    def _scale(self, change: NDArray[np.int64]) -> None:
        factor = np.exp2(change).astype(np.float32)
        _replace(self.first.inputs[1], _weight(self.first) / factor.reshape(-1, 1, 1, 1))
        bias = self.first.inputs[2] if len(self.first.inputs) > 2 else None
        if bias is not None:
            _replace(bias, bias.const_value.numpy() / factor)  # type: ignore[union-attr]
        weight = _weight(self.second)
        groups = self.second.attributes.get_int("group", 1)
        per_output = np.repeat(factor.reshape(groups, -1), len(weight) // groups, axis=0)
        _replace(self.second.inputs[1], weight * per_output[:, :, None, None])


def _replace(value: ir.Value | None, array: NDArray[np.floating]) -> None:
    assert value is not None
    value.const_value = ir.tensor(array.astype(np.float32), name=value.name)
