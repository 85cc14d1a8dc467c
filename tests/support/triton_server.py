"""A stand-in for Triton: KServe's protocol version 2 over HTTP, with the binary tensor extension.

It loads a model repository as Triton does, as far as lpx writes one, and answers with ONNX Runtime
on the file in the repository, without session options, as Triton's backend.
"""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import onnxruntime
from google.protobuf import json_format

from tests.support.triton_rules import check_repository

JSON_LENGTH = "Inference-Header-Content-Length"


class Models:
    """The models of a repository, and the batches that were asked for."""

    def __init__(self, root):
        self.configs = check_repository(root)
        self.sessions = {}
        for name in self.configs:
            path = root / name / "1" / "model.onnx"
            if path.exists():
                self.sessions[name] = onnxruntime.InferenceSession(
                    str(path), providers=["CPUExecutionProvider"]
                )
        self.batches = []
        # Set by tests: changes the scores of an answer.
        self.spoil = lambda scores: scores

    def infer(self, name, request, binary):
        (given,) = request["inputs"]
        config = self.configs[name]
        shape = given["shape"]
        assert (given["name"], given["datatype"]) == ("faces", "UINT8")
        assert shape[1:] == list(config.input[0].dims)
        assert 1 <= shape[0] <= config.max_batch_size
        assert given["parameters"] == {"binary_data_size": len(binary)}
        self.batches.append(shape[0])
        faces = np.frombuffer(binary, np.uint8).reshape(shape)
        score, _ = self.sessions[name].run(["score", "patch_map"], {"faces": faces})
        (wanted,) = request["outputs"]
        assert wanted == {"name": "score", "parameters": {"binary_data": True}}
        # As the configuration reshapes it: [N] becomes [N, 1].
        score = self.spoil(score).astype("<f4").reshape(-1, *config.output[0].dims)
        output = {
            "name": "score",
            "datatype": "FP32",
            "shape": list(score.shape),
            "parameters": {"binary_data_size": score.nbytes},
        }
        answer = {"model_name": name, "model_version": "1", "outputs": [output]}
        return json.dumps(answer).encode(), score.tobytes()


def handler_of(models):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *given):
            pass

        def answer(self, status, body, **headers):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), str(value))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            _, version, kind, name, *rest = self.path.split("/")
            assert (version, kind) == ("v2", "models")
            if name not in models.configs:
                status = 400 if rest == ["ready"] else 404
                self.answer(status, json.dumps({"error": f"unknown model {name}"}).encode())
            elif rest == ["ready"]:
                self.answer(200, b"")
            else:
                assert rest == ["config"]
                config = json_format.MessageToJson(
                    models.configs[name], preserving_proto_field_name=True
                )
                self.answer(200, config.encode(), Content_Type="application/json")

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            name = self.path.split("/")[3]
            assert self.path == f"/v2/models/{name}/infer"
            length = int(self.headers[JSON_LENGTH])
            try:
                head, binary = models.infer(name, json.loads(body[:length]), body[length:])
            except Exception as error:
                self.answer(400, json.dumps({"error": f"failed: {error!r}"}).encode())
                return
            headers = {JSON_LENGTH.replace("-", "_"): len(head)}
            self.answer(200, head + binary, Content_Type="application/octet-stream", **headers)

    return Handler


@contextmanager
def serving(root):
    """Serve a repository; yields the models and the address."""
    models = Models(root)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(models))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield models, f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=30)
