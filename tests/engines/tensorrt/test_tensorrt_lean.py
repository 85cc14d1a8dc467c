"""The real lean runtime: how it starts, or does not, and how it refuses.

pip install tensorrt-lean-cu13-bindings tensorrt-lean-cu13-libs
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lpx.engines.tensorrt.capabilities import open_runtime
from lpx.engines.tensorrt.cuda import choose as cuda
from lpx.engines.tensorrt.library import runtime_available
from lpx.engines.tensorrt.runtime import TensorRTEngine
from lpx.errors import LpxError

USABLE, REASON = runtime_available("tensorrt")
pytestmark = pytest.mark.skipif(
    not USABLE or "lean" not in REASON, reason=f"no lean runtime alone: {REASON}"
)

LOAD = """
import sys
sys.path.insert(0, sys.argv[1])
from tensorrt_fakes import FakeDriver, FakeGpu
from lpx.engines.tensorrt import TensorRTEngine, open_runtime
from lpx.errors import LpxError
try:
    TensorRTEngine(
        b"plan" * 100, open_runtime("tensorrt", version_compatible=True),
        driver=FakeDriver(FakeGpu()), allow_host_code=True, dla_core=0,
    )
except LpxError as error:
    print(error)
print("alive")
"""


def test_its_capabilities_are_read() -> None:
    capabilities = open_runtime("tensorrt", version_compatible=True).capabilities
    assert not capabilities.inspector
    assert not capabilities.debug_tensors
    assert capabilities.profile_sharing


def test_without_cuda_it_says_so_and_the_process_lives() -> None:
    if cuda.available()[0]:
        pytest.skip("there is a GPU here")
    command = [sys.executable, "-c", LOAD, str(Path(__file__).parents[2] / "support" / "tensorrt")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("alive\n")
    assert "cannot start" in done.stdout
    assert "CUDA initialization failure with error" in done.stdout


@pytest.mark.gpu
@pytest.mark.parametrize("allow", [True, False])
def test_on_a_gpu_it_starts_and_refuses_what_is_no_plan(allow: bool) -> None:
    usable, reason = cuda.available()
    if not usable:
        pytest.skip(reason)
    with pytest.raises(LpxError, match="the plan does not load") as caught:
        TensorRTEngine(
            b"plan" * 100,
            open_runtime("tensorrt", version_compatible=True),
            allow_host_code=allow,
        )
    assert "it is a TRT engine file" in caught.value.why
    assert "this is not a plan of this library" in caught.value.fix
