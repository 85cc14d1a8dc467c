"""ONNX Runtime's GPU providers: by a stand-in for its session, and for real where a GPU is."""

from __future__ import annotations

import sys
from contextlib import closing
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from lpx.api.build import BuildHost
from lpx.data.face_sets.demo import demo_set
from lpx.engines import load
from lpx.engines.onnxruntime.gpu import (
    PLUGIN,
    PROVIDER_OPTIONS,
    PROVIDERS,
    OnnxRuntimeGpuEngine,
    provider_available,
    provider_options,
)
from lpx.engines.tensorrt_options import DEFAULT_TENSORRT, BatchRange, TensorRTOptions
from lpx.errors import LpxError
from lpx.machine.machine import Gpu, read_machine

GPU = "lpx.engines.onnxruntime.gpu"
CPU = "CPUExecutionProvider"
CUDA, TENSORRT = PROVIDERS["onnxruntime-cuda"], PROVIDERS["onnxruntime-tensorrt"]
RTX = PROVIDERS["onnxruntime-tensorrt-rtx"]


class Value:
    """An OrtValue on the GPU."""

    made: list[tuple[int, ...]] = []  # noqa: RUF012

    def __init__(self, shape, dtype):
        self.array = np.zeros(shape, dtype)

    @staticmethod
    def ortvalue_from_shape_and_type(shape, dtype, device, index):
        assert (device, index) == ("cuda", 0)
        Value.made.append(tuple(shape))
        return Value(shape, dtype)

    def update_inplace(self, array):
        assert (array.shape, array.dtype) == (self.array.shape, self.array.dtype)
        assert array.flags.c_contiguous
        self.array[...] = array

    def numpy(self):
        return self.array.copy()


class Binding:
    def __init__(self):
        self.bound = {}

    def bind_ortvalue_input(self, name, value):
        self.bound[name] = value

    bind_ortvalue_output = bind_ortvalue_input


class Session:
    """A session that scores a face by its mean. `granted` are the providers it gives."""

    granted: tuple[str, ...] | None = None
    problem: str = ""
    last: Session

    def __init__(self, model, options, providers=None, enable_fallback=1):
        if Session.problem:
            raise RuntimeError(Session.problem)
        self.options, self.providers, self.enable_fallback = options, providers, enable_fallback
        Session.last = self

    def get_providers(self):
        names = [name for name, _ in self.providers or ()]
        return list(Session.granted or names or [*self.options.devices, CPU])

    def get_modelmeta(self):
        return SimpleNamespace(custom_metadata_map={})

    def get_outputs(self):
        class Output:
            shape = ("N", 2, 2)

        return [None, Output]

    def io_binding(self):
        return Binding()

    def run_with_iobinding(self, binding):
        faces = binding.bound["faces"].array
        binding.bound["score"].array[...] = faces.mean(axis=(1, 2, 3)) / 255
        binding.bound["patch_map"].array[...] = faces[:, :2, :2, 0] / 255

    def run(self, names, feeds):
        assert names == ["score", "patch_map"]
        binding = Binding()
        binding.bound = {"faces": SimpleNamespace(array=feeds["faces"])} | {
            name: Value((len(feeds["faces"]), *shape), np.float32)
            for name, shape in (("score", ()), ("patch_map", (2, 2)))
        }
        self.run_with_iobinding(binding)
        return [binding.bound[name].array for name in names]


class Options(onnxruntime.SessionOptions):
    """Session options that take a plugin's devices, given by the names of their providers."""

    devices: tuple[str, ...] = ()
    plugin: dict[str, str]

    def add_provider_for_devices(self, devices, options):
        assert devices
        self.devices, self.plugin = tuple(device.ep_name for device in devices), dict(options)


class Plugin:
    """The package of a plugin, which ONNX Runtime offers `gpus` of once it is registered."""

    def __init__(self, monkeypatch, gpus=1, problem=""):
        self.gpus, self.problem, self.registered = gpus, problem, []
        self.__spec__ = ModuleSpec(PLUGIN, None)
        monkeypatch.setitem(sys.modules, PLUGIN, self)
        fake = sys.modules["onnxruntime"]
        assert fake is not onnxruntime, "the fixture `fake` comes first"
        fake.get_ep_devices = self.get_ep_devices
        fake.register_execution_provider_library = self.register_execution_provider_library

    def get_library_path(self):
        return "/plugin.so"

    def register_execution_provider_library(self, name, path):
        if self.problem:
            raise RuntimeError(self.problem)
        if self.registered:
            raise RuntimeError(f"EP library is already registered under {name}")
        self.registered.append((name, path))

    def get_ep_devices(self):
        found = [SimpleNamespace(ep_name=RTX, index=i) for i in range(self.gpus)]
        return [SimpleNamespace(ep_name=CPU), *(found if self.registered else ())]


@pytest.fixture
def fake(monkeypatch):
    """Puts ONNX Runtime with these providers in place of the one installed."""

    def apply(*names, granted=None, problem=""):
        module = ModuleType("onnxruntime")
        vars(module).update(vars(onnxruntime))
        module.get_available_providers = lambda: [*names, CPU]
        module.preload_dlls = lambda: None
        module.InferenceSession = Session
        module.OrtValue = Value
        module.SessionOptions = Options
        Session.granted, Session.problem, Value.made = granted, problem, []
        # lpx imports it where it is used.
        monkeypatch.setitem(sys.modules, "onnxruntime", module)

    return apply


def opened(target, tmp_path, largest=8):
    return OnnxRuntimeGpuEngine(b"model", 4, target, {"option": "1"}, tmp_path / "cache", largest)


def test_provider_that_the_wheel_lacks_is_named_with_the_wheel(fake, tmp_path):
    fake(TENSORRT)
    assert provider_available("onnxruntime-tensorrt")[0]
    usable, reason = provider_available("onnxruntime-cuda")
    assert not usable
    assert f"has {TENSORRT}, {CPU}, but no {CUDA}" in reason
    assert "onnxruntime-gpu" in reason
    with pytest.raises(LpxError, match="onnxruntime-cuda cannot be used here"):
        opened("onnxruntime-cuda", tmp_path)


@pytest.mark.parametrize("target", PROVIDERS)
def test_fallback_to_the_cpu_is_an_error(fake, monkeypatch, tmp_path, target):
    fake(CUDA, TENSORRT, granted=(CPU,))
    Plugin(monkeypatch)
    with pytest.raises(
        LpxError, match=f"does not run the model with {PROVIDERS[target]}"
    ) as caught:
        opened(target, tmp_path)
    assert f"fell back to {CPU}" in caught.value.why


def test_tensorrt_that_falls_back_to_cuda_is_an_error(fake, tmp_path):
    fake(CUDA, TENSORRT, granted=(CUDA, CPU))
    with pytest.raises(LpxError, match=f"with {TENSORRT}"):
        opened("onnxruntime-tensorrt", tmp_path)


def test_session_that_fails_is_a_users_error(fake, tmp_path):
    fake(CUDA, problem="libcudnn.so.9: cannot open\nstack trace")
    with pytest.raises(LpxError, match="cannot load the model for onnxruntime-cuda") as caught:
        opened("onnxruntime-cuda", tmp_path)
    assert caught.value.why == "libcudnn.so.9: cannot open"


def test_sessions_may_not_fall_back(fake, tmp_path):
    fake(CUDA, TENSORRT)
    opened("onnxruntime-tensorrt", tmp_path)
    session = Session.last
    assert not session.enable_fallback
    assert session.options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
    (first, options), (second, _) = session.providers
    assert (first, second) == (TENSORRT, CUDA)
    assert options["option"] == "1"
    assert options["trt_engine_cache_path"] == str(tmp_path / "cache")
    assert (tmp_path / "cache").is_dir()
    opened("onnxruntime-cuda", tmp_path)
    assert Session.last.providers == [(CUDA, {"option": "1"})]


@pytest.mark.parametrize("target", PROVIDERS)
def test_tensorrt_gets_the_graph_as_it_is_written(fake, monkeypatch, tmp_path, target):
    """ONNX Runtime's optimiser miscomputes strongly typed graphs with Q/DQ pairs."""
    fake(CUDA, TENSORRT)
    Plugin(monkeypatch)
    opened(target, tmp_path)
    levels = onnxruntime.GraphOptimizationLevel
    as_written = Session.last.options.graph_optimization_level == levels.ORT_DISABLE_ALL
    assert as_written == (target != "onnxruntime-cuda")


def test_a_plugin_runs_the_graph_as_written_on_its_first_gpu(fake, monkeypatch, tmp_path):
    fake()
    plugin = Plugin(monkeypatch, gpus=2)
    with closing(opened("onnxruntime-tensorrt-rtx", tmp_path, largest=4)) as engine:
        session = Session.last
        assert session.providers is None, "providers by name would be those of the wheel"
        assert not session.enable_fallback
        assert session.options.devices == (RTX,)
        assert session.options.plugin == {
            "option": "1",
            "nv_runtime_cache_path": str(tmp_path / "cache"),
        }
        assert (tmp_path / "cache").is_dir()
        assert session.options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
        faces = np.random.default_rng(0).integers(0, 256, (11, 4, 4, 3), np.uint8)
        found = engine.infer(faces)
        np.testing.assert_allclose(found.score, faces.mean(axis=(1, 2, 3)) / 255, rtol=1e-6)
        np.testing.assert_allclose(found.patch_map, faces[:, :2, :2, 0] / 255, rtol=1e-6)
    opened("onnxruntime-tensorrt-rtx", tmp_path)
    assert plugin.registered == [(RTX, "/plugin.so")]


@pytest.mark.parametrize(
    ("gpus", "problem", "what", "why"),
    [
        (0, "", "supports no GPU of this machine in ONNX Runtime", "8.6, 8.9, 12.0 and later"),
        # ONNX Runtime's own words, on a machine without NVIDIA's driver.
        (
            0,
            "[ONNXRuntimeError] : 1 : FAIL : Failed to load library /plugin.so with error: "
            "libcuda.so.1: cannot open shared object file: No such file or directory\nstack",
            "does not start in ONNX Runtime",
            "libcuda.so.1: cannot open shared object file",
        ),
        (
            0,
            "EP library is already registered under NvTensorRTRTXExecutionProvider",
            "supports no GPU of this machine in ONNX Runtime",
            "driver",
        ),
    ],
    ids=["no RTX GPU", "no driver", "no RTX GPU, registered by another"],
)
def test_a_plugin_without_a_gpu_says_so(fake, monkeypatch, tmp_path, gpus, problem, what, why):
    fake()
    Plugin(monkeypatch, gpus, problem)
    assert provider_available("onnxruntime-tensorrt-rtx")[0]
    with pytest.raises(LpxError, match=what) as caught:
        opened("onnxruntime-tensorrt-rtx", tmp_path)
    assert why in caught.value.why
    assert "stack" not in caught.value.why


def test_a_plugin_that_is_not_there_is_named(fake, monkeypatch, tmp_path):
    fake(CUDA)
    monkeypatch.setitem(sys.modules, PLUGIN, None)
    usable, reason = provider_available("onnxruntime-tensorrt-rtx")
    assert not usable
    assert "pip install onnxruntime-ep-nv-tensorrt-rtx" in reason
    with pytest.raises(LpxError, match="onnxruntime-tensorrt-rtx cannot be used here"):
        opened("onnxruntime-tensorrt-rtx", tmp_path)
    del sys.modules["onnxruntime"].register_execution_provider_library
    assert "does not support plugins" in provider_available("onnxruntime-tensorrt-rtx")[1]


def test_options_of_the_plugin():
    target = "onnxruntime-tensorrt-rtx"
    found = provider_options(
        target, "int8", BatchRange(1, 8, 32), 160, TensorRTOptions(workspace_mib=64)
    )
    assert found == {
        "nv_profile_min_shapes": "faces:1x160x160x3",
        "nv_profile_opt_shapes": "faces:8x160x160x3",
        "nv_profile_max_shapes": "faces:32x160x160x3",
        "nv_max_workspace_size": str(64 << 20),
    }
    assert found.keys() <= PROVIDER_OPTIONS


def test_faces_are_cut_up_and_tensors_made_once_a_batch_size(fake, tmp_path):
    fake(CUDA)
    faces = np.random.default_rng(0).integers(0, 256, (11, 4, 4, 3), np.uint8)
    with closing(opened("onnxruntime-cuda", tmp_path, largest=4)) as engine:
        for _ in range(2):
            found = engine.infer(faces[::-1])
            wanted = faces[::-1]
            np.testing.assert_allclose(found.score, wanted.mean(axis=(1, 2, 3)) / 255, rtol=1e-6)
            np.testing.assert_allclose(found.patch_map, wanted[:, :2, :2, 0] / 255, rtol=1e-6)
        assert sorted(shape[0] for shape in Value.made) == [3, 3, 3, 4, 4, 4]
        with pytest.raises(LpxError, match="faces are float32"):
            engine.infer(faces.astype(np.float32))


@pytest.mark.parametrize(
    ("precision", "half", "integer"), [("fp32", "0", "0"), ("fp16", "1", "0"), ("int8", "1", "1")]
)
def test_tensorrt_options(precision, half, integer):
    found = provider_options(
        "onnxruntime-tensorrt",
        precision,
        BatchRange(1, 8, 32),
        160,
        TensorRTOptions(workspace_mib=64, optimisation_level=4),
    )
    assert (found["trt_fp16_enable"], found["trt_int8_enable"]) == (half, integer)
    assert found["trt_profile_opt_shapes"] == "faces:8x160x160x3"
    assert found["trt_max_workspace_size"] == str(64 << 20)
    assert found["trt_builder_optimization_level"] == "4"
    assert all(isinstance(value, str) for value in found.values())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_cuda_computes_fp32_in_fp32_and_not_in_tf32(precision):
    found = provider_options(
        "onnxruntime-cuda", precision, BatchRange(1, 8, 32), 160, DEFAULT_TENSORRT
    )
    assert found["use_tf32"] == "0"


@pytest.fixture
def gpu(monkeypatch, fake):
    """A machine with a GPU and ONNX Runtime's GPU wheel, none of which is real."""
    fake(CUDA, TENSORRT)
    machine = read_machine(Path("/"), lambda command: "")
    with_gpu = type(machine)(**{**vars(machine), "gpus": (Gpu("a GPU", "8.9", 8192, "580"),)})
    monkeypatch.setattr("lpx.api.build.BuildHost", lambda: BuildHost(with_gpu))


def test_build_writes_options_and_load_takes_them(workspace, gpu):
    (made,) = workspace.build(
        ("fp16",), target="onnxruntime-tensorrt", tensorrt=TensorRTOptions(BatchRange(1, 4, 16))
    )
    assert (made.name, made.dialect) == ("onnxruntime-tensorrt-fp16", "strongly-typed")
    assert made.batches == (16,)
    folder = workspace.engines / made.name
    engine = load(folder)
    assert engine.largest == 16
    options = Session.last.providers[0][1]
    assert options["trt_profile_max_shapes"] == "faces:16x160x160x3"
    assert options["trt_engine_cache_path"] == str(folder / "cache")
    assert options.items() >= made.options["provider"].items()


def test_a_plugin_engine_is_built_without_a_gpu(workspace, monkeypatch, fake):
    fake()
    Plugin(monkeypatch, gpus=0)
    fp32, int8 = workspace.build(
        ("fp32", "int8"),
        target="onnxruntime-tensorrt-rtx",
        faces="demo",
        limit=16,
        tensorrt=TensorRTOptions(BatchRange(1, 4, 16)),
    )
    assert (int8.name, int8.dialect) == ("onnxruntime-tensorrt-rtx-int8", "strongly-typed")
    assert int8.options["provider"]["nv_profile_max_shapes"] == "faces:16x160x160x3"
    assert int8.compute_capabilities == ()
    assert {"onnx", "onnxruntime"} < int8.versions.keys()
    (depthwise,) = {d["quantised"] for d in int8.placement if "depthwise" in d["reason"]} or {False}
    assert not depthwise, "as for a plan of TensorRT for RTX"
    assert any("TF32" in warning for warning in fp32.warnings)
    assert not any("TF32" in warning for warning in int8.warnings)
    Plugin(monkeypatch)
    engine = load(workspace.engines / int8.name)
    assert engine.largest == 16
    assert Session.last.options.plugin == int8.options["provider"] | {
        "nv_runtime_cache_path": str(workspace.engines / int8.name / "cache")
    }


def test_precisions_of_cuda(workspace, gpu):
    fp32, fp16 = workspace.build(("fp32", "fp16"), target="onnxruntime-cuda")
    assert list(fp32.convolutions) == ["fp32"]
    assert fp16.convolutions == {"fp16": fp32.convolutions["fp32"]}
    with pytest.raises(LpxError, match="INT8 is not supported with target onnxruntime-cuda"):
        workspace.build(("int8",), target="onnxruntime-cuda", faces="demo", limit=16)


@pytest.mark.parametrize(
    ("target", "options", "said"),
    [
        ("onnxruntime-cuda", {"workspace_mib": 64}, "`workspace_mib` with target onnxruntime-cuda"),
        ("onnxruntime-tensorrt", {"builds": 2}, "`builds` with target onnxruntime-tensorrt"),
        ("onnxruntime-tensorrt", {"batches": (1, 8)}, "2 batch sizes with target"),
        ("onnxruntime-tensorrt-rtx", {"batches": (1, 8)}, "2 batch sizes with target"),
        ("onnxruntime-tensorrt-rtx", {"optimisation_level": 3}, "`optimisation_level` with target"),
        (
            "onnxruntime-tensorrt-rtx",
            {"compute_capabilities": ("8.9",)},
            "`compute_capabilities` with",
        ),
    ],
)
def test_options_that_a_provider_does_not_take(workspace, gpu, monkeypatch, target, options, said):
    Plugin(monkeypatch)
    with pytest.raises(LpxError, match=said):
        workspace.build(("fp32",), target=target, tensorrt=TensorRTOptions(**options))


@pytest.mark.gpu
@pytest.mark.parametrize("target", PROVIDERS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_scores_on_a_gpu_are_those_of_the_cpu(request, target, precision):
    usable, reason = provider_available(target)
    if not usable or not read_machine().gpus:
        pytest.skip(reason if not usable else "no NVIDIA GPU")
    workspace = request.getfixturevalue("workspace")  # not built for a test that is skipped
    (made,) = workspace.build((precision,), target=target)
    batch = next(iter(demo_set("test").first(8).stream(8, 160, [])))
    with (
        closing(load(workspace.engines / made.name)) as here,
        closing(load(workspace.engines / "onnxruntime-fp32")) as cpu,
    ):
        found, wanted = here.infer(batch.pixels), cpu.infer(batch.pixels)
    # Measured on an H200: under 5e-5 in FP32, 1.4e-3 with TF32, 8e-3 in FP16.
    bound = 1e-4 if (target, precision) == ("onnxruntime-cuda", "fp32") else 0.02
    np.testing.assert_allclose(found.score, wanted.score, atol=bound)
