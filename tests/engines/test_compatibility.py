"""Which plans are refused by their release, before TensorRT is asked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from lpx.engines.compatibility import refusal
from lpx.engines.tensorrt_options import TensorRTOptions

NO_GPU: Any = SimpleNamespace(gpus=(), compute_capabilities=(), jetson=None)


def refused(was: str, now: str, target: str = "tensorrt", **options: bool) -> str:
    manifest: Any = SimpleNamespace(
        name="e",
        target=target,
        precision="int8",
        versions={target: was} if was else {},
        tensorrt=TensorRTOptions(**options),
        machine={},
    )
    return refusal(manifest, NO_GPU, f"tensorrt {now}" if now else "")


@pytest.mark.parametrize(
    ("was", "now", "runs"),
    [
        ("10.3.0", "10.3.0", True),
        # JetPack's bindings leave out the build number: what is not known is not compared.
        ("10.3.0", "10.3.0.26", True),
        ("10.3.0.26", "10.3.0", True),
        ("8.6.2-1", "8.6.2", True),
        ("10.13.3.9", "10.13.3.9", True),
        # TensorRT compares build numbers: "expecting library version 9.2.0.5 got 9.2.0.4".
        ("9.2.0.4", "9.2.0.5", False),
        ("10.13.3.9", "10.13.3.10", False),
        ("10.13.3.10", "10.13.3.9", False),
        ("10.3.0", "10.13.3", False),
        ("10.13.3", "10.3.0", False),
        ("10.3.0", "", True),
        ("", "10.13.3", True),
        ("unknown", "10.13.3", True),
    ],
)
def test_a_plan_runs_on_its_own_release(was: str, now: str, runs: bool) -> None:
    reason = refused(was, now)
    assert (reason == "") == runs
    if not runs:
        assert f"built by TensorRT {was}, here is {now}" in reason
        assert "`lpx build --int8 --target tensorrt`" in reason
    assert refused(was, now, "tensorrt-rtx") == "", "TensorRT for RTX decides by itself"


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ("10.3.0", "10.3.0", ""),
        ("10.3.0", "10.13.3.9", ""),
        ("10.13.3.9", "10.13.3.10", ""),
        ("8.6.1", "8.6.2", ""),
        ("8.6.1", "10.3.0", ""),
        ("10.3.0", "11.4.0.106", ""),
        ("12.0.0", "13.1.0", ""),
        ("10.13.3.9", "10.3.0", "its own release and later ones only"),
        ("10.13.3.10", "10.13.3.9", "its own release and later ones only"),
        ("11.4.0.106", "10.16.1.11", "its own release and later ones only"),
        ("10.3.0", "8.6.2", "its own release and later ones only"),
        ("8.6.1", "11.4.0.106", "TensorRT 10 is the one later major release"),
        ("10.3.0", "12.0.0", "TensorRT 11 is the one later major release"),
    ],
)
def test_a_version_compatible_plan_runs_on_later_releases(was: str, now: str, said: str) -> None:
    reason = refused(was, now, version_compatible=True)
    assert bool(reason) == bool(said)
    assert said in reason
