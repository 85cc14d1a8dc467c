"""What the tests of this folder share. All that are marked gpu run on CUDA as it is.

The others rehearse the same tests on the host: they show that a test can pass and can fail.
"""

import sys
from pathlib import Path

import pytest

from lpx.engines.tensorrt.cuda import choose as cuda

_HERE = Path(__file__).parent
sys.path[:0] = [str(_HERE), str(_HERE.parent / "support/tensorrt")]

from gpu_rigs import BINDINGS, REHEARSALS, Rig, open_rig  # noqa: E402 - found by the line above


@pytest.fixture(
    params=[*(pytest.param(name, marks=pytest.mark.gpu) for name in BINDINGS), *REHEARSALS]
)
def rig(request: pytest.FixtureRequest):
    """CUDA through each binding, and the rehearsal: whatever a test makes there it must release."""
    opened = open_rig(request.param)
    yield opened
    if not opened.on_gpu:
        assert opened.driver.cudart.live == {}, "not released"


@pytest.fixture
def gpu() -> Rig:
    """CUDA through the binding that lpx takes first."""
    usable, reason = cuda.available()
    if not usable:
        pytest.skip(reason)
    return open_rig(cuda.open_driver().device().binding)
