"""ONNX Runtime sessions of the face models, checked by their SHA-256."""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from lpx.errors import LpxError

if TYPE_CHECKING:
    import onnxruntime


def shipped(name: str) -> Path:
    """Return the path of a model in the installed package."""
    return Path(str(resources.files("lpx.data.detect") / "models" / name))


def read_model(path: Path, sha256: str, fix: str = "install lpx again") -> bytes:
    """Read a model file and check that it is the expected one.

    Args:
        path: The file.
        sha256: Expected SHA-256, in hexadecimal.
        fix: How to get the file again, for errors.

    Raises:
        LpxError: It cannot be read, or has another content.
    """
    try:
        model = path.read_bytes()
    except OSError as error:
        raise LpxError(
            f"{path} cannot be read", error.strerror or "", fix, code="not-found"
        ) from error
    digest = hashlib.sha256(model).hexdigest()
    if digest != sha256:
        raise LpxError(
            f"{path} was altered: its SHA-256 is {digest}",
            f"the face model that lpx was tested with has {sha256}; another one finds other faces",
            fix,
            code="damaged",
        )
    return model


def open_session(model: bytes, threads: int) -> onnxruntime.InferenceSession:
    """Open a silent session on the CPU whose threads do not spin while they wait.

    Args:
        model: ONNX bytes.
        threads: Number of threads for one call; 1 if several processes share the cores.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning threads would take cores from the decoding and cutting between two calls.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
