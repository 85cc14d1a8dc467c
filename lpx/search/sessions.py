"""Sessions of many graphs that take turns, in bounded memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from functools import cache

import onnxruntime

from lpx.engines.onnxruntime.cpu import PROVIDERS, session_options
from lpx.engines.onnxruntime.failure import ort_errors

# Graphs that stay loaded, bytes.
_GRAPH_BYTES = 192 << 20


class Sessions:
    """Sessions of graphs, of which those that were used last stay loaded.

    Args:
        graphs: ONNX graphs by name.
    """

    def __init__(self, graphs: Mapping[str, bytes]) -> None:
        self._graphs = graphs
        self._loaded: OrderedDict[str, onnxruntime.InferenceSession] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str) -> onnxruntime.InferenceSession:
        """Return the session of a graph; it computes on one core."""
        with self._lock:
            if name in self._loaded:
                self._loaded.move_to_end(name)
                return self._loaded[name]
            while self._loaded and _size(self._graphs[name]) + self._held() > _GRAPH_BYTES:
                self._loaded.popitem(last=False)
            self._loaded[name] = open_session(self._graphs[name], cores=1)
            return self._loaded[name]

    def _held(self) -> int:
        return sum(_size(self._graphs[name]) for name in self._loaded)


def _size(graph: bytes) -> int:
    # Two copies of the weights: the graph's, and that in the layout of the kernels.
    return 2 * len(graph)


def open_session(graph: bytes, *, cores: int) -> onnxruntime.InferenceSession:
    """Open a float graph.

    Args:
        graph: ONNX.
        cores: Number of cores to compute on; 0 for all.
    """
    _share_memory()
    options = session_options(vnni=None)
    options.intra_op_num_threads = cores
    # Otherwise each of many sessions would keep the largest memory that it ever needed.
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    with ort_errors(
        "ONNX Runtime cannot load a part of the model", "please report this with the model"
    ):
        return onnxruntime.InferenceSession(graph, options, providers=PROVIDERS)


@cache
def _share_memory() -> None:
    """Register an allocator that all sessions of `open_session` share."""
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    # Refused if this process has registered one already, which then serves as well. ONNX Runtime's
    # errors have no base class of their own.
    with suppress(Exception):
        onnxruntime.create_and_register_allocator(memory, onnxruntime.OrtArenaCfg(0, -1, -1, -1))
