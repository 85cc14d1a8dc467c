"""Precision plans as files, which people read and edit."""

from __future__ import annotations

import json
import os
from typing import Any

from lpx.arguments import as_path
from lpx.calibration.methods import METHODS
from lpx.errors import LpxError
from lpx.formats import check_format
from lpx.graph.qdq.plan import FORMAT, PrecisionPlan, plan_from_dict
from lpx.schema import SchemaError, parse_json
from lpx.workspace import read_regular, write_bytes

# Largest file, bytes: the faces of a search have about 100 bytes each, and a layer even less.
_MAX_BYTES = 16 << 20
_FIX = "correct the file (docs/quantisation.md, precision plans), or make another"


def read_plan(path: str | os.PathLike[str]) -> PrecisionPlan:
    """Read a plan.

    Args:
        path: Its file.

    Raises:
        LpxError: It does not exist, is not a file or too large, not JSON, of another format, or
            has unknown keys or values.
    """
    path = as_path("path", path)
    try:
        values = parse_json(read_regular(path, limit=_MAX_BYTES))
        if not isinstance(values, dict):
            raise SchemaError("it is not a JSON object")
        if "format" not in values:
            raise SchemaError(f'it has no "format"; that of a precision plan is "{FORMAT}"')
        check_format(path, values["format"], FORMAT, "make the plan again")
        return plan_from_dict(values, METHODS)
    except FileNotFoundError:
        raise LpxError(
            f"{path} does not exist",
            "",
            "name the file of a precision plan with `plan`",
            code="not-found",
        ) from None
    except OSError as error:
        raise LpxError(f"{path} cannot be read", error.strerror or str(error), _FIX) from error
    except SchemaError as error:
        raise LpxError(f"{path} is not a precision plan", str(error), _FIX) from error


def write_plan(path: str | os.PathLike[str], plan: PrecisionPlan) -> None:
    """Write a plan atomically, with a line for each layer.

    Args:
        path: The file to write.
        plan: The plan.

    Raises:
        LpxError: The file cannot be written.
    """
    values = plan.to_dict()
    layers, origin = _lines(values["layers"]), _lines(values["origin"])
    text = (
        "{\n"
        f'  "format": {_json(values["format"])},\n'
        f'  "model_sha256": {_json(values["model_sha256"])},\n'
        f'  "layers": {layers},\n'
        f'  "origin": {origin}\n'
        "}\n"
    )
    write_bytes(as_path("path", path), text.encode())


def _lines(values: dict[str, Any]) -> str:
    """Return a JSON object with a line for each key."""
    if not values:
        return "{}"
    lines = ",\n".join(f"    {_json(key)}: {_json(value)}" for key, value in values.items())
    return f"{{\n{lines}\n  }}"


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False)
