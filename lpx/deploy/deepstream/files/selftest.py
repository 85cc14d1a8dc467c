"""Checks engines, or the graphs that they are built from, with the face that is shipped.

    python3 selftest.py score.onnx_b32_gpu0_fp16.engine    an engine, with trtexec
    python3 selftest.py trtexec/score-fp16-strongly-typed.onnx    a graph, with ONNX Runtime

Ends with 0 if every score is as expected, 1 if one is not, and 2 if one could not be computed.
TRTEXEC names another trtexec.
"""

from __future__ import annotations

import array
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
# Where JetPack and NVIDIA's packages put it.
_TRTEXEC = "/usr/src/tensorrt/bin/trtexec"


class CannotRunError(Exception):
    """The score could not be computed."""


def planes(pixels: bytes) -> array.array[float]:
    """Return a face as nvinfer gives it: float32 planes of red, green and blue.

    Args:
        pixels: uint8 RGB, row by row.
    """
    # Not with NumPy: checking an engine needs nothing but Python and trtexec.
    values = array.array("f")
    for channel in range(3):
        values.extend(pixels[channel::3])
    return values


def score_of_engine(path: pathlib.Path, face: array.array[float], size: int) -> float:
    """Return the score that an engine gives a face, with trtexec.

    Raises:
        CannotRunError: trtexec is missing, fails, or writes no score.
    """
    trtexec = shutil.which(os.environ.get("TRTEXEC", "trtexec")) or _TRTEXEC
    with tempfile.TemporaryDirectory() as folder:
        data, outputs = pathlib.Path(folder, "face.f32"), pathlib.Path(folder, "outputs.json")
        data.write_bytes(face.tobytes())
        command = [
            trtexec,
            f"--loadEngine={path}",
            f"--shapes=faces:1x3x{size}x{size}",
            f"--loadInputs=faces:{data}",
            f"--exportOutput={outputs}",
            # One inference is enough.
            *("--iterations=1", "--warmUp=0", "--duration=0"),
        ]
        try:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
            )
        except OSError as error:
            raise CannotRunError(f"{trtexec}: {error}") from error
        if done.returncode != 0:
            tail = "\n".join(done.stdout.splitlines()[-5:])
            raise CannotRunError(f"trtexec failed on {path}:\n{tail}")
        try:
            written = json.loads(outputs.read_text())
            # Unpacking refuses none and several: another engine must not pass by the first of its
            # numbers.
            (values,) = [entry["values"] for entry in written if entry["name"] == "score"]
            (score,) = values
            return float(score)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CannotRunError(f"trtexec wrote no score of {path}: {error}") from error


def score_of_graph(path: pathlib.Path, face: array.array[float], size: int) -> float:
    """Return the score that a graph gives a face, with ONNX Runtime.

    Raises:
        CannotRunError: ONNX Runtime or NumPy is missing, or cannot run the graph.
    """
    try:
        # Only for graphs: a board that checks its engines need not have them.
        import numpy
        import onnxruntime
    except ImportError as error:
        raise CannotRunError(f"{error}: pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    # Its optimiser miscomputes graphs that are made for TensorRT.
    level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.graph_optimization_level = level
    faces = numpy.frombuffer(face, numpy.float32).reshape(1, 3, size, size)
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        (score,) = session.run(["score"], {"faces": faces})
        return float(score[0, 0])
    except Exception as error:
        raise CannotRunError(f"{path}: {error}") from error


def main(names: list[str]) -> int:
    """Check the files that are named, and return the exit code."""
    if not names or names[0].startswith("-"):
        print(__doc__)
        return 2
    expected = json.loads((HERE / "expected.json").read_text())
    face = planes((HERE / "face.rgb").read_bytes())
    size = round((len(face) / 3) ** 0.5)
    code = 0
    for name in names:
        path = pathlib.Path(name)
        score_of = score_of_graph if path.suffix == ".onnx" else score_of_engine
        try:
            score = score_of(path, face, size)
        except CannotRunError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        difference = abs(score - expected["score"])
        # In this form a NaN does not pass.
        passed = difference <= expected["tolerance"]
        print(
            f"{'passed' if passed else 'FAILED'}: {name} gives {score:.6f}, expected "
            f"{expected['score']:.6f} +/- {expected['tolerance']:g}"
        )
        code = max(code, int(not passed))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
