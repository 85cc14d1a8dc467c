"""lpx and PyTorch on one GPU in one process, as `lpx bench` has them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gpu_kernel import expected, faces_of
from gpu_rigs import Rig
from gpu_standin import StandIn

from lpx.engines.tensorrt.runtime import TensorRTEngine
from lpx.errors import LpxError

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).parents[2]


@pytest.fixture
def torch(gpu: Rig) -> Any:
    """PyTorch, where it has CUDA too."""
    module = pytest.importorskip("torch")
    if not module.cuda.is_available():
        pytest.skip(f"PyTorch {module.__version__} sees no GPU")
    return module


def assert_right(engine: TensorRTEngine, seed: int) -> None:
    faces = faces_of(8, seed)
    np.testing.assert_array_equal(engine.infer(faces).score, expected(faces)[0])


def test_both_mean_the_same_gpu(gpu: Rig, torch: Any) -> None:
    device, seen = gpu.driver.device(), torch.cuda.get_device_properties(0)
    assert (seen.name, (seen.major, seen.minor)) == (device.name, device.compute_capability)
    assert seen.total_memory == pytest.approx(device.memory_total_bytes, rel=0.01)


def test_memory_of_the_one_is_good_in_the_other(gpu: Rig, torch: Any) -> None:
    driver, count = gpu.driver, 1 << 20
    host, stream = driver.pinned((count,), np.int32), driver.stream()
    address = driver.malloc(host.nbytes)
    try:
        of_torch = torch.arange(count, dtype=torch.int32, device="cuda")
        torch.cuda.synchronize()
        driver.to_host(host, of_torch.data_ptr(), stream)
        driver.synchronize(stream)
        np.testing.assert_array_equal(host, np.arange(count))
        host[:] = 7
        driver.to_device(address, host, stream)
        driver.synchronize(stream)
        interface = {"shape": (count,), "typestr": "<i4", "data": (address, False), "version": 3}
        ours = torch.as_tensor(SimpleNamespace(__cuda_array_interface__=interface), device="cuda")
        assert int(ours.sum()) == 7 * count
    finally:
        driver.free(address)
        driver.free_pinned(host)
        driver.destroy_stream(stream)
    assert int(of_torch.long().sum()) == count * (count - 1) // 2


def test_both_compute_in_turns(gpu: Rig, torch: Any) -> None:
    # Small whole numbers: any order of summation gives the same bits.
    x = torch.randint(-4, 5, (512, 512), device="cuda").float()
    wanted = (x.double().cpu() @ x.double().cpu()).float()
    with StandIn(gpu.kernel).load(driver=gpu.driver, in_flight=2) as engine:
        for seed in range(20):
            product = x @ x  # not waited for
            assert_right(engine, seed)
            assert torch.equal(product.cpu(), wanted)


def test_cuda_graphs_of_both_run_in_turns(gpu: Rig, torch: Any) -> None:
    if not gpu.driver.graphs:
        pytest.skip("this binding has no CUDA graphs")
    with StandIn(gpu.kernel).load(driver=gpu.driver) as engine:
        for seed in range(3):
            assert_right(engine, seed)  # lpx's graph is captured now
        x = torch.zeros(1024, device="cuda")
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            y = x * 2 + 1
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = x * 2 + 1
        for seed in range(3):
            x.fill_(seed)
            graph.replay()
            assert_right(engine, seed)
            assert torch.equal(y.cpu(), torch.full((1024,), 2.0 * seed + 1))
        assert engine.notes == []


def test_where_the_one_lacks_memory_the_other_runs(gpu: Rig, torch: Any) -> None:
    with StandIn(gpu.kernel).load(driver=gpu.driver) as engine:
        with pytest.raises(LpxError, match=r"MemoryAllocation|OUT_OF_MEMORY"):
            gpu.driver.malloc(1 << 50)
        assert float(torch.ones(100, device="cuda").sum()) == 100
        with pytest.raises(torch.cuda.OutOfMemoryError):
            torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
        for seed in range(3):
            assert_right(engine, seed)


LOSE = """
import torch
from lpx.engines.tensorrt.cuda import choose as cuda
from lpx.engines.tensorrt.cuda.driver import CudaLostError
driver = cuda.open_driver()
torch.zeros(4, device="cuda")[torch.tensor([99], device="cuda")]
for call in (driver.synchronize_device, lambda: driver.malloc(16)):
    try:
        call()
        print("done")
    except CudaLostError as error:
        print("lost:", error.what)
"""


def test_a_gpu_that_torch_lost_is_lost_to_lpx(torch: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOSE], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    said = [line for line in done.stdout.splitlines() if line.startswith(("done", "lost"))]
    assert [line.split(":")[0] for line in said] == ["lost", "lost"], done.stderr
    assert "CUDA was lost" in said[0]


def test_the_reference_on_the_gpu_gives_the_scores_of_the_cpu(
    torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In FP32, that is: TF32 would differ by 1e-3, measured on an H200."""
    from lpx.data.face_sets.demo import CHECKPOINT, demo_set, folder
    from lpx.engines.torch import TorchEngine
    from lpx.models.checkpoint import load_checkpoint

    def engine() -> TorchEngine:
        return TorchEngine(load_checkpoint(folder() / CHECKPOINT))

    on_gpu = engine()
    assert on_gpu.device.type == "cuda"
    assert on_gpu.device_memory.bytes
    (batch,) = demo_set("test").first(16).stream(16, on_gpu.size, [])
    found = on_gpu.infer(batch.pixels)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    on_cpu = engine()
    assert on_cpu.device.type == "cpu"
    wanted = on_cpu.infer(batch.pixels)
    np.testing.assert_allclose(found.score, wanted.score, atol=2e-5)
    np.testing.assert_allclose(found.patch_map, wanted.patch_map, atol=2e-4)
