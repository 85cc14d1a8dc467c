"""Tensors of a checkpoint's modules, by their names in the exported graph."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lpx.engines.torch import TorchEngine
from lpx.graph.batch_norms import OFFSET
from lpx.graph.layers import Layer, parents
from lpx.graph.nodes import ACTIVATIONS, computed_values, name_of
from lpx.models.checkpoint import Detector

# Names of weights and of expanded batch norms; a folded batch norm leaves the convolution's weight
# its name, or names its bias NAME_bias.
_PARAMETER = re.compile(rf"detector\.(.+)\.(?:(?:weight|bias)(?:_bias)?|{OFFSET})")
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_ACTIVATION_MODULES = (nn.ReLU, nn.ReLU6, nn.Hardtanh)


@dataclass(frozen=True)
class _Call:
    """A call of a module: its path, the module, and the shape of its result without the batch."""

    path: str
    module: nn.Module
    shape: tuple[int, ...]


class _Output(NamedTuple):
    """Result of a call of a module."""

    path: str
    module: nn.Module
    tensor: Tensor


class TorchLayers:
    """A checkpoint that returns the tensors of the graph's layers.

    A layer is matched with a call of a module by its context. A convolution has its module's name,
    and includes the batch norm and the activation called next. A batch norm that was not folded is
    an Add with its name. Any other Add is the result of the last module that ends before the next
    convolution, as of a residual block. Results of functions, outside of modules, have no match.

    Args:
        detector: The checkpoint.
        graph: The graph exported from it, with named nodes.
        layers: Layers of the graph.
    """

    def __init__(self, detector: Detector, graph: ir.Model, layers: Sequence[Layer]) -> None:
        self.engine = TorchEngine(detector)
        size = self.engine.size
        pixels = np.zeros((1, size, size, 3), np.uint8)
        self.calls: list[_Call] = []
        for output in self._trace(pixels):
            shape = tuple(output.tensor.shape[1:])
            self.calls.append(_Call(output.path, output.module, shape))
        self.index = _match(graph, layers, self.calls)

    def run(self, pixels: NDArray[np.uint8]) -> Mapping[str, NDArray[np.float32]]:
        """Return the tensors of a batch, uint8 [N, S, S, 3], by their names in the graph.

        Returns:
            float32 arrays, always including "score" and "patch_map".
        """
        names = {index: name for name, index in self.index.items()}
        tensors: dict[str, NDArray[np.float32]] = {}
        for index, output in enumerate(self._trace(pixels, frozenset(names))):
            if index in names:
                tensors[names[index]] = output.tensor.cpu().numpy()
        prediction = self.engine.infer(pixels)
        return {**tensors, "score": prediction.score, "patch_map": prediction.patch_map}

    def _trace(
        self, pixels: NDArray[np.uint8], kept: frozenset[int] | None = None
    ) -> list[_Output]:
        """Return the calls of all modules, in the order in which they end.

        Args:
            pixels: uint8 [N, S, S, 3].
            kept: Indices of the calls whose tensors are kept; all if None.
        """
        calls: list[_Output] = []
        nothing = torch.empty(0)

        def hook(path: str, module: nn.Module, inputs: object, output: object) -> None:
            if not isinstance(output, Tensor):
                return
            tensor = nothing
            if kept is None or len(calls) in kept:
                # A copy: an in-place activation would overwrite the tensor.
                tensor = output.clone()
            calls.append(_Output(path, module, tensor))

        handles = []
        for path, module in self.engine.module.detector.named_modules():
            if path:
                handles.append(module.register_forward_hook(partial(hook, path)))
        try:
            self.engine.infer(pixels)
        finally:
            for handle in handles:
                handle.remove()
        return calls


def _match(graph: ir.Model, layers: Sequence[Layer], calls: Sequence[_Call]) -> dict[str, int]:
    """Return the index of the call that computes each layer's tensor, by tensor; some have none."""
    starts = [i for i, call in enumerate(calls) if isinstance(call.module, nn.Conv2d)]
    paths = [calls[i].path for i in starts]
    expanded = _expanded_norms(graph)
    norms = [i for i, call in enumerate(calls) if call.path in expanded]
    norm_paths = [calls[i].path for i in norms]
    # Calls of convolutions and of expanded batch norms, by tensor. A module that is called more
    # than once cannot be identified by its name.
    anchors: dict[str, int] = {}
    separate: dict[str, int] = {}
    for layer in layers:
        path = _module_path(graph, layer)
        if path and paths.count(path) == 1:
            anchors[layer.tensor] = starts[paths.index(path)]
        elif path and norm_paths.count(path) == 1:
            separate[layer.tensor] = norms[norm_paths.index(path)]
    before = parents(graph, layers)
    values = computed_values(graph.graph)
    matched = {}
    for layer in layers:
        kinds = layer.op_type.split("+")
        own = anchors.get(layer.tensor, separate.get(layer.tensor))
        added = kinds[0] == "Add" and own is None
        if added:
            # The residual block of an Add ends after the last convolution that leads to it.
            leading = anchors.keys() & before[layer.tensor]
            own = max((anchors[tensor] for tensor in leading), default=None)
        elif kinds[0] not in ("Add", "Conv", "Gemm"):
            continue
        if own is None:
            continue
        end = min((i for i in (*starts, *norms) if i > own), default=len(calls))
        activated = len(kinds) > 1 and kinds[-1] in ACTIVATIONS
        call = _pick(calls, own, end, expanded, added=added, activated=activated)
        shape = values[layer.tensor].shape
        # Another shape shows that the guess is wrong.
        if call is not None and shape is not None and calls[call].shape == tuple(shape)[1:]:
            matched[layer.tensor] = call
    return matched


def _expanded_norms(graph: ir.Model) -> frozenset[str]:
    """Return the paths of the batch norms that were not folded into a convolution."""
    paths: set[str] = set()
    for node in graph.graph:
        for value in node.inputs:
            if value is not None and str(value.name).endswith(f".{OFFSET}"):
                parameter = _PARAMETER.fullmatch(str(value.name))
                if parameter:
                    paths.add(parameter[1])
    return frozenset(paths)


def _pick(
    calls: Sequence[_Call],
    start: int,
    end: int,
    expanded: Collection[str],
    *,
    added: bool,
    activated: bool,
) -> int | None:
    """Return the call between a convolution and the next one that computes a layer's tensor."""
    window = range(start, end)
    if activated:
        activations = [i for i in window if isinstance(calls[i].module, _ACTIVATION_MODULES)]
        if not activations:
            return None
        # The activation of a residual Add comes after those inside the block.
        if added:
            return activations[-1]
        return activations[0]
    if added:
        # A block is a module with children, and ends after they do.
        for i in reversed(window):
            if list(calls[i].module.children()):
                return i
        return None
    for i in window:
        if isinstance(calls[i].module, _ACTIVATION_MODULES):
            break
        if isinstance(calls[i].module, _NORMS):
            # A folded batch norm is part of the convolution, an expanded one is a layer of its own.
            return start if calls[i].path in expanded else i
    return start


def _module_path(graph: ir.Model, layer: Layer) -> str:
    """Return the path of the module whose parameters a layer's node reads; "" if there is none."""
    for node in graph.graph:
        if name_of(node) != layer.name:
            continue
        for value in node.inputs[1:]:
            parameter = None
            if value is not None:
                parameter = _PARAMETER.fullmatch(str(value.name))
            if parameter:
                return parameter[1]
    return ""
