"""Builder options from a request to the library, the files and the manifest, on every release."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from tensorrt_surfaces import RELEASES
from tensorrt_workshop import Workshop, cache_of, kernels_in

from lpx.calibration.cache import header_version, read_cache
from lpx.calibration.methods import LEVELS
from lpx.calibration.observe import calibrate
from lpx.card import ModelCard
from lpx.data.face_sets.demo import demo_set
from lpx.engines.build import build_engine, cache_scales
from lpx.engines.manifest import EngineManifest, read_manifest
from lpx.engines.request import BuildRequest
from lpx.engines.targets import ResolvedTarget
from lpx.engines.tensorrt import LayerTable, Plan, PlanLayer
from lpx.engines.tensorrt.building.make import TF32
from lpx.engines.tensorrt.building.repeat import build_repeatedly
from lpx.engines.tensorrt.building.timing_cache import timing_cache_path
from lpx.engines.tensorrt_options import BatchRange, TensorRTOptions
from lpx.errors import LpxError
from lpx.export.to_onnx import to_onnx
from lpx.machine.machine import Gpu, Machine
from lpx.models.checkpoint import Detector
from lpx.models.detector import new_detector
from tests.support.machines import BOARD

ORIN = replace(BOARD, gpus=(Gpu("Orin (nvgpu)", "8.7", None, None),))
MACHINE = replace(ORIN, gpus=(Gpu("NVIDIA A100", "8.0", 40960, "570.1"),), jetson=None)
KEEPS_TIMES = [r for r in RELEASES if "rtx" not in r]
FREEZES = [r for r in KEEPS_TIMES if r != "tensorrt-8.6.1"]
HEAD = {"Name": "head", "LayerType": "CaskConvolution", "Inputs": [{"Datatype": "Half"}]}


@pytest.fixture(scope="module")
def model() -> tuple[bytes, ModelCard, BuildRequest]:
    """A small exported model, its card, and an INT8 request with scales."""
    module, card = new_detector("resnet18", "layer1", input_size=64)
    data = to_onnx(Detector(module.eval(), card))
    scales = calibrate(data, demo_set("train").first(2), 64)
    return data, card, BuildRequest("tensorrt", "int8", scales, "max")


Build = Callable[..., EngineManifest]


@pytest.fixture
def shops() -> Callable[..., Workshop]:
    def make(release: str, precision: str = "int8") -> Workshop:
        return Workshop(release, precision)

    return make


@pytest.fixture
def build(model: tuple[bytes, ModelCard, BuildRequest], tmp_path: Path) -> Build:
    data, card, request = model

    def run(shop: Workshop, machine: Machine = MACHINE, **options: Any) -> EngineManifest:
        tensorrt = TensorRTOptions(**({"batches": (1, 8)} | options))
        asked = replace(request, precision=shop.precision, target=shop.flavour, tensorrt=tensorrt)
        return build_engine(
            data,
            card,
            asked,
            ResolvedTarget(shop.flavour, library=shop.library.opened),
            tmp_path / "engine",
            machine,
            timing_caches=tmp_path / "times",
            measure=lambda plan, library, options: 1.0,
        )

    return run


@pytest.mark.parametrize("release", RELEASES)
def test_sizes_get_a_profile_each_and_stand_in_the_manifest(
    shops: Any, build: Build, release: str, tmp_path: Path
) -> None:
    shop = shops(release)
    made = build(shop, optimisation_level=4)
    assert made.batches == (1, 8)
    assert made.options["tensorrt"]["batches"] == (1, 8)
    assert [profile[1][0] for profile in shop.profiles()] == [1, 8]
    assert shop.set("builder_optimization_level") == [4]
    assert made.options["tensorrt"]["optimisation_level"] == 4
    graph = (tmp_path / "engine/graph.onnx").read_bytes()
    assert made.options["graph_sha256"] == hashlib.sha256(graph).hexdigest()
    assert build(shop, batches=BatchRange(2, 3, 4)).batches == (4,)


@pytest.mark.parametrize("release", KEEPS_TIMES)
def test_timing_cache_of_one_build_is_that_of_the_next(
    shops: Any, build: Build, tmp_path: Path, release: str
) -> None:
    shop = shops(release)
    first = build(shop).options["timing_cache"]
    path = tmp_path / "times" / first["file"]
    left = path.read_bytes()
    assert kernels_in(left) == ["conv"]
    digest = hashlib.sha256(left).hexdigest()
    assert (first["used_sha256"], first["left_sha256"]) == (None, digest)
    second = build(shop).options["timing_cache"]
    assert second == first | {"used_sha256": digest}
    shop.kernels = ["conv", "another"]
    third = build(shop).options["timing_cache"]
    assert third["used_sha256"] == digest != third["left_sha256"]
    assert kernels_in(path.read_bytes()) == ["conv", "another"]


def test_timing_cache_that_tensorrt_refuses_is_not_named_as_used(
    shops: Any, build: Build, tmp_path: Path
) -> None:
    shop = shops("tensorrt-10.3.0")
    path = timing_cache_path(tmp_path / "times", shop.library.__version__, MACHINE)
    path.parent.mkdir()
    path.write_bytes(cache_of("conv", device="another board"))
    made = build(shop)
    assert made.options["timing_cache"]["used_sha256"] is None
    assert kernels_in(path.read_bytes()) == ["conv"]
    assert any("all kernels are timed again" in text for text in made.warnings)


def test_timing_caches_of_other_releases_gpus_and_power_modes_lie_apart(tmp_path: Path) -> None:
    assert ORIN.jetson is not None
    paths = {
        timing_cache_path(tmp_path, version, machine).name
        for version in ("10.3.0", "10.7.0")
        for machine in (
            ORIN,
            replace(ORIN, jetson=replace(ORIN.jetson, power_mode="MAXN")),
            replace(ORIN, gpus=(Gpu("other", "8.7", None, None),)),
        )
    }
    assert len(paths) == 6
    assert "tensorrt_10.3.0_Orin-nvgpu_15W.timing" in paths


@pytest.mark.parametrize("release", RELEASES)
def test_frozen_timing_cache_fails_on_a_miss_and_is_left_as_it_was(
    shops: Any, build: Build, tmp_path: Path, release: str
) -> None:
    shop = shops(release)
    if release not in FREEZES:
        build(shop)
        with pytest.raises(LpxError, match="cannot use a frozen timing cache"):
            build(shop, frozen_timing_cache=True)
        return
    with pytest.raises(LpxError, match=r"timing cache .* does not exist"):
        build(shop, frozen_timing_cache=True)
    path = timing_cache_path(tmp_path / "times", shop.library.__version__, MACHINE)
    path.parent.mkdir()
    path.write_bytes(b"damaged")
    with pytest.raises(LpxError, match="does not use the timing cache"):
        build(shop, frozen_timing_cache=True)
    # What an unfrozen build leaves is what a frozen one takes.
    path.unlink()
    build(shop)
    left = path.read_bytes()
    made = build(shop, frozen_timing_cache=True)
    assert shop.flags() >= {"ERROR_ON_TIMING_CACHE_MISS"}
    found = made.options["timing_cache"]
    assert made.options["tensorrt"]["frozen_timing_cache"]
    assert found["left_sha256"] == found["used_sha256"] == hashlib.sha256(left).hexdigest()
    shop.kernels = ["conv", "another"]
    with pytest.raises(LpxError, match="did not build"):
        build(shop, frozen_timing_cache=True)
    assert path.read_bytes() == left


@pytest.mark.parametrize("release", KEEPS_TIMES)
def test_compatible_plans_carry_their_note(shops: Any, build: Build, release: str) -> None:
    shop = shops(release)
    made = build(shop, version_compatible=True, hardware_compatible=True)
    assert "VERSION_COMPATIBLE" in shop.flags()
    assert any("load it only if you trust who built it" in text for text in made.warnings)
    assert any(text.startswith("hardware-compatible") for text in made.warnings)
    assert made.options["tensorrt"]["version_compatible"]
    assert not any("compatible:" in text for text in build(shop).warnings)


def test_hardware_compatible_plans_are_refused_where_they_are_not_supported(
    shops: Any, build: Build, tmp_path: Path
) -> None:
    old = replace(MACHINE, gpus=(Gpu("Tesla T4", "7.5", 15360, "570.1"),))
    for machine, why in ((ORIN, "JetPack"), (old, "this GPU has 7.5")):
        shop = shops("tensorrt-10.3.0")
        with pytest.raises(LpxError, match="hardware-compatible plans") as caught:
            build(shop, machine, hardware_compatible=True)
        assert why in caught.value.why
        assert not shop.library.named("Builder")
        assert not (tmp_path / "engine/manifest.json").exists()
    unknown = replace(MACHINE, gpus=(Gpu("NVIDIA GPU", None, None, None),))
    assert build(shops("tensorrt-10.3.0"), unknown, hardware_compatible=True)


def without_tf32(shop: Workshop) -> bytes:
    """A build on hardware without TF32, with the text of TensorRT's libraries."""
    said = "BuilderFlag::kTF32 is set but hardware does not support TF32. Disabling TF32."
    shop.say("WARNING", said)
    return b"plan"


T4 = Gpu("Tesla T4", "7.5", 15360, "570.1")


@pytest.mark.parametrize("release", RELEASES)
def test_manifest_says_whether_tf32_is_on(
    shops: Any, build: Build, monkeypatch: pytest.MonkeyPatch, release: str
) -> None:
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)

    def noted(**options: Any) -> tuple[Any, bool]:
        made = build(shops(release, "fp32"), **options)
        return made.options["tf32"], TF32 in made.warnings

    assert noted() == (True, True)
    assert noted(tf32=False) == (False, False)
    # A GPU of before Ampere has none; TensorRT for RTX builds for others than this machine's.
    rtx = "rtx" in release
    assert noted(machine=replace(MACHINE, gpus=(T4,))) == (rtx, rtx)
    if rtx:
        assert noted(compute_capabilities=("7.5",)) == (False, False)
        assert noted(compute_capabilities=("7.5", "12.0")) == (True, True)
    half = build(shops(release, "fp16"))
    assert half.options["tf32"]
    assert TF32 not in half.warnings
    shop = shops(release, "fp32")
    shop.outcomes = [without_tf32]
    assert build(shop).options["tf32"] is False
    # TensorRT then leaves it out, whatever its builder is told.
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert noted() == (False, False)


def release_with_dla(shop: Workshop, version: str) -> Workshop:
    shop.library.__version__ = version
    shop.layers = [HEAD]
    return shop


@pytest.mark.parametrize("release", ["tensorrt-8.6.1", "tensorrt-10.3.0", "tensorrt-10.7.0"])
def test_int8_on_dla_is_a_plain_graph_and_a_cache_up_to_10_7(
    shops: Any, build: Build, model: Any, tmp_path: Path, release: str
) -> None:
    shop = release_with_dla(shops(release), release.removeprefix("tensorrt-"))
    made = build(shop, dla_core=1)
    assert (made.name, made.dialect) == ("tensorrt-int8-dla1", "calibration-cache")
    assert (made.options["tensorrt"]["dla_core"], made.options["gpu_fallback"]) == (1, ["head"])
    assert shop.flags() == {"GPU_FALLBACK", "FP16", "INT8"}
    text = (tmp_path / "engine/calibration.cache").read_text()
    header = {"8.6.1": "8601", "10.3.0": "100300", "10.7.0": "100700"}
    assert text.startswith(f"TRT-{header[release.removeprefix('tensorrt-')]}-EntropyCalibration2")
    scales = cache_scales(model[0], model[2])
    found = read_cache(text, "cache")
    assert found == pytest.approx({n: s * LEVELS for n, s in scales.items()}, rel=1e-6)
    assert "QuantizeLinear" not in operators(tmp_path)


def operators(folder: Path) -> set[str]:
    return {node.op_type for node in onnx.load(folder / "engine/graph.onnx").graph.node}


def test_int8_on_dla_is_explicit_from_11_4_1(shops: Any, build: Build, tmp_path: Path) -> None:
    shop = release_with_dla(shops("tensorrt-11.4.0.106"), "11.4.1.2")
    made = build(shop, dla_core=0)
    assert made.dialect == "dla-explicit"
    assert "QuantizeLinear" in operators(tmp_path)
    assert not (tmp_path / "engine/calibration.cache").exists()


@pytest.mark.parametrize(
    ("release", "version", "dialect"),
    [
        ("tensorrt-8.6.1", "8.6.1", "weakly-typed"),
        ("tensorrt-10.3.0", "10.3.0", "weakly-typed"),
        ("tensorrt-11.4.0.106", "11.4.1", "strongly-typed"),
    ],
)
def test_fp16_on_dla(shops: Any, build: Build, release: str, version: str, dialect: str) -> None:
    shop = release_with_dla(shops(release, "fp16"), version)
    assert build(shop, dla_core=0).dialect == dialect


def test_dla_refused_where_it_is_not_or_takes_nothing(shops: Any, build: Build) -> None:
    with pytest.raises(LpxError, match=r"tensorrt 10\.13\S* cannot build for DLA core 0"):
        build(shops("tensorrt-10.13.3.9"), dla_core=0)
    shop = shops("tensorrt-10.3.0")
    shop.layers, shop.dla_takes = [HEAD], False
    with pytest.raises(LpxError, match="the whole plan runs on the GPU") as caught:
        build(shop, dla_core=0)
    assert "head" in caught.value.why
    with pytest.raises(LpxError, match="DLA core 2"):
        build(shops("tensorrt-10.3.0"), dla_core=2)


def plan(data: bytes, layers: int) -> Plan:
    rows = (PlanLayer("conv", "conv", "int8", convolution=True),) * layers
    return Plan(data, "tensorrt", "10.3.0", LayerTable(rows), None, ())


def test_of_several_builds_the_one_of_median_latency_is_kept() -> None:
    plans = [plan(b"slow", 3), plan(b"fast", 1), plan(b"middle", 2), plan(b"fast", 1)]
    latency = {b"slow": 3.0, b"middle": 2.0, b"fast": 1.0}
    turn = iter(plans)
    kept, spread = build_repeatedly(lambda: next(turn), 3, lambda made: latency[made.data])
    assert kept.data == b"middle"
    assert (spread.kept, spread.latency_ms, spread.sizes) == (2, (3.0, 1.0, 2.0), (4, 4, 6))
    assert (spread.layers, spread.distinct, len(spread.seconds)) == ((3, 1, 2), 3, 3)


def test_without_a_gpu_the_first_is_kept() -> None:
    turn = iter([plan(b"one", 1), plan(b"one", 1)])
    kept, spread = build_repeatedly(lambda: next(turn), 2, None)
    assert (kept.data, spread.kept, spread.latency_ms, spread.distinct) == (b"one", 0, (), 1)


def test_builds_start_from_the_same_timing_cache(shops: Any, build: Build, tmp_path: Path) -> None:
    shop = shops("tensorrt-10.3.0")
    outcomes = [lambda _, name=name: name for name in (b"a", b"bb", b"ccc")]
    shop.outcomes = list(outcomes)
    made = build(shop, builds=3)
    assert made.options["builds"]["sizes"] == (1, 2, 3)
    assert made.options["builds"]["distinct"] == 3
    given = shop.library.named("IBuilderConfig.create_timing_cache")
    assert [call[1] for call in given] == [b""] * 3
    kept = made.options["builds"]["kept"]
    assert (tmp_path / "engine/engine.plan").read_bytes() == [b"a", b"bb", b"ccc"][kept]


def test_manifest_with_all_options_is_read_back(shops: Any, build: Build, tmp_path: Path) -> None:
    made = build(shops("tensorrt-10.3.0"), builds=2, version_compatible=True)
    read = read_manifest(tmp_path / "engine")
    assert json.dumps(read.options) == json.dumps(made.options)


@pytest.mark.parametrize(
    ("version", "header"),
    [((8, 5, 2), "8502"), ((8, 6, 1), "8601"), ((10, 3, 0, 26), "100300"), ((10, 13, 3), "101303")],
)
def test_header_of_a_calibration_cache(version: tuple[int, ...], header: str) -> None:
    assert header_version(version) == header


def test_fp32_for_8_6_is_of_an_opset_that_it_knows(
    shops: Any, build: Build, tmp_path: Path
) -> None:
    for release, newest in (("tensorrt-8.6.1", 17), ("tensorrt-10.3.0", 20)):
        build(shops(release, "fp32"))
        graph = onnx.load(tmp_path / "engine/graph.onnx")
        assert [o.version for o in graph.opset_import if not o.domain] == [newest]
