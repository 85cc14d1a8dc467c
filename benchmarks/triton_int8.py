"""INT8 graphs as Triton's ONNX Runtime runs them: without `session.x64quantprecision`.

    python benchmarks/triton_int8.py -w lpx-out --faces 192
    python benchmarks/triton_int8.py -w lpx-out --faces 192 --cpu Haswell

The second command runs ONNX Runtime under qemu-x86_64, with a processor that has AVX2 and no VNNI:
the kernels are those that such a processor gets, and times mean nothing.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from lpx.data.face_sets.demo import demo_set
from lpx.engines.load import read_engine
from lpx.graph.qdq.unsigned_weights import with_unsigned_weights
from lpx.metrics import auc_difference

# Without lpx, so that the emulator has little to translate.
RUN = """
import sys, time
import numpy as np, onnxruntime
graph, faces, out, exact = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.log_severity_level = 3
if exact == "exact":
    options.add_session_config_entry("session.x64quantprecision", "1")
session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
scores, times = [], []
for face in np.load(faces):
    start = time.process_time()
    scores.append(session.run(["score"], {"faces": face[None]})[0])
    times.append(time.process_time() - start)
np.save(out, np.concatenate(scores))
print(1000 * np.median(times))
"""


def seven_bits(graph: bytes) -> bytes:
    """Return the graph with its int8 weights rounded to levels of -63 to 63: no sum saturates."""
    model = onnx.load_model_from_string(graph)
    constants = {one.name: one for one in model.graph.initializer}
    makers = {node.output[0]: node for node in model.graph.node}
    for node in model.graph.node:
        if node.op_type != "Conv" or len(node.input) < 3:
            continue
        weight, bias = makers.get(node.input[1]), makers.get(node.input[2])
        if weight is None or bias is None or weight.input[0] not in constants:
            continue
        levels = numpy_helper.to_array(constants[weight.input[0]]).astype(np.float64)
        # Channels within 63 levels stay: their scale is what the range of the bias needs.
        ratio = np.maximum(np.abs(levels).reshape(len(levels), -1).max(axis=1) / 63, 1)
        rounded = np.rint(levels / ratio.reshape(-1, *[1] * (levels.ndim - 1)))
        _replace(constants[weight.input[0]], rounded.astype(np.int8))
        # The bias is in steps of input scale times weight scale, and has to stay so.
        steps = numpy_helper.to_array(constants[bias.input[0]]).astype(np.float64) / ratio
        _replace(constants[bias.input[0]], np.rint(steps).astype(np.int32))
        for scale in (weight.input[1], bias.input[1]):
            values = numpy_helper.to_array(constants[scale]) * ratio
            _replace(constants[scale], values.astype(np.float32))
    data: bytes = model.SerializeToString()
    return data


def _replace(constant: onnx.TensorProto, values: np.ndarray) -> None:
    constant.CopyFrom(numpy_helper.from_array(values, constant.name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-w", "--workspace", type=Path, default=Path("lpx-out"))
    parser.add_argument("--faces", type=int, default=192)
    parser.add_argument("--cpu", help="processor to emulate, such as Haswell")
    options = parser.parse_args()
    engines = options.workspace / "engines"
    card, int8 = read_engine(engines / "onnxruntime-int8")
    float32 = read_engine(engines / "onnxruntime-fp32").data
    faces = demo_set("test").first(options.faces)
    pixels = np.concatenate(
        [batch.pixels for batch in faces.stream(32, card.model_card().input_size, [])]
    )
    command = [sys.executable]
    if options.cpu:
        emulator = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
        if emulator is None:
            sys.exit("there is no qemu-x86_64")
        command = [emulator, "-cpu", options.cpu, sys.executable]
    forms = {
        "fp32": (float32, "plain"),
        "int8, exact kernels (lpx)": (int8, "exact"),
        "int8": (int8, "plain"),
        "uint8 (packaged)": (with_unsigned_weights(int8, "the engine"), "plain"),
        "7 bits": (seven_bits(int8), "plain"),
    }
    scores: dict[str, np.ndarray] = {}
    times: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/faces.npy", pixels)
        for name, (graph, mode) in forms.items():
            Path(folder, "graph.onnx").write_bytes(graph)
            paths = [f"{folder}/{file}" for file in ("graph.onnx", "faces.npy", "scores.npy")]
            # Float kernels have nothing to saturate, and are slow to emulate.
            runner = [sys.executable] if name == "fp32" else command
            done = subprocess.run(
                [*runner, "-c", RUN, *paths, mode], check=True, capture_output=True, text=True
            )
            scores[name], times[name] = np.load(paths[2]), float(done.stdout)
            print(f"{name} done", file=sys.stderr, flush=True)
    engine = scores["int8, exact kernels (lpx)"]
    for name, values in scores.items():
        own = np.abs(values - engine)
        change = auc_difference(faces.labels(), scores["fp32"], values)
        print(
            f"{name}: |score - engine's| mean {own.mean():.4f}, max {own.max():.4f}; AUC against "
            f"FP32 {change.estimate:+.4f} [{change.low:+.4f}, {change.high:+.4f}]; "
            f"{times[name]:.2f} ms of CPU a face"
        )


if __name__ == "__main__":
    main()
