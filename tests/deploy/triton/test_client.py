"""client.py against a stand-in for the server, which runs the packaged graph in ONNX Runtime."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import lpx
from lpx.deploy.triton.files.client import is_fake
from lpx.render.encode import encode_png
from tests.support.triton_server import serving

FP32, INT8 = "detector-onnxruntime-fp32", "detector-onnxruntime-int8"
PLAN = "detector-tensorrt-fp16"


@dataclass(frozen=True)
class Ran:
    """What the client printed, as objects, its messages and exit code."""

    code: int
    lines: list[dict]
    err: str


def client(package, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, str(package / "client.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **environment},
    )
    return Ran(
        done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr
    )


@pytest.fixture
def images(drawn, tmp_path):
    """Face crops of any size, as files: larger and smaller than the model's input."""
    import cv2

    paths = []
    for number, image in enumerate([image for pair in drawn[:3] for image in pair]):
        image = cv2.resize(image, (300, 290)) if number % 2 else cv2.resize(image, (90, 100))
        path = tmp_path / f"a face {number}.png"
        path.write_bytes(encode_png(image))
        paths.append(path)
    return paths


@pytest.mark.parametrize(
    ("model", "engine"), [(FP32, "onnxruntime-fp32"), (INT8, "onnxruntime-int8")]
)
def test_scores_over_the_network_are_those_of_lpx(workspace, package, images, model, engine):
    with serving(package / "models") as (models, url):
        ran = client(package, "--url", url, "--model", model, "--batch", 4, *images)
    assert ran.code == 0, ran.err
    assert models.batches == [4, 2]
    with closing(lpx.load(workspace.engine(engine))) as detector:
        expected = [float(detector(path).score[0]) for path in images]
        threshold = detector.card.threshold
    assert [line["file"] for line in ran.lines] == [str(path) for path in images]
    # The last bits of float convolutions depend on the size of the batch.
    np.testing.assert_allclose([line["score"] for line in ran.lines], expected, atol=1e-6)
    assert [line["fake"] for line in ran.lines] == [score >= threshold for score in expected]


@pytest.mark.parametrize(("value", "fake"), [(0.7, True), (0.69999, False), (0.70001, True)])
def test_a_score_on_the_threshold_is_fake(value, fake):
    """As in lpx: the float32 next to 0.7 is less than 0.7 in double precision."""
    assert is_fake(np.float32(value), {"threshold": 0.7}) is fake


def test_self_test_passes_on_every_model(package):
    with serving(package / "models") as (models, url):
        for name in (FP32, INT8):
            ran = client(package, "--url", url, "--model", name, "--self-test")
            assert ran.code == 0, ran.err
            (line,) = ran.lines
            assert (line["self_test"], line["passed"]) == (name, True)
            assert line["difference"] < 1e-6 < line["tolerance"]
    # Alone, and in a batch.
    assert models.batches == [1, 4, 1, 4]


def test_the_only_model_needs_no_name(workspace):
    package = workspace.package("triton", "served", engines="onnxruntime-fp32").folder
    with serving(package / "models") as (_, url):
        assert client(package, "--url", url, "--self-test").code == 0


FAULTS = {
    "swapped channels": lambda scores: 1 - scores,
    "dead": lambda scores: np.zeros_like(scores),
    "second face of a batch": lambda scores: np.where(np.arange(len(scores)) == 1, 0, scores),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_self_test_fails_on_a_faulty_engine(package, images, fault):
    with serving(package / "models") as (models, url):
        models.spoil = FAULTS[fault]
        ran = client(package, "--url", url, "--model", FP32, "--self-test", images[0])
    assert ran.code == 1
    # Nothing is scored by an engine that has failed.
    assert [line["passed"] for line in ran.lines] == [False]


@pytest.mark.parametrize(
    "answer",
    [
        lambda scores: scores[:-1],
        lambda scores: np.full_like(scores, np.nan),
        # Logits, or those of a broken engine.
        lambda scores: np.full_like(scores, 7),
        lambda scores: np.full_like(scores, -0.1),
    ],
)
def test_an_answer_that_is_no_score_is_refused(package, images, answer):
    with serving(package / "models") as (models, url):
        models.spoil = answer
        ran = client(package, "--url", url, "--model", FP32, *images[:2])
    assert ran.code == 2
    assert "did not answer 2 faces" in ran.err
    assert ran.lines == []


@pytest.mark.parametrize("key", ["lpx.card_sha256", "lpx.engine_sha256", "lpx.threshold"])
def test_another_model_on_the_server_is_refused(package, images, tmp_path, key):
    other = tmp_path / "other"
    shutil.copytree(package / "models", other)
    path = other / FP32 / "config.pbtxt"
    text = path.read_text()
    place = text.index('string_value: "', text.index(key)) + len('string_value: "')
    path.write_text(text[:place] + "9" + text[place + 1 :])
    with serving(other) as (models, url):
        ran = client(package, "--url", url, "--model", FP32, images[0])
    assert ran.code == 1
    assert f"the server has another model {FP32} than this folder: {key} is 9" in ran.err
    assert models.batches == []


def test_a_model_that_is_not_ready(package, images, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(package / "models" / INT8, other / INT8)
    with serving(other) as (_, url):
        ran = client(package, "--url", url, "--model", FP32, images[0])
    assert ran.code == 2
    assert f"not ready to serve model {FP32}" in ran.err


def test_a_server_that_is_not_there(package, images):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    ran = client(package, "--url", f"127.0.0.1:{port}", "--model", FP32, images[0])
    assert ran.code == 2
    assert ran.err.startswith(f"client.py: 127.0.0.1:{port}: ")
    assert "Traceback" not in ran.err


def test_a_server_that_never_answers(package):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"127.0.0.1:{listener.getsockname()[1]}"
        ran = client(package, "--url", url, "--model", FP32, "--timeout", 0.5, "--self-test")
    assert ran.code == 2
    assert "Traceback" not in ran.err


def test_an_error_of_the_server_is_shown(package, images):
    def fail(scores):
        raise ValueError("out of memory")

    with serving(package / "models") as (models, url):
        models.spoil = fail
        ran = client(package, "--url", url, "--model", FP32, images[0])
    assert ran.code == 2
    assert "out of memory" in ran.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name the images"),
        (("--self-test",), f"name one of the models with --model: {FP32}, {INT8}, {PLAN}"),
        (("--self-test", "--model", "other"), "there is no model other"),
        (("--self-test", "--batch", "0"), "--batch must be >= 1"),
        (("--self-test", "--timeout", "nan"), "--timeout must be > 0"),
    ],
)
def test_bad_arguments(package, arguments, message):
    ran = client(package, *arguments)
    assert ran.code == 2
    assert message in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("data", "message"), [(b"no image", "is not an image"), (None, "cannot be read"), (b"", "not")]
)
def test_files_that_are_no_images(package, tmp_path, data, message):
    path = tmp_path / "face.png"
    if data is not None:
        path.write_bytes(data)
    with serving(package / "models") as (models, url):
        ran = client(package, "--url", url, "--model", FP32, path)
    assert ran.code == 2
    assert message in ran.err
    assert models.batches == []


def edit_card(package):
    path = package / "card.json"
    card = json.loads(path.read_text())
    path.write_text(json.dumps(card | {"threshold": 0.99}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (edit_card, "card.json is not the one"),
        (lambda package: (package / "models.json").unlink(), "not as lpx wrote them"),
        (lambda package: (package / "models.json").write_text("[]"), "not as lpx wrote them"),
        (lambda package: (package / "face.rgb").write_bytes(b"short"), "not as lpx wrote them"),
    ],
)
def test_files_beside_the_client_that_were_altered(package, spoil, message):
    spoil(package)
    ran = client(package, "--model", FP32, "--self-test")
    assert ran.code == 2
    assert message in ran.err


def test_digests_of_the_package_are_right(package):
    lines = (package / "SHA256SUMS").read_text().splitlines()
    listed = set()
    for line in lines:
        digest, name = line.split("  ", 1)
        listed.add(package / name)
        assert hashlib.sha256((package / name).read_bytes()).hexdigest() == digest
    assert listed == {path for path in Path(package / "models").rglob("*") if path.is_file()}
