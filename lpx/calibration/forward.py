"""The float32 forward pass of calibration: every tensor that may be quantised is an output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lpx.graph.model_io import parse, serialise
from lpx.graph.placement_dla import tensors_to_observe

if TYPE_CHECKING:
    import onnxruntime

Activations = list[NDArray[np.float32]]


class ObservedModel:
    """Runs a model, and hands out what lies between its nodes.

    Args:
        model: ONNX, input `faces` uint8 [N, S, S, 3].
        names: The tensors to hand out; by default all that any dialect may quantise.
    """

    def __init__(self, model: bytes, names: Sequence[str] | None = None) -> None:
        graph = parse(model, "the exported model")
        if names is None:
            names = tensors_to_observe(graph)
        self.names = tuple(names)
        values = {v.name: v for node in graph.graph for v in node.outputs}
        for name in self.names:
            graph.graph.outputs.append(values[name])
        self.session = session(serialise(graph))

    def shapes(self, pixels: NDArray[np.uint8]) -> list[tuple[int, ...]]:
        """Shapes of the activations of one face, without the batch: faces uint8 [1, S, S, 3]."""
        outputs = self.session.run(self.names, {"faces": pixels})
        return [output.shape[1:] for output in outputs]

    def run(self, pixels: NDArray[np.uint8], into: Activations) -> Activations:
        """Activations of a batch, written into memory that is there already.

        Fresh memory for them would cost a tenth of the pass.

        Args:
            pixels: uint8 [N, S, S, 3].
            into: float32 [at least N, ...] per tensor; overwritten.

        Returns:
            float32 [N, ...] per tensor: views of `into`.
        """
        views = [room[: len(pixels)] for room in into]
        binding = self.session.io_binding()
        binding.bind_cpu_input("faces", np.ascontiguousarray(pixels))
        for name, view in zip(self.names, views, strict=True):
            binding.bind_output(name, "cpu", 0, np.float32, view.shape, view.ctypes.data)
        self.session.run_with_iobinding(binding)
        return views


def session(model: bytes) -> onnxruntime.InferenceSession:
    """A session of ONNX Runtime on the CPU whose threads rest between calls."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Else they spin on the cores that observing needs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
