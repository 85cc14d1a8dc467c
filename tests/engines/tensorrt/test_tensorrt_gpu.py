"""Build, load and run on an NVIDIA GPU, held against ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tensorrt_nets import SIZE, tiny

from lpx.engines.base import Prediction
from lpx.engines.tensorrt import cuda
from lpx.engines.tensorrt.build import build_plan
from lpx.engines.tensorrt.capabilities import capabilities_of
from lpx.engines.tensorrt.library import Flavour, available, load
from lpx.engines.tensorrt.request import BatchRange
from lpx.engines.tensorrt.runtime import TensorRTEngine
from lpx.errors import LpxError

pytestmark = pytest.mark.gpu

# Scores are means of 256 sigmoids: FP16 keeps about three decimal digits of each.
TOLERANCE = {"fp32": 2e-3, "fp16": 5e-3, "int8": 3e-2}  # fp32: TensorRT uses TF32 by default


@pytest.fixture(scope="module")
def gpu() -> cuda.Device:
    usable, reason = cuda.available()
    if not usable:
        pytest.skip(reason)
    return cuda.open_driver().device()


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def flavour(request: pytest.FixtureRequest, gpu: cuda.Device) -> Flavour:
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
    dialect = capabilities_of(load(flavour), flavour).dialect
    return tiny(precision, weak=dialect == "weakly-typed")


def plan_of(model: bytes, precision: Any, flavour: Flavour, batches: Any) -> bytes:
    return build_plan(model, flavour=flavour, precision=precision, batches=batches).data


@pytest.fixture
def engine(flavour: Flavour) -> Iterator[TensorRTEngine]:
    plan = plan_of(model_of("fp16", flavour), "fp16", flavour, BatchRange(1, 4, 8))
    with TensorRTEngine(plan, flavour=flavour) as made:
        yield made


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("batches", [BatchRange(1, 4, 8), (1, 8)])
def test_scores_are_those_of_onnxruntime(flavour: Flavour, precision: str, batches: Any) -> None:
    model = model_of(precision, flavour)
    with TensorRTEngine(plan_of(model, precision, flavour, batches), flavour=flavour) as engine:
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
    with TensorRTEngine(plan, flavour=flavour, cuda_graph=False) as plain:
        expected = plain.infer(faces)
    with TensorRTEngine(plan, flavour=flavour) as engine:
        for _ in range(4):
            found = engine.infer(faces)
            np.testing.assert_array_equal(found.score, expected.score)
            np.testing.assert_array_equal(found.patch_map, expected.patch_map)


def test_a_batch_that_is_cut_up_gives_the_same_scores(engine: TensorRTEngine) -> None:
    faces = faces_of(21)
    whole = engine.infer(faces)
    single = [engine.infer(faces[i : i + 1]).score[0] for i in range(len(faces))]
    np.testing.assert_allclose(whole.score, single, atol=1e-3)


def test_the_gpu_keeps_time(engine: TensorRTEngine) -> None:
    engine.infer(faces_of(8))
    timing = engine.last_timing
    assert timing is not None
    assert min(timing.h2d_ms, timing.compute_ms, timing.d2h_ms) > 0
    assert timing.total_ms < 1000


def test_memory_comes_back_on_close(flavour: Flavour) -> None:
    plan = plan_of(model_of("fp16", flavour), "fp16", flavour, BatchRange(1, 4, 8))
    driver = cuda.open_driver()
    TensorRTEngine(plan, flavour=flavour, driver=driver).close()  # libraries load on the first
    before = driver.device().memory_free_bytes
    for _ in range(5):
        TensorRTEngine(plan, flavour=flavour, driver=driver).close()
    assert before - driver.device().memory_free_bytes < 1 << 20


def test_a_timing_cache_is_taken_back(flavour: Flavour) -> None:
    model, options = model_of("fp16", flavour), {"precision": "fp16", "batches": (1,)}
    first = build_plan(model, flavour=flavour, **options)
    if first.timing_cache is None:
        pytest.skip("this release has no timing cache")
    assert build_plan(model, flavour=flavour, timing_cache=first.timing_cache, **options).data


def test_bytes_that_are_no_plan_are_refused(flavour: Flavour) -> None:
    with pytest.raises(LpxError, match="does not load"):
        TensorRTEngine(b"no plan", flavour=flavour)
