"""A model repository for Triton, with a client and a script that starts the server."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpx.card import ModelCard
from lpx.deploy.cpp_project import SelfTest
from lpx.deploy.triton.config import WARM_UP_FACE, TritonConfig
from lpx.engines.manifest import Precision
from lpx.workspace import sha256, write_bytes

REPOSITORY = "models"
"""Folder of the model repository in the package."""
HOST_CODE_FLAG = "--backend-config=tensorrt,version-compatible=true"
"""Option of tritonserver without which version-compatible plans are refused."""
CLIENT = "client.py"
START = "serve.sh"
SUMS = "SHA256SUMS"
"""Digests of the repository's files, which the start script checks."""
# Version of every model in the repository.
_VERSION = "1"


@dataclass(frozen=True)
class ServedPlan:
    """A TensorRT plan in a model.

    Attributes:
        file: Its file in the model's folder.
        engine: Name of the engine.
        capability: Compute capability that it serves; "" if it serves every other one.
        tensorrt: TensorRT release that built it.
        gpu: GPU that it was built on.
        host_code: It is version-compatible, and contains code for the CPU.
    """

    file: str
    engine: str
    capability: str
    tensorrt: str
    gpu: str
    host_code: bool


@dataclass(frozen=True)
class ServedModel:
    """A model of the repository.

    Attributes:
        config: Its configuration.
        precision: Precision of its engines.
        files: Contents of its files, by name.
        engines: Names of the engines that it serves.
        plans: Its plans; empty for ONNX Runtime.
        test: The self-test's face with the score of this model.
        perf_scores: Scores of `RepositoryContent.perf_faces` by this model in ONNX Runtime, float32
            [N]; None for plans.
        altered: Its graph is another form of the engine, which no bench has measured.
        needs_vnni: Its scores are wrong on x86-64 processors without VNNI.
        notes: What was chosen, and why, in sentences.
    """

    config: TritonConfig
    precision: Precision
    files: Mapping[str, bytes]
    engines: tuple[str, ...]
    plans: tuple[ServedPlan, ...]
    test: SelfTest
    perf_scores: NDArray[np.float32] | None
    altered: bool
    needs_vnni: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class RepositoryContent:
    """Everything that a package holds.

    Attributes:
        card: Card of the model.
        models: The models.
        perf_faces: Faces for perf_analyzer, uint8 RGB [N, S, S, 3].
    """

    card: ModelCard
    models: tuple[ServedModel, ...]
    perf_faces: NDArray[np.uint8]

    @property
    def flags(self) -> tuple[str, ...]:
        """Options that tritonserver needs to load these models."""
        # The configurations are complete, and loading a plan only to complete them takes time.
        flags = ["--disable-auto-complete-config"]
        if any(plan.host_code for plan in self.plans):
            flags.append(HOST_CODE_FLAG)
        return tuple(flags)

    @property
    def plans(self) -> tuple[ServedPlan, ...]:
        """All plans."""
        return tuple(plan for model in self.models for plan in model.plans)

    @property
    def needs_vnni(self) -> bool:
        """Whether the scores of a model are wrong on x86-64 processors without VNNI."""
        return any(model.needs_vnni for model in self.models)


def card_bytes(card: ModelCard) -> bytes:
    """Return the content of card.json, whose SHA-256 the models' parameters hold."""
    return (json.dumps(card.to_dict(), indent=2, allow_nan=False) + "\n").encode()


def write_repository(folder: Path, content: RepositoryContent, readme: str) -> None:
    """Write the package.

    Args:
        folder: Folder to write.
        content: Content of the package.
        readme: Content of README.md.

    Raises:
        LpxError: The folder cannot be written.
    """
    # One face for all models: `test.face` differs between them in nothing but its score.
    face = content.models[0].test.face.tobytes()
    for model in content.models:
        place = folder / REPOSITORY / model.config.name
        for name, data in model.files.items():
            write_bytes(place / _VERSION / name, data)
        write_bytes(place / "warmup" / WARM_UP_FACE, face)
        write_bytes(place / "config.pbtxt", model.config.to_text().encode())
        if model.perf_scores is not None:
            values = _perf_input(content.perf_faces, model.perf_scores)
            _write_json(folder / f"perf-{model.config.name}.json", values)
    _write_json(folder / "perf.json", _perf_input(content.perf_faces))
    card = card_bytes(content.card)
    write_bytes(folder / "card.json", card)
    write_bytes(folder / "face.rgb", face)
    _write_json(folder / "models.json", _models(content, hashlib.sha256(card).hexdigest()))
    write_bytes(folder / CLIENT, _file(CLIENT))
    # After the last file in the repository, as it lists them all.
    write_bytes(folder / SUMS, _sums(folder).encode())
    start = folder / START
    write_bytes(start, _start_script(content).encode())
    start.chmod(start.stat().st_mode | 0o111)
    write_bytes(folder / "README.md", readme.encode())


def _file(name: str) -> bytes:
    return (resources.files("lpx.deploy") / "triton" / "files" / name).read_bytes()


def _sums(folder: Path) -> str:
    """Return the SHA-256 of every file in the repository, as sha256sum reads them."""
    lines = []
    for path in sorted((folder / REPOSITORY).rglob("*")):
        if path.is_file():
            # Relative to the package, from which serve.sh runs sha256sum.
            lines.append(f"{sha256(path)}  {path.relative_to(folder)}\n")
    return "".join(lines)


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    write_bytes(path, (json.dumps(values, indent=1, allow_nan=False) + "\n").encode())


def _models(content: RepositoryContent, card_sha256: str) -> dict[str, Any]:
    """Return what the client compares the server's models with."""
    models = {}
    for model in content.models:
        models[model.config.name] = {
            "parameters": dict(model.config.parameters),
            "score": model.test.score,
            "tolerance": model.test.tolerance,
            "computed_by": model.test.source,
        }
    return {"card_sha256": card_sha256, "face": content.models[0].test.name, "models": models}


def _perf_input(
    faces: NDArray[np.uint8], scores: NDArray[np.float32] | None = None
) -> dict[str, Any]:
    """Return an input file of perf_analyzer, with the expected scores if they are given."""
    rows = []
    for face in faces:
        text = base64.b64encode(face.tobytes()).decode()
        rows.append({"faces": {"content": {"b64": text}, "shape": list(face.shape)}})
    values: dict[str, Any] = {"data": rows}
    if scores is not None:
        # As bytes: perf_analyzer compares bytes, and a decimal number might round to others.
        values["validation_data"] = [{"score": _score_content(score)} for score in scores]
    return values


def _score_content(score: np.float32) -> dict[str, Any]:
    little_endian = np.asarray([score], "<f4").tobytes()
    return {"content": {"b64": base64.b64encode(little_endian).decode()}, "shape": [1]}


def _start_script(content: RepositoryContent) -> str:
    text = _file(START).decode()
    # Without plans the server needs no GPU; --gpus fails where there is no driver.
    text = text.replace("@GPUS@", "--gpus all " if content.plans else "")
    text = text.replace("@NEEDS_VNNI@", "yes" if content.needs_vnni else "no")
    return text.replace("@FLAGS@", " ".join(content.flags))


def engine_digests(files: Mapping[str, bytes], plans: Sequence[ServedPlan]) -> dict[str, str]:
    """Return the SHA-256 of a model's engines, by the names of the parameters that hold them.

    Args:
        files: Contents of the model's files, by name.
        plans: Its plans; empty for ONNX Runtime.
    """
    digests = {}
    capability_of = {plan.file: plan.capability or "other" for plan in plans}
    for name, data in files.items():
        key = "lpx.engine_sha256"
        if name in capability_of:
            key += f".{capability_of[name]}"
        digests[key] = hashlib.sha256(data).hexdigest()
    return digests
