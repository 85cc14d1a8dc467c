"""Time of every node of several graphs in ONNX Runtime, measured in turns."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from lpx.engines.onnxruntime.cpu import PROVIDERS, session_options
from lpx.engines.onnxruntime.failure import ort_errors
from lpx.errors import LpxError
from lpx.machine.machine import has_vnni

Faces = NDArray[np.uint8]

_SUFFIX = "_kernel_time"
# Percentile of the times of calls that is taken as the time of a call. Other programs on the same
# cores only make calls slower, and by several times when a thread has to wait for its turn: medians
# then say more about them than about the graph. On a quiet machine the two are nearly the same.
UNDISTURBED = 10.0
# Calls before the first that counts: ONNX Runtime reserves its memory in the first ones.
_WARM_UP = 2


@dataclass(frozen=True)
class NodeTime:
    """A node of a graph as ONNX Runtime has optimised it.

    Attributes:
        name: ONNX Runtime's name of it.
        op_type: Its operator.
        inputs: Names of its inputs.
        outputs: Names of its outputs.
        ms: Time of an undisturbed call, ms: see `UNDISTURBED`.
    """

    name: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    ms: float


@dataclass(frozen=True)
class GraphProfile:
    """Times of one graph.

    Attributes:
        nodes: Nodes that were run, in the order of the optimised graph.
    """

    nodes: tuple[NodeTime, ...]

    @property
    def total_ms(self) -> float:
        """Sum over the nodes, ms."""
        return sum(node.ms for node in self.nodes)


def profile_graphs(
    graphs: Mapping[str, bytes], faces: Faces, *, rounds: int, calls: int, threads: int = 0
) -> dict[str, GraphProfile]:
    """Profile graphs, taking turns.

    A node's time is the percentile `UNDISTURBED` over the calls of all rounds.

    Args:
        graphs: ONNX, by any name.
        faces: uint8 RGB [B, S, S, 3], the batch to repeat.
        rounds: Number of turns of each graph.
        calls: Timed calls in a turn; one more goes before, since the caches are cold.
        threads: Threads of a call; 0 for as many as ONNX Runtime chooses.

    Raises:
        LpxError: ONNX Runtime cannot run a graph, or the profile cannot be written.
    """
    with tempfile.TemporaryDirectory() as folder:
        sessions = {}
        for number, (name, data) in enumerate(graphs.items()):
            sessions[name] = _Session(data, Path(folder) / str(number), threads)
        for session in sessions.values():
            session.run(faces, _WARM_UP)
        for _ in range(rounds):
            for session in sessions.values():
                session.run(faces, calls + 1)
        profiles = {}
        for name, session in sessions.items():
            profiles[name] = session.finish(rounds, calls)
    return profiles


class _Session:
    """A session that records its profile from the start."""

    def __init__(self, data: bytes, prefix: Path, threads: int) -> None:
        options = session_options(vnni=has_vnni())
        options.intra_op_num_threads = threads
        # As in `OnnxRuntimeEngine`: otherwise the threads of one session slow the next one down.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.enable_profiling = True
        options.profile_file_prefix = str(prefix)
        self._optimised = prefix.with_suffix(".onnx")
        options.optimized_model_filepath = str(self._optimised)
        with ort_errors("ONNX Runtime cannot load a graph of the model", "export it again"):
            self._session = onnxruntime.InferenceSession(data, options, providers=PROVIDERS)

    def run(self, faces: Faces, calls: int) -> None:
        with ort_errors(f"ONNX Runtime failed on {len(faces)} faces", "use a smaller batch"):
            for _ in range(calls):
                self._session.run(None, {"faces": faces})

    def finish(self, rounds: int, calls: int) -> GraphProfile:
        path = Path(self._session.end_profiling())
        try:
            events = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise LpxError(
                "ONNX Runtime's profile is incomplete",
                f"{path} is no complete JSON: the disk may be full",
                "free space for temporary files, or set TMPDIR",
                code="unwritable",
            ) from None
        times = _times(events)
        nodes = []
        for node in onnx.load(self._optimised, load_external_data=False).graph.node:
            taken = times.get(node.name, [])
            expected = _WARM_UP + rounds * (calls + 1)
            if len(taken) != expected:
                # Events are limited to a million, and nodes of one name would be added up.
                raise LpxError(
                    f"ONNX Runtime's profile has {len(taken)} calls of node {node.name}",
                    f"the graph was run {expected} times",
                    "profile fewer rounds; if that does not help, report this with the model",
                    code="unsupported",
                )
            ms = _undisturbed(np.array(taken), rounds, calls)
            nodes.append(
                NodeTime(node.name, node.op_type, tuple(node.input), tuple(node.output), ms)
            )
        return GraphProfile(tuple(nodes))


def _times(events: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Return the times of every call of each node, ms, in order."""
    times = defaultdict(list)
    for event in events:
        name = str(event.get("name"))
        if name.endswith(_SUFFIX):
            times[name.removesuffix(_SUFFIX)].append(event["dur"] / 1e3)
    return times


def _undisturbed(times: NDArray[np.float64], rounds: int, calls: int) -> float:
    turns = times[_WARM_UP:].reshape(rounds, calls + 1)[:, 1:]
    return float(np.percentile(turns, UNDISTURBED))
