"""ONNX Runtime sessions of models whose bytes are known."""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from lpx.errors import LpxError

if TYPE_CHECKING:
    import onnxruntime


def shipped(name: str) -> Path:
    """Where a model that ships with lpx lies in the installed package."""
    return Path(str(resources.files("lpx.data.detect") / "models" / name))


def read_model(path: Path, sha256: str, fix: str = "install lpx again") -> bytes:
    """Read a model file and check that it is the one expected.

    Raises:
        LpxError: It cannot be read, or holds other bytes.
    """
    try:
        model = path.read_bytes()
    except OSError as error:
        raise LpxError(f"{path} cannot be read", error.strerror or "", fix) from error
    found = hashlib.sha256(model).hexdigest()
    if found != sha256:
        raise LpxError(
            f"{path} was altered: its SHA-256 is {found}",
            f"the face model that lpx was tested with has {sha256}; faces found by another are "
            "not the same faces",
            fix,
        )
    return model


def open_session(model: bytes, threads: int) -> onnxruntime.InferenceSession:
    """A session on the CPU that logs nothing and leaves no thread spinning.

    Args:
        model: ONNX bytes.
        threads: For one call; 1 where several processes share the cores.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
