"""Build, load and run on an NVIDIA GPU, held against ONNX Runtime on the CPU."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorrt_nets import SIZE, tiny

from lpx.engines.base import Prediction
from lpx.engines.tensorrt.building.plan import Plan, build_plan
from lpx.engines.tensorrt.building.plan_request import PlanRequest
from lpx.engines.tensorrt.capabilities import open_library
from lpx.engines.tensorrt.cuda import choose as cuda
from lpx.engines.tensorrt.cuda.driver import Device
from lpx.engines.tensorrt.library import Flavour, available
from lpx.engines.tensorrt.runtime import TensorRTEngine
from lpx.engines.tensorrt_options import BatchRange, TensorRTOptions
from lpx.errors import LpxError

pytestmark = pytest.mark.gpu

# Scores are means of 256 sigmoids: FP16 keeps about three decimal digits of each.
TOLERANCE = {"fp32": 2e-3, "fp16": 5e-3, "int8": 3e-2}  # fp32: TensorRT uses TF32 by default


@pytest.fixture(scope="module")
def gpu() -> Device:
    usable, reason = cuda.available()
    if not usable:
        pytest.skip(reason)
    return cuda.open_driver().device()


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def flavour(request: pytest.FixtureRequest, gpu: Device) -> Flavour:
    usable, reason = available(request.param)
    if not usable:
        pytest.skip(reason)
    if request.param == "tensorrt-rtx" and gpu.compute_capability not in RTX_GPUS:
        pytest.skip(f"TensorRT for RTX does not run on compute capability {gpu.compute_capability}")
    return request.param


RTX_GPUS = ((7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1))


def faces_of(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def reference(model: bytes, faces: Any) -> Prediction:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # As written: the optimiser miscomputes some float16 graphs with Q/DQ pairs.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    score, patch_map = session.run(["score", "patch_map"], {"faces": faces})
    return Prediction(score=score, patch_map=patch_map)


def model_of(precision: str, flavour: Flavour) -> bytes:
    dialect = open_library(flavour).capabilities.dialect
    return tiny(precision, weak=dialect == "weakly-typed")


def plan_of(model: bytes, precision: Any, flavour: Flavour, batches: Any) -> bytes:
    return built(model, precision, flavour, batches=batches).data


def built(
    model: bytes, precision: Any, flavour: Flavour, cache: bytes | None = None, **options: Any
) -> Plan:
    request = PlanRequest(model, precision, TensorRTOptions(**options), timing_cache=cache)
    return build_plan(request, open_library(flavour))


@pytest.fixture
def engine(flavour: Flavour) -> Iterator[TensorRTEngine]:
    plan = plan_of(model_of("fp16", flavour), "fp16", flavour, BatchRange(1, 4, 8))
    with TensorRTEngine(plan, open_library(flavour)) as made:
        yield made


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("batches", [BatchRange(1, 4, 8), (1, 8)])
def test_scores_are_those_of_onnxruntime(flavour: Flavour, precision: str, batches: Any) -> None:
    model = model_of(precision, flavour)
    with TensorRTEngine(
        plan_of(model, precision, flavour, batches), open_library(flavour)
    ) as engine:
        assert engine.layers().convolutions
        for count in (1, 8, 8, 8, 3, 19):
            faces = faces_of(count, count)
            expected, found = reference(model, faces), engine.infer(faces)
            bound = TOLERANCE[precision]
            np.testing.assert_allclose(found.score, expected.score, atol=bound)
            np.testing.assert_allclose(found.patch_map, expected.patch_map, atol=10 * bound)


def test_cuda_graphs_change_no_score(flavour: Flavour) -> None:
    plan = plan_of(model_of("fp16", flavour), "fp16", flavour, BatchRange(1, 4, 8))
    faces = faces_of(8)
    with TensorRTEngine(plan, open_library(flavour), cuda_graph=False) as plain:
        expected = plain.infer(faces)
    with TensorRTEngine(plan, open_library(flavour)) as engine:
        for _ in range(4):
            found = engine.infer(faces)
            np.testing.assert_array_equal(found.score, expected.score)
            np.testing.assert_array_equal(found.patch_map, expected.patch_map)


def test_a_batch_that_is_cut_up_gives_the_same_scores(engine: TensorRTEngine) -> None:
    faces = faces_of(21)
    whole = engine.infer(faces)
    single = [engine.infer(faces[i : i + 1]).score[0] for i in range(len(faces))]
    np.testing.assert_allclose(whole.score, single, atol=1e-3)


@pytest.mark.parametrize("in_flight", [1, 2, 3])
def test_several_batches_in_flight_give_the_same_scores(flavour: Flavour, in_flight: int) -> None:
    model = model_of("fp16", flavour)
    plan, faces = plan_of(model, "fp16", flavour, BatchRange(1, 4, 8)), faces_of(61)
    with TensorRTEngine(plan, open_library(flavour), in_flight=in_flight) as engine:
        for _ in range(3):  # the later rounds launch CUDA graphs
            found = engine.infer(faces)
            expected = reference(model, faces)
            np.testing.assert_allclose(found.score, expected.score, atol=TOLERANCE["fp16"])


def test_a_graph_is_captured_for_real(flavour: Flavour) -> None:
    plan = plan_of(model_of("fp16", flavour), "fp16", flavour, BatchRange(1, 4, 8))
    driver = cuda.open_driver()
    if not driver.graphs or open_library(flavour).capabilities.builtin_cuda_graphs:
        pytest.skip("this binding has no graphs, or the library captures its own")
    launched = []
    launch = driver.launch
    driver.launch = lambda graph, stream: (launched.append(graph), launch(graph, stream))  # type: ignore[method-assign, assignment, func-returns-value]
    with TensorRTEngine(plan, open_library(flavour), driver=driver) as engine:
        for _ in range(3):
            engine.infer(faces_of(8))
        assert engine.notes == []
    assert len(launched) == 2


def test_nothing_is_allocated_while_it_runs(engine: TensorRTEngine) -> None:
    driver = cuda.open_driver()
    for count in (8, 8, 8, 5, 21):
        engine.infer(faces_of(count))
    before = driver.device().memory_free_bytes
    for _ in range(50):
        engine.infer(faces_of(21))
    assert driver.device().memory_free_bytes == before


def test_mapped_memory_gives_the_scores_that_copies_give(flavour: Flavour) -> None:
    if not cuda.open_driver().integrated():
        pytest.skip("this GPU has memory of its own")
    plan = plan_of(model_of("fp16", flavour), "fp16", flavour, BatchRange(1, 4, 8))
    faces = faces_of(19)
    with TensorRTEngine(plan, open_library(flavour), zero_copy=False) as copying:
        expected = copying.infer(faces)
    with TensorRTEngine(plan, open_library(flavour)) as engine:
        for _ in range(3):
            np.testing.assert_array_equal(engine.infer(faces).score, expected.score)


@pytest.mark.parametrize(
    "faces",
    [
        np.zeros((2, SIZE, SIZE, 3), np.float32),
        np.zeros((2, SIZE + 1, SIZE, 3), np.uint8),
        np.zeros((SIZE, SIZE, 3), np.uint8),
    ],
)
def test_wrong_faces_are_refused_and_the_next_batch_runs(
    engine: TensorRTEngine, faces: Any
) -> None:
    with pytest.raises(LpxError, match="faces of"):
        engine.infer(faces)
    assert engine.infer(faces_of(3)).score.shape == (3,)


def test_cuda_lost_in_the_middle_is_said_and_the_engine_closed(flavour: Flavour) -> None:
    """In a process of its own: the GPU does not come back to one that lost it."""
    plan = plan_of(model_of("fp16", flavour), "fp16", flavour, BatchRange(1, 4, 8))
    done = subprocess.run(
        [sys.executable, "-c", LOSE, flavour],
        input=plan,
        capture_output=True,
        cwd=Path(__file__).parents[3],
        timeout=300,
    )
    assert done.stdout.decode().splitlines() == [
        "sound: done",
        "wild: lost",
        "wild: the engine is closed",
        "sound: lost",
        "sound: the engine is closed",
    ], done.stderr.decode()


LOSE = f"""
import sys
import numpy as np
from lpx.engines.tensorrt import CudaLostError, TensorRTEngine, open_library
from lpx.engines.tensorrt.cuda import choose as cuda
from lpx.errors import LpxError
plan, faces = sys.stdin.buffer.read(), np.zeros((8, {SIZE}, {SIZE}, 3), np.uint8)
library = open_library(sys.argv[1])
sound = TensorRTEngine(plan, library)

# The faces of another engine are where nobody has memory: a kernel that reads there loses the GPU.
driver = cuda.open_driver()
malloc, to_device = driver.malloc, driver.to_device
driver.malloc = lambda nbytes: 1 << 46 if nbytes == faces.nbytes else malloc(nbytes)
driver.to_device = lambda address, array, stream: None
wild = TensorRTEngine(plan, library, driver=driver, zero_copy=False)
for name in ("sound", "wild", "wild", "sound", "sound"):
    try:
        dict(sound=sound, wild=wild)[name].infer(faces)
        print(f"{{name}}: done")
    except CudaLostError:
        print(f"{{name}}: lost")
    except LpxError as error:
        print(f"{{name}}: {{error.what}}")
"""


@pytest.mark.parametrize("damage", ["cut", "altered", "empty"])
def test_a_damaged_plan_is_refused(flavour: Flavour, damage: str) -> None:
    plan = bytearray(plan_of(model_of("fp16", flavour), "fp16", flavour, BatchRange(1, 4, 8)))
    if damage == "altered":
        plan[: len(plan) // 2] = bytes(len(plan) // 2)
    else:
        del plan[len(plan) // 2 if damage == "cut" else 0 :]
    with pytest.raises(LpxError, match="does not load"):
        TensorRTEngine(bytes(plan), open_library(flavour))


def test_this_machine_takes_the_plan_and_another_gpu_would_not(gpu: Device) -> None:
    from lpx.engines.compatibility import refusal
    from lpx.machine.machine import read_machine
    from tests.support.machines import manifest_for

    machine = read_machine()
    manifest = manifest_for("tensorrt", precision="fp16", machine=asdict(machine))
    assert refusal(manifest, machine) == ""
    here = ".".join(map(str, gpu.compute_capability))
    assert here in {found.compute_capability for found in machine.gpus}
    other = replace(machine, gpus=tuple(replace(g, compute_capability="1.0") for g in machine.gpus))
    assert "built for compute capability" in refusal(manifest, other)


def test_the_gpu_keeps_time(engine: TensorRTEngine) -> None:
    engine.infer(faces_of(8))
    timing = engine.last_timing
    assert timing is not None
    assert min(timing.h2d_ms, timing.compute_ms, timing.d2h_ms) > 0
    assert timing.total_ms < 1000


def test_memory_comes_back_on_close(flavour: Flavour) -> None:
    plan = plan_of(model_of("fp16", flavour), "fp16", flavour, BatchRange(1, 4, 8))
    driver = cuda.open_driver()
    TensorRTEngine(
        plan, open_library(flavour), driver=driver
    ).close()  # libraries load on the first
    before = driver.device().memory_free_bytes
    for _ in range(5):
        TensorRTEngine(plan, open_library(flavour), driver=driver).close()
    assert before - driver.device().memory_free_bytes < 1 << 20


def test_the_first_build_fills_a_timing_cache_and_the_second_starts_from_it(
    flavour: Flavour,
) -> None:
    if not open_library(flavour).capabilities.timing_cache:
        pytest.skip("this library ignores timing caches")
    model = model_of("fp16", flavour)
    first = built(model, "fp16", flavour, batches=1)
    assert first.timing_cache
    assert not first.timing_cache_used
    second = built(model, "fp16", flavour, first.timing_cache, batches=1)
    assert second.timing_cache_used


def test_without_tf32_a_plan_keeps_the_scores_of_fp32(flavour: Flavour) -> None:
    model = model_of("fp32", flavour)
    plan = built(model, "fp32", flavour, batches=BatchRange(1, 4, 8), tf32=False)
    faces = faces_of(8)
    with TensorRTEngine(plan.data, open_library(flavour)) as engine:
        found, wanted = engine.infer(faces), reference(model, faces)
    np.testing.assert_allclose(found.score, wanted.score, atol=2e-5)


def test_bytes_that_are_no_plan_are_refused(flavour: Flavour) -> None:
    with pytest.raises(LpxError, match="does not load"):
        TensorRTEngine(b"no plan", open_library(flavour))
