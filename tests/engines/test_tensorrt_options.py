"""TensorRTOptions: what it takes, what it refuses, and how a manifest holds it."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

import lpx
from lpx.api.build import check_options
from lpx.engines.tensorrt_options import read_tensorrt_options
from lpx.errors import InvalidArgumentError, LpxError
from lpx.schema import SchemaError


@pytest.mark.parametrize(
    ("options", "profiles"),
    [
        ({}, ((1, 8, 32),)),
        ({"dla_core": 0}, ((1, 1, 1),)),
        ({"batches": 4}, ((4, 4, 4),)),
        ({"batches": (8, 1, 8)}, ((1, 1, 1), (8, 8, 8))),
        ({"batches": [8, 1]}, ((1, 1, 1), (8, 8, 8))),
        ({"batches": lpx.BatchRange(1, 2, 3)}, ((1, 2, 3),)),
    ],
)
def test_batches_become_profiles(options, profiles):
    found = lpx.TensorRTOptions(**options).profiles
    assert tuple((p.minimum, p.optimum, p.maximum) for p in found) == profiles


@pytest.mark.parametrize("given", ["8.6", ("8.6",), ["8.6"]])
def test_one_compute_capability_or_several(given):
    assert lpx.TensorRTOptions(compute_capabilities=given).gpus == ("8.6",)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"optimisation_level": 9}, "optimisation_level must be between 0 and 5 (got 9)"),
        ({"optimisation_level": -1}, "optimisation_level must be between 0 and 5 (got -1)"),
        ({"optimisation_level": 2.5}, "optimisation_level must be a whole number (got 2.5)"),
        ({"workspace_mib": 0}, "workspace_mib must be >= 1 (got 0)"),
        ({"workspace_mib": "1"}, "workspace_mib must be a whole number (got '1')"),
        ({"builds": 0}, "builds must be >= 1 (got 0)"),
        ({"builds": None}, "builds must be a whole number (got None)"),
        ({"dla_core": -1}, "dla_core must be >= 0 (got -1)"),
        ({"dla_core": True}, "dla_core must be a whole number (got True)"),
        ({"tf32": 1}, "tf32 must be one of True, False (got 1)"),
        ({"tf32": None}, "tf32 must be one of True, False (got None)"),
        ({"version_compatible": "yes"}, "version_compatible must be one of True, False"),
        ({"hardware_compatible": 0}, "hardware_compatible must be one of True, False"),
        ({"frozen_timing_cache": []}, "frozen_timing_cache must be one of True, False"),
        ({"compute_capabilities": "8"}, 'compute_capabilities must be texts such as "8.6"'),
        ({"compute_capabilities": 8.6}, 'compute_capabilities must be texts such as "8.6"'),
        ({"compute_capabilities": ["8.6", 9]}, "(got 9)"),
        ({"batches": ()}, "batches must have at least one size (got ())"),
        ({"batches": 0}, "batches must be >= 1 (got 0)"),
        ({"batches": "8"}, "batches must be a whole number (got '8')"),
        ({"batches": (1, None)}, "batches must be whole numbers (got None)"),
        ({"batches": (1, 2.5)}, "batches must be a whole number (got 2.5)"),
        ({"batches": True}, "batches must be a whole number (got True)"),
        ({"batches": 2**40}, "batches must be between 1 and"),
        ({"batches": lpx.BatchRange(1, 0, 8)}, "batches must be >= 1 (got 0)"),
        (
            {"batches": lpx.BatchRange(1, 9, 8)},
            "must be in ascending order (got (1, 9, 8))",
        ),
    ],
    ids=str,
)
def test_values_are_refused_where_they_come_in(options, said):
    with pytest.raises(InvalidArgumentError) as caught:
        lpx.TensorRTOptions(**options)
    assert said in caught.value.what
    assert caught.value.code == "invalid-argument"


@pytest.mark.parametrize(
    "options",
    [
        lpx.TensorRTOptions(),
        lpx.TensorRTOptions(dla_core=1),
        lpx.TensorRTOptions(
            batches=(8, 1),
            compute_capabilities="8.6",
            workspace_mib=64,
            optimisation_level=5,
            version_compatible=True,
            hardware_compatible=True,
            frozen_timing_cache=True,
            builds=3,
            tf32=False,
        ),
        lpx.TensorRTOptions(batches=lpx.BatchRange(1, 2, 3)),
    ],
)
def test_a_manifest_holds_all_options(options):
    read = read_tensorrt_options(json.loads(json.dumps(options.to_dict())), "options")
    assert read.to_dict() == options.to_dict()
    assert read.profiles == options.profiles


def test_options_of_another_kind_are_refused():
    with pytest.raises(SchemaError, match="unknown fields: sparsity"):
        read_tensorrt_options({"sparsity": True}, "options")
    with pytest.raises(SchemaError, match="expected an object"):
        read_tensorrt_options([], "options")


CHANGED = {
    "batches": 4,
    "compute_capabilities": "8.6",
    "workspace_mib": 64,
    "optimisation_level": 1,
    "version_compatible": True,
    "hardware_compatible": True,
    "dla_core": 0,
    "frozen_timing_cache": True,
    "builds": 2,
    "tf32": False,
}
TAKEN = {
    "onnxruntime-tensorrt": {"batches", "workspace_mib", "optimisation_level"},
    "onnxruntime-tensorrt-rtx": {"batches", "workspace_mib"},
    "tensorrt": CHANGED.keys() - {"compute_capabilities"},
    "tensorrt-rtx": CHANGED.keys(),
}


@pytest.mark.parametrize("name", CHANGED)
@pytest.mark.parametrize("target", [*TAKEN, "onnxruntime", "onnxruntime-cuda"])
def test_options_that_a_target_would_ignore_are_refused_by_name(target, name):
    options = lpx.TensorRTOptions(**{name: CHANGED[name]})
    if name in TAKEN.get(target, ()):
        check_options(options, target)
        return
    with pytest.raises(LpxError, match=f"`{name}.*` with target {target}") as caught:
        check_options(options, target)
    assert caught.value.code == "invalid-argument"


def test_the_list_of_options_is_spelled_once():
    """Elsewhere options are read one by one: no other class or function lists them."""
    names = [field.name for field in fields(lpx.TensorRTOptions)]
    root = Path(lpx.__file__).parent
    lists = []
    for path in root.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        declared = [name for name in names if re.search(rf"^ +{name}: ", text, re.MULTILINE)]
        if len(declared) > 3:
            lists.append(path.relative_to(root).as_posix())
    # The options of `lpx build` are collected by the names of the fields.
    assert lists == ["engines/tensorrt_options.py"]
