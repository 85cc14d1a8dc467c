"""Stands in for trtexec: a plan is the graph, and ONNX Runtime runs it.

FAKE_VERSION is its release, FAKE_SCORE another score than that of the plan, FAKE_BREAK an error.
"""

import json
import os
import sys

VERSION = os.environ.get("FAKE_VERSION", "100300")


def main():
    print(f"&&&& RUNNING TensorRT.trtexec [TensorRT v{VERSION}] # trtexec {sys.argv[1:]}")
    options = dict(word[2:].partition("=")[::2] for word in sys.argv[1:])
    if "help" in options:
        return 0
    if os.environ.get("FAKE_BREAK", "nothing") in options:
        print("[E] no kernel found")
        return 1
    if "saveEngine" in options:
        with open(options["onnx"], "rb") as graph, open(options["saveEngine"], "wb") as plan:
            plan.write(graph.read())
        with open(options["exportLayerInfo"], "w") as layers:
            layers.write("{}")
        return 0
    return infer(options)


def infer(options):
    import numpy
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with open(options["loadEngine"], "rb") as plan:
        session = onnxruntime.InferenceSession(plan.read(), settings)
    shape = [int(size) for size in options["shapes"].removeprefix("faces:").split("x")]
    (expected,) = session.get_inputs()
    if expected.type != "tensor(float)" or list(expected.shape)[1:] != shape[1:]:
        print(f"[E] input is {expected.type} {expected.shape}")
        return 1
    faces = numpy.fromfile(options["loadInputs"].removeprefix("faces:"), numpy.float32)
    names = [output.name for output in session.get_outputs()]
    written = []
    arrays = session.run(names, {"faces": faces.reshape(shape)})
    for name, array in zip(names, arrays, strict=True):
        values = array.ravel().tolist()
        if name == "score" and "FAKE_SCORE" in os.environ:
            values = [float(os.environ["FAKE_SCORE"])]
        dimensions = "x".join(map(str, array.shape))
        written.append({"name": name, "dimensions": dimensions, "values": values})
    with open(options["exportOutput"], "w") as outputs:
        json.dump(written, outputs)
    return 0


sys.exit(main())
