"""Real builds with TensorRT for RTX, which needs no GPU to build.

They hold what lpx's graphs rely on: which forms of graph TensorRT takes, and which precision its
layers get. Nothing is run: a plan loads on a GPU only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from tensorrt_nets import Net, tiny
from tensorrt_workshop import DAMAGED_CACHE

from lpx.engines.tensorrt.building.plan import Plan, build_plan
from lpx.engines.tensorrt.building.plan_request import PlanRequest
from lpx.engines.tensorrt.capabilities import open_library
from lpx.engines.tensorrt.layer_table import PlanLayer
from lpx.engines.tensorrt.library import available, load
from lpx.engines.tensorrt.logger import recording
from lpx.engines.tensorrt_options import BatchRange, TensorRTOptions
from lpx.errors import LpxError

USABLE, REASON = available("tensorrt-rtx")
pytestmark = pytest.mark.skipif(not USABLE, reason=REASON)

GPUS = ("8.0", "8.6", "8.9", "12.0")


def build(model: bytes, precision: Any, *gpus: str, **options: Any) -> Plan:
    progress = options.pop("progress", None)
    given: dict[str, Any] = {"batches": BatchRange(1, 4, 8)} | options
    tensorrt = TensorRTOptions(compute_capabilities=gpus or "8.9", **given)
    request = PlanRequest(model, precision, tensorrt)
    return build_plan(request, open_library("tensorrt-rtx"), progress)


def int8_convolutions(plan: Plan) -> list[PlanLayer]:
    assert plan.layers is not None
    return [row for row in plan.layers.convolutions if row.precision == "int8"]


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_each_precision_builds_for_each_gpu(precision: str, gpu: str) -> None:
    plan = build(tiny(precision), precision, gpu)
    assert plan.data
    assert plan.layers is not None
    counts = plan.layers.count_convolutions()
    # With INT8, stem and head stay FP16.
    expected = {"fp32": {"fp32"}, "fp16": {"fp16"}, "int8": {"fp16", "int8"}}
    assert set(counts) == expected[precision]
    assert len(set(counts.values())) == 1
    assert plan.timing_cache is None
    assert not [line for line in plan.log if line.startswith("error")]


def test_tf32_that_is_switched_off_makes_another_plan() -> None:
    with_tf32, again, without = (
        build(tiny("fp32"), "fp32", tf32=tf32).data for tf32 in (True, True, False)
    )
    assert with_tf32 == again
    assert with_tf32 != without


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_timing_caches_do_as_the_fake_library_does() -> None:
    """TensorRT for RTX ignores them in a build; what its builder configuration does stays."""
    trt = load("tensorrt-rtx")
    with recording(trt) as (logger, recorder):
        config = trt.Builder(logger).create_builder_config()
        assert config.get_timing_cache() is None
        assert config.set_timing_cache(config.create_timing_cache(b""), False)
        assert config.get_timing_cache() is not None
        assert not recorder.said("warning")
        assert config.set_timing_cache(config.create_timing_cache(b"garbage"), False)
        assert set(DAMAGED_CACHE) <= set(recorder.said("warning"))
        with pytest.raises(TypeError):
            config.create_timing_cache(None)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("scales", ["same", "fp32-between-casts"])
def test_every_form_of_scales_gives_int8_convolutions(scales: Any, per_channel: bool) -> None:
    model = tiny("int8", scales=scales, per_channel=per_channel)
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    assert len(int8_convolutions(build(model, "int8"))) == 2


def test_a_scale_per_tensor_lets_the_convolution_take_the_relu_in() -> None:
    """Per output channel, scaling, bias and ReLU are a kernel of their own, on FP32 data."""

    def layers_after_a_convolution(*, per_channel: bool) -> int:
        plan = build(tiny("int8", per_channel=per_channel), "int8")
        assert plan.layers is not None
        return sum("Relu" in row.name for row in plan.layers.rows)

    assert layers_after_a_convolution(per_channel=False) == 0
    assert layers_after_a_convolution(per_channel=True) == 2


def test_a_depthwise_convolution_can_be_int8() -> None:
    assert len(int8_convolutions(build(tiny("int8", depthwise=True), "int8"))) == 2


def test_weights_shrink_with_the_precision() -> None:
    sizes = [len(build(tiny(p, channels=256), p).data) for p in ("fp32", "fp16", "int8")]
    assert sizes[0] > 1.7 * sizes[1] > 1.7 * 1.1 * sizes[2]


@pytest.mark.parametrize("gpus", [("7.5",), ("7.5", "8.9")])
def test_7_5_has_no_int8_and_takes_it_from_the_others(gpus: tuple[str, ...]) -> None:
    with pytest.raises(LpxError, match="INT8 was requested, but the plan computes in FP16"):
        build(tiny("int8"), "int8", *gpus)


def test_one_plan_can_serve_several_gpus() -> None:
    assert len(int8_convolutions(build(tiny("int8"), "int8", *GPUS))) == 2


def test_the_default_set_of_gpus_keeps_int8() -> None:
    options = TensorRTOptions(batches=BatchRange(1, 4, 8))
    plan = build_plan(PlanRequest(tiny("int8"), "int8", options), open_library("tensorrt-rtx"))
    assert len(int8_convolutions(plan)) == 2


def test_a_graph_of_another_precision_is_caught() -> None:
    with pytest.raises(LpxError, match="INT8 was requested, but the plan computes in FP16"):
        build(tiny("fp16"), "int8")
    with pytest.raises(LpxError, match="FP16 was requested, but the plan computes in FP32"):
        build(tiny("fp32"), "fp16")


def test_unquantised_weights_are_caught() -> None:
    net = Net(np.float16)
    x = net.conv(net.start(), (3, 32), stride=2)
    x = net.conv(net.quantised(x, 0.05, scales="same"), (32, 32))
    with pytest.raises(LpxError, match="INT8 was requested, but the plan computes in FP16"):
        build(net.finish(x, 32), "int8")


def test_static_batches_get_their_layers_each() -> None:
    one, two = (build(tiny(), "fp16", batches=batches) for batches in ((1,), (1, 8)))
    assert one.layers is not None
    assert two.layers is not None
    assert len(two.layers.convolutions) == 2 * len(one.layers.convolutions)


def test_a_model_of_fixed_batch_builds() -> None:
    assert build(tiny(batch=4), "fp16", batches=(4,)).data


def test_a_bias_of_another_type_is_refused_with_the_node() -> None:
    net = Net(np.float16)
    model = net.finish(net.conv(net.start(), (3, 32), stride=2, bias_dtype=np.float32), 32)
    with pytest.raises(LpxError) as caught:
        build(model, "fp16")
    assert caught.value.what == "TensorRT refused node 'conv_3' (Conv)"
    assert "`input` and `bias` must be of same type" in caught.value.why
    assert "Cuda Runtime" not in caught.value.why


def test_uint8_must_be_cast_first() -> None:
    net = Net(np.float16)
    moved = net.op("Transpose", "faces", perm=[0, 3, 1, 2])
    x = net.conv(net.op("Cast", moved, to=onnx.TensorProto.FLOAT16), (3, 32), stride=2)
    with pytest.raises(LpxError, match="node 'transpose_0'"):
        build(net.finish(x, 32), "fp16")


def test_what_is_no_onnx_model_is_refused() -> None:
    with pytest.raises(LpxError, match="TensorRT refused the ONNX model"):
        build(b"nothing of the kind", "fp16")


def test_an_unknown_gpu_is_refused_with_the_known_ones() -> None:
    with pytest.raises(LpxError) as caught:
        build(tiny(), "fp16", "9.0")
    assert "8.9" in caught.value.why


def test_too_small_a_workspace_says_so() -> None:
    with pytest.raises(LpxError) as caught:
        build(tiny(), "fp16", workspace_mib=1, batches=BatchRange(1, 64, 256))
    assert caught.value.fix == "set a larger workspace, or none"


def test_progress_is_reported() -> None:
    steps: list[tuple[str, int, int]] = []
    build(tiny(), "fp16", progress=lambda *step: steps.append(step))
    assert steps[0][:2] == ("Building engine", 0)
    assert steps[-1][0] == "Building engine"
    assert steps[-1][1] == steps[-1][2] > 0


def test_ctrl_c_in_a_callback_stops_the_build(capfd: pytest.CaptureFixture[str]) -> None:
    def interrupt(phase: str, done: int, steps: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tiny(), "fp16", progress=interrupt)
    assert capfd.readouterr() == ("", "")


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    build(tiny("int8"), "int8")
    with pytest.raises(LpxError):
        build(b"", "fp16")
    assert capfd.readouterr() == ("", "")


def test_warnings_are_kept_once_with_their_count() -> None:
    (line, *_) = build(tiny("int8"), "int8").log
    assert line.startswith("warning: ")
    assert line.endswith("(2 times)")


def test_without_a_gpu_a_plan_does_not_load() -> None:
    from lpx.engines.tensorrt.cuda.choose import available as gpu_available
    from lpx.engines.tensorrt.runtime import TensorRTEngine

    if gpu_available()[0]:
        pytest.skip("there is a GPU here")
    from tensorrt_fakes import FakeDriver, FakeGpu

    plan = build(tiny(), "fp16")
    with pytest.raises(LpxError, match="the plan does not load"):
        TensorRTEngine(plan.data, open_library("tensorrt-rtx"), driver=FakeDriver(FakeGpu()))
