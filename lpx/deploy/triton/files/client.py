#!/usr/bin/env python3
"""Score face crops with the detector that a Triton Inference Server serves.

    pip install "tritonclient[http]" numpy opencv-python-headless
    python client.py --self-test
    python client.py face.png another.jpg

prints a line of JSON for each image. The images are face crops: face detection and cropping are up
to the caller, and card.json names the crop that the detector was trained on.

Before anything is scored, the model that the server has loaded is compared with the one in this
folder, by the SHA-256 of model card and engines: a score of another model would look just as good.

Exit codes: 0 done; 1 the server has another model, or the self-test failed; 2 it could not run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

FOLDER = Path(__file__).resolve().parent
# Parameters of a model that lpx writes begin with this.
PREFIX = "lpx."


class ClientError(Exception):
    """What went wrong, in words.

    Args:
        text: The words.
        code: Exit code.
    """

    def __init__(self, text: str, code: int = 2) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Package:
    """What the files beside this program say about the detector.

    Attributes:
        card: The model card.
        models: The models in `models/`, by name.
        face: Face of the self-test, uint8 RGB [S, S, 3].
    """

    card: dict[str, Any]
    models: dict[str, Any]
    face: Any

    @property
    def size(self) -> int:
        """Side of a face, pixels."""
        return int(self.card["input_size"])


def read_package(folder: Path = FOLDER) -> Package:
    """Read the files beside this program.

    Raises:
        ClientError: One is missing or was altered.
    """
    try:
        card_bytes = (folder / "card.json").read_bytes()
        face = np.frombuffer((folder / "face.rgb").read_bytes(), np.uint8)
        models = json.loads((folder / "models.json").read_bytes())
        card = json.loads(card_bytes)
        size = int(card["input_size"])
        face = face.reshape(size, size, 3)
        digest = models["card_sha256"]
        models = models["models"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ClientError(
            f"the files beside client.py are not as lpx wrote them: {error}"
        ) from None
    # Of the bytes, not of the values: the server's parameter is the digest of these bytes.
    if hashlib.sha256(card_bytes).hexdigest() != digest:
        raise ClientError("card.json is not the one that lpx wrote: its SHA-256 differs")
    return Package(card, models, face)


def choose_model(package: Package, name: str | None) -> str:
    """Return the name of the model to ask for.

    Raises:
        ClientError: There is no such model, or none is named although there are several.
    """
    known = ", ".join(package.models)
    if name is None and len(package.models) == 1:
        return next(iter(package.models))
    if name is None:
        raise ClientError(f"name one of the models with --model: {known}")
    if name not in package.models:
        raise ClientError(f"there is no model {name}: {known}")
    return name


def check_server(client: Any, package: Package, name: str) -> int:
    """Compare the model that the server has loaded with the one in the package.

    Args:
        client: Client of the server.
        package: What is expected.
        name: Name of the model.

    Returns:
        Its largest batch.

    Raises:
        ClientError: The model is not ready (code 2), or is another one (code 1).
    """
    if not client.is_model_ready(name):
        raise ClientError(f"the server is not ready to serve model {name}: see its log")
    config = client.get_model_config(name)
    expected = package.models[name]["parameters"]
    found = {}
    for key, value in config.get("parameters", {}).items():
        if key.startswith(PREFIX):
            found[key] = value.get("string_value")
    # The keys of both: a parameter that only the server has is a sign of another model, too.
    for key in sorted(expected.keys() | found.keys()):
        if expected.get(key) != found.get(key):
            raise ClientError(
                f"the server has another model {name} than this folder: {key} is "
                f"{found.get(key)}, expected {expected.get(key)}",
                code=1,
            )
    # 0 would mean that the batch is no dimension of its own: lpx never writes that.
    return max(1, int(config["max_batch_size"]))


def score(client: Any, name: str, faces: Any) -> Any:
    """Score a batch of faces.

    Args:
        client: Client of the server.
        name: Name of the model.
        faces: uint8 RGB [N, S, S, 3], not normalised.

    Returns:
        Probabilities of fake, float32 [N].

    Raises:
        ClientError: The server's answer is not N probabilities.
    """
    given = triton.InferInput("faces", list(faces.shape), "UINT8")
    given.set_data_from_numpy(np.ascontiguousarray(faces), binary_data=True)
    wanted = triton.InferRequestedOutput("score", binary_data=True)
    scores = client.infer(name, [given], outputs=[wanted]).as_numpy("score")
    # A little outside is rounding. Every comparison with NaN is false, which refuses it too.
    if scores is None or scores.size != len(faces) or not (abs(scores - 0.5) <= 0.501).all():
        raise ClientError(
            f"the server did not answer {len(faces)} faces with as many probabilities"
        )
    # [N, 1]: without the batch dimension, Triton has no scalars.
    return scores.reshape(len(faces))


def read_face(path: Path, size: int) -> Any:
    """Read a face crop, resized as lpx resizes faces.

    Args:
        path: Image file.
        size: Side, pixels.

    Returns:
        uint8 RGB [size, size, 3].

    Raises:
        ClientError: It is not an image.
    """
    # The self-test has raw pixels, and so runs without OpenCV.
    import cv2

    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise ClientError(f"{path} cannot be read: {error.strerror or error}") from None
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    if image is None:
        raise ClientError(f"{path} is not an image")
    height, width = image.shape[:2]
    if (height, width) != (size, size):
        method = cv2.INTER_AREA if min(height, width) > size else cv2.INTER_LINEAR
        image = cv2.resize(image, (size, size), interpolation=method)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def self_test(client: Any, package: Package, name: str, most: int) -> bool:
    """Score the face of the package, alone and in a batch, and print the result.

    Args:
        client: Client of the server.
        package: Has the face, and its score.
        name: Name of the model.
        most: Largest batch.

    Returns:
        True if every score is as expected.
    """
    expected = package.models[name]["score"]
    tolerance = package.models[name]["tolerance"]
    worst = 0.0
    for count in sorted({1, min(most, 4)}):
        faces = np.repeat(package.face[None], count, axis=0)
        for value in score(client, name, faces):
            # `score` has refused NaN, which max() would pass over.
            worst = max(worst, abs(float(value) - expected))
    passed = bool(worst <= tolerance)
    line = {"self_test": name, "passed": passed, "difference": worst, "tolerance": tolerance}
    print(json.dumps(line), flush=True)
    return passed


def is_fake(value: Any, card: dict[str, Any]) -> bool:
    """Return whether a score reaches the threshold of the model card."""
    # In float32, like lpx: a score on the threshold may be less than it in double precision.
    return bool(np.float32(value) >= np.float32(card["threshold"]))


def score_files(client: Any, package: Package, name: str, paths: list[Path], batch: int) -> None:
    """Score images, and print a line for each."""
    for start in range(0, len(paths), batch):
        part = paths[start : start + batch]
        faces = np.stack([read_face(path, package.size) for path in part])
        for path, value in zip(part, score(client, name, faces)):  # noqa: B905 (Python 3.9)
            fake = is_fake(value, package.card)
            print(json.dumps({"file": str(path), "score": float(value), "fake": fake}), flush=True)


def options() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description="Score face crops with a detector in Triton.")
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="face crops")
    parser.add_argument("--url", default="localhost:8000", help="HTTP address of the server")
    parser.add_argument("--model", metavar="NAME", help="model to use, if there are several")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="faces per request")
    parser.add_argument("--timeout", type=float, default=60, metavar="S", help="seconds to wait")
    parser.add_argument(
        "--self-test", action="store_true", help="score the face in this folder, and compare"
    )
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Do what the command line asks for; returns the exit code."""
    if not arguments.images and not arguments.self_test:
        raise ClientError("name the images to score, or use --self-test")
    if arguments.batch < 1:
        raise ClientError("--batch must be >= 1")
    if not (math.isfinite(arguments.timeout) and arguments.timeout > 0):
        raise ClientError("--timeout must be > 0")
    package = read_package()
    name = choose_model(package, arguments.model)
    with triton.InferenceServerClient(
        arguments.url,
        connection_timeout=arguments.timeout,
        network_timeout=arguments.timeout,
    ) as client:
        most = check_server(client, package, name)
        if arguments.self_test and not self_test(client, package, name, most):
            return 1
        score_files(client, package, name, arguments.images, min(most, arguments.batch))
    return 0


def main() -> int:
    """Run the command line; returns the exit code."""
    arguments = options().parse_args()
    try:
        return run(arguments)
    except ClientError as error:
        print(f"client.py: {error}", file=sys.stderr)
        return error.code
    except (InferenceServerException, OSError) as error:
        print(f"client.py: {arguments.url}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
