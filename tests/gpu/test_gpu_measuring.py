"""What lpx reads of a real GPU: energy, clock, heat, and what `lpx doctor` says of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from gpu_rigs import Rig

from lpx.machine.conditions import read_conditions
from lpx.machine.energy_sources import Unavailable, open_source
from lpx.machine.machine import read_machine
from lpx.machine.nvml import Nvml, open_nvml

pytestmark = pytest.mark.gpu
WINDOW_SECONDS = 1.5


@pytest.fixture
def nvml(gpu: Rig) -> Nvml:
    opened = open_nvml()
    if opened is None:
        pytest.skip("NVML does not open")
    return opened


@pytest.fixture
def keep_busy(gpu: Rig) -> Callable[[float], None]:
    """Has the GPU multiply matrices for so many seconds: that draws power."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip(f"PyTorch {torch.__version__} sees no GPU")
    x = torch.randn(4096, 4096, device="cuda", dtype=torch.float16)

    def work(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for _ in range(20):
                torch.mm(x, x)
            torch.cuda.synchronize()

    return work


def test_nvml_and_cuda_name_the_same_gpu(gpu: Rig, nvml: Nvml) -> None:
    assert gpu.driver.device().name in nvml.name


def test_the_machine_is_the_one_that_cuda_sees(gpu: Rig) -> None:
    machine, device = read_machine(), gpu.driver.device()
    assert machine.gpus, machine.no_gpu_reason
    here = ".".join(map(str, device.compute_capability))
    assert here in {found.compute_capability for found in machine.gpus}
    if machine.jetson is None:
        (seen, *_) = machine.gpus
        assert seen.name == device.name
        assert seen.memory_mib is not None
        # The driver keeps a part for itself.
        assert 0.9 < device.memory_total_bytes / (seen.memory_mib << 20) <= 1


def test_energy_grows_with_work(keep_busy: Callable[[float], None]) -> None:
    source = open_source("gpu")
    assert not isinstance(source, Unavailable), str(source)
    try:
        keep_busy(0.2)  # libraries load, and the clock rises
        watts = []
        for work in (time.sleep, keep_busy):
            source.start()
            began = time.monotonic()
            work(WINDOW_SECONDS)
            watts.append(source.stop() / (time.monotonic() - began))
    finally:
        source.close()
    idle, busy = watts
    assert 0 < idle < busy < 2000


def test_clock_and_heat_are_read(nvml: Nvml) -> None:
    conditions = read_conditions(nvml=nvml)
    assert conditions.gpu_mhz is not None
    assert 100 < conditions.gpu_mhz < 5000
    if read_machine().jetson is None:
        assert 10 < conditions.temperatures_c["gpu"] < 110


def test_doctor_shows_the_gpu(gpu: Rig, shell: Any) -> None:
    done = shell("doctor", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    here = ".".join(map(str, gpu.driver.device().compute_capability))
    assert here in [found["compute_capability"] for found in report["machine"]["gpus"]]
    assert report["machine"]["no_gpu_reason"] == ""
