"""Tensors of a checkpoint's modules, under the names that they have in its exported graph."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lpx.engines.torch import TorchEngine
from lpx.graph.batch_norms import OFFSET
from lpx.graph.layers import Layer, parents
from lpx.graph.nodes import ACTIVATIONS, name_of
from lpx.models.checkpoint import Detector

# Folding a batch norm leaves the convolution's weight its name, or its bias.
_PARAMETER = re.compile(rf"detector\.(.+)\.(?:(?:weight|bias)(?:_bias)?|{OFFSET})")
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_ACTIVATION_MODULES = (nn.ReLU, nn.ReLU6, nn.Hardtanh)


@dataclass(frozen=True)
class _Call:
    """A module that was called: its path, itself, and the shape that it gave without the batch."""

    path: str
    module: nn.Module
    shape: tuple[int, ...]


class TorchLayers:
    """A checkpoint that hands out the tensors of layers.

    A layer of the graph is matched with a call of a module by what surrounds it: a convolution
    bears its module's name, and stands for the batch norm and the activation called next; a batch
    norm that no convolution took up is an Add that bears its name; any other Add is what the last
    module that ends before the next convolution gives, as a residual block does.
    What is computed outside of modules, by functions, has no match.

    Args:
        detector: The checkpoint.
        graph: The graph exported from it, every node named.
        layers: Its layers.
    """

    def __init__(self, detector: Detector, graph: ir.Model, layers: Sequence[Layer]) -> None:
        self.engine = TorchEngine(detector)
        size = self.engine.size
        pixels = np.zeros((1, size, size, 3), np.uint8)
        self.calls = [
            _Call(path, module, tuple(output.shape[1:]))
            for path, module, output in self._trace(pixels)
        ]
        self.index = _match(graph, layers, self.calls)

    def run(self, pixels: NDArray[np.uint8]) -> Mapping[str, NDArray[np.float32]]:
        """Tensors of a batch, uint8 [N, S, S, 3], by the name that they have in the graph.

        Returns:
            float32 arrays; "score" and "patch_map" are always among them.
        """
        wanted = {index: name for name, index in self.index.items()}
        found = {
            wanted[index]: output.cpu().numpy()
            for index, (_, _, output) in enumerate(self._trace(pixels, frozenset(wanted)))
            if index in wanted
        }
        prediction = self.engine.infer(pixels)
        return {**found, "score": prediction.score, "patch_map": prediction.patch_map}

    def _trace(
        self, pixels: NDArray[np.uint8], kept: frozenset[int] | None = None
    ) -> list[tuple[str, nn.Module, Tensor]]:
        """Every call of a module in the order of their ends; outputs are real where `kept`."""
        calls: list[tuple[str, nn.Module, Tensor]] = []
        nothing = torch.empty(0)

        def hook(path: str, module: nn.Module, output: object) -> None:
            if isinstance(output, Tensor):
                # An activation that works in place would overwrite it.
                copied = kept is None or len(calls) in kept
                calls.append((path, module, output.clone() if copied else nothing))

        detector = self.engine.module.detector
        handles = [
            module.register_forward_hook(
                lambda module, _, output, path=path: hook(path, module, output)
            )
            for path, module in detector.named_modules()
            if path
        ]
        try:
            self.engine.infer(pixels)
        finally:
            for handle in handles:
                handle.remove()
        return calls


def _match(graph: ir.Model, layers: Sequence[Layer], calls: Sequence[_Call]) -> dict[str, int]:
    """Index of the call that makes each layer's tensor; layers without one are left out."""
    starts = [i for i, call in enumerate(calls) if isinstance(call.module, nn.Conv2d)]
    paths = [calls[i].path for i in starts]
    spelled_out = _spelled_out(graph)
    norms = [i for i, call in enumerate(calls) if call.path in spelled_out]
    norm_paths = [calls[i].path for i in norms]
    anchors: dict[str, int] = {}
    apart: dict[str, int] = {}
    for layer in layers:
        path = _module_path(graph, layer)
        if path and paths.count(path) == 1:
            anchors[layer.tensor] = starts[paths.index(path)]
        elif path and norm_paths.count(path) == 1:
            apart[layer.tensor] = norms[norm_paths.index(path)]
    before = parents(graph, layers)
    shapes = {str(v.name): v.shape for node in graph.graph for v in node.outputs}
    matched = {}
    for layer in layers:
        kinds = layer.op_type.split("+")
        own = anchors.get(layer.tensor, apart.get(layer.tensor))
        added = kinds[0] == "Add" and own is None
        if added:
            own = max((anchors[t] for t in before[layer.tensor] if t in anchors), default=None)
        elif kinds[0] not in ("Add", "Conv", "Gemm"):
            continue
        if own is None:
            continue
        end = min((i for i in (*starts, *norms) if i > own), default=len(calls))
        activated = len(kinds) > 1 and kinds[-1] in ACTIVATIONS
        found = _pick(calls, own, end, spelled_out, added=added, activated=activated)
        shape = shapes[layer.tensor]
        if found is not None and shape is not None and calls[found].shape == tuple(shape)[1:]:
            matched[layer.tensor] = found
    return matched


def _spelled_out(graph: ir.Model) -> frozenset[str]:
    """Paths of the batch norms that no convolution took up."""
    names = [str(value.name) for node in graph.graph for value in node.inputs if value is not None]
    found = [_PARAMETER.fullmatch(name) for name in names if name.endswith(f".{OFFSET}")]
    return frozenset(match[1] for match in found if match)


def _pick(
    calls: Sequence[_Call],
    start: int,
    end: int,
    spelled_out: Collection[str],
    *,
    added: bool,
    activated: bool,
) -> int | None:
    """The call between a convolution and the next one that makes a layer's tensor."""
    window = range(start, end)
    if activated:
        found = [i for i in window if isinstance(calls[i].module, _ACTIVATION_MODULES)]
        return (found[-1] if added else found[0]) if found else None
    if added:
        found = [i for i in window if any(True for _ in calls[i].module.children())]
        return found[-1] if found else None
    for i in window:
        if isinstance(calls[i].module, _ACTIVATION_MODULES):
            break
        if isinstance(calls[i].module, _NORMS):
            return start if calls[i].path in spelled_out else i
    return start


def _module_path(graph: ir.Model, layer: Layer) -> str:
    """The module of the detector whose parameters a layer's node reads; "" where there is none."""
    for node in graph.graph:
        if name_of(node) == layer.name:
            for value in node.inputs[1:]:
                found = _PARAMETER.fullmatch(str(value.name)) if value is not None else None
                if found:
                    return found[1]
    return ""
