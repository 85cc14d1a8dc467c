"""Cross-layer equalisation: equal channel ranges of two convolutions, without changing the result.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019,
section 4.1: channel c of the first convolution is divided by s_c and the second one's weights for
channel c are multiplied by it; a ReLU between them commutes with that. With r1 and r2 the largest
magnitudes of a channel's weights in the first and the second, s_c = sqrt(r1 / r2) makes both
sqrt(r1 r2). Depthwise convolutions gain most: their channels may differ a hundredfold, and share
one scale for all activations.

Two things differ from the paper. s_c is rounded to a power of two, so that floating-point results
are the same bit for bit. And a Clip(0, 6) is kept: the paper replaces it by a ReLU, which is
another function. A channel before one is scaled only if interval arithmetic proves that the upper
limit never applies, neither before nor after scaling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from lpx.graph.bounds import Bounds, tensor_bounds
from lpx.graph.nodes import cuts_at_zero, name_of, optional_input

# Passes over all pairs; usually a few until nothing changes.
_SWEEPS = 20
# A channel is scaled by at most 2**6: one that batch norm has almost switched off has tiny weights,
# and its bias would overflow float16.
_LARGEST_EXPONENT = 6
# Operators that commute with a positive factor per channel.
_COMMUTE = frozenset({"Relu", "LeakyRelu", "MaxPool", "AveragePool", "Clip"})


@dataclass(frozen=True)
class Pair:
    """A pair of convolutions and its equalisation.

    Attributes:
        first: Name of the node that computes the channels.
        second: Name of the node that reads them; "" if there is none to scale.
        channels: Number of channels.
        scaled: Number of channels that were scaled.
        reason: Why others were not.
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
    convolutions = [node for node in model.graph if _is_convolution(node)]
    partners = {node: _partner(node) for node in convolutions}
    links: dict[ir.Node, _Link] = {}
    for node, partner in partners.items():
        if partner.second is not None:
            links[node] = _Link(node, partner.second, partner.clip)
    for _ in range(_SWEEPS):
        known = tensor_bounds(model)
        # A list: every pair takes its step, whether or not an earlier one changed something.
        if not any([link.step(known) for link in links.values()]):
            break
    return tuple(_pair(node, links.get(node), partners[node].reason) for node in convolutions)


def _pair(node: ir.Node, link: _Link | None, reason: str) -> Pair:
    channels = _weight(node).shape[0]
    if link is None:
        return Pair(name_of(node), "", channels, 0, reason)
    scaled = int(np.count_nonzero(link.exponents))
    return Pair(name_of(node), name_of(link.second), channels, scaled, link.reason)


def _is_convolution(node: ir.Node) -> bool:
    """Return True for a two-dimensional convolution that shares neither weight nor bias."""
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


class _Partner(NamedTuple):
    """Second convolution of a pair, the Clip between the two, or the reason why there is none."""

    second: ir.Node | None = None
    clip: ir.Node | None = None
    reason: str = ""


def _partner(node: ir.Node) -> _Partner:
    """Find the only convolution that reads this one's channels."""
    value, clip = node.outputs[0], None
    while True:
        readers = tuple(value.uses())
        if value.is_graph_output() or len(readers) != 1:
            return _Partner(reason=f"{value.name} is read by more than one node, or is an output")
        reader, index = readers[0]
        if _is_convolution(reader) and index == 0:
            return _Partner(reader, clip)
        if reader.op_type not in _COMMUTE:
            return _Partner(reason=f"{reader.op_type} does not commute with a factor per channel")
        if reader.op_type == "Clip":
            if clip is not None or not (cuts_at_zero(reader) and _limit_is_known(reader)):
                return _Partner(reason="a Clip whose lower limit is not 0")
            clip = reader
        value = reader.outputs[0]


def _limit_is_known(clip: ir.Node) -> bool:
    high = optional_input(clip, 2)
    return high is None or high.const_value is not None


class _Link:
    """Two convolutions, and the exponents that their channels have been scaled by so far."""

    def __init__(self, first: ir.Node, second: ir.Node, clip: ir.Node | None) -> None:
        self.first, self.second, self.clip = first, second, clip
        self.exponents = np.zeros(_weight(first).shape[0], np.int64)
        self.reason = ""

    def step(self, known: dict[str, Bounds]) -> bool:
        """Scale once towards equal ranges; return True if anything changed."""
        made = np.abs(_weight(self.first)).max(axis=(1, 2, 3)).astype(np.float64)
        read = self._read_magnitudes()
        # Channels of zeros have no range to equalise.
        alive = (made > 0) & (read > 0)
        ratio = np.where(alive, made, 1.0) / np.where(alive, read, 1.0)
        wanted = np.rint(np.log2(ratio) / 2).astype(np.int64)
        wanted = np.clip(self.exponents + wanted, -_LARGEST_EXPONENT, _LARGEST_EXPONENT)
        change = self._allowed(wanted - self.exponents, known)
        self._scale(change)
        self.exponents += change
        return bool(change.any())

    def _read_magnitudes(self) -> NDArray[np.float64]:
        """Return the largest weight of the second convolution for each channel."""
        weight = np.abs(_weight(self.second)).max(axis=(2, 3)).astype(np.float64)
        groups = self.second.attributes.get_int("group", 1)
        largest: NDArray[np.float64] = weight.reshape(groups, -1, weight.shape[1]).max(axis=1)
        return largest.reshape(-1)

    def _allowed(self, change: NDArray[np.int64], known: dict[str, Bounds]) -> NDArray[np.int64]:
        """Restrict a change so that the upper limit of the Clip never applies."""
        if self.clip is None or (high := optional_input(self.clip, 2)) is None:
            return change
        assert self.clip.inputs[0] is not None
        limit = float(high.const_value.numpy())  # type: ignore[union-attr]
        highest = np.broadcast_to(known[str(self.clip.inputs[0].name)].high, change.shape)
        # Channels that may be clipped already are left as they are.
        idle = highest <= limit
        if acting := int(np.count_nonzero(~idle)):
            self.reason = f"{acting} channels may reach the upper limit of {name_of(self.clip)}"
        # The others may grow until their bound meets the limit; those below zero, as they like.
        share = np.where(idle & (highest > 0), highest / limit, 2.0**-_LARGEST_EXPONENT / 4)
        least = np.ceil(np.log2(share)).astype(np.int64)
        return np.where(idle, np.maximum(change, least), 0)

    def _scale(self, change: NDArray[np.int64]) -> None:
        factor = np.exp2(change).astype(np.float32)
        _replace(self.first.inputs[1], _weight(self.first) / factor.reshape(-1, 1, 1, 1))
        bias = optional_input(self.first, 2)
        if bias is not None:
            _replace(bias, bias.const_value.numpy() / factor)  # type: ignore[union-attr]
        weight = _weight(self.second)
        groups = self.second.attributes.get_int("group", 1)
        per_output = np.repeat(factor.reshape(groups, -1), len(weight) // groups, axis=0)
        _replace(self.second.inputs[1], weight * per_output[:, :, None, None])


def _replace(value: ir.Value | None, array: NDArray[np.floating]) -> None:
    assert value is not None
    value.const_value = ir.tensor(array.astype(np.float32), name=value.name)
