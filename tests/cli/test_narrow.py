"""A network with too few channels to quantise: the messages about it, and when they come."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lpx.engines.manifest import read_manifest
from lpx.engines.tensorrt import available
from lpx.workspace import read_sealed, write_sealed
from tests.support.networks import copy_export, network

USABLE, REASON = available("tensorrt-rtx")
TARGETS = (
    "onnxruntime",
    pytest.param("tensorrt-rtx", marks=pytest.mark.skipif(not USABLE, reason=REASON)),
)
NETWORK = network(
    """nn.Sequential(
            nn.Conv2d(3, 8, 5, 2, 2), nn.ReLU(), nn.Conv2d(8, 12, 3, 1, 1), nn.ReLU(),
            nn.Conv2d(12, 12, 3, 1, 1), nn.ReLU(), nn.Conv2d(12, 1, 1),
        )"""
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, shell):
    folder = tmp_path_factory.mktemp("narrow")
    (folder / "narrow_network.py").write_text(NETWORK)
    ran = shell("export", "--factory", "narrow_network:make", "--input-size", 32, cwd=folder)
    assert ran.code == 0, ran.err
    return folder


@pytest.fixture
def narrow(exported, tmp_path, monkeypatch):
    """A current folder with the network exported into its workspace."""
    out = copy_export(exported / "lpx-out", tmp_path / "lpx-out")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LPX_WORKSPACE", raising=False)
    monkeypatch.delenv("LPX_FACES", raising=False)
    return out


def check_refusal(text):
    assert "lpx leaves all 4 convolutions and matrix products of this model in float" in text
    assert "1 x 8 -> 12 channels, under 16 (min_channels)" in text
    assert "1 x 12 -> 12 channels, under 16 (min_channels)" in text
    assert "use --min-channels 8 to quantise them nevertheless" in text
    assert "please report" not in text


@pytest.mark.parametrize("target", TARGETS)
def test_int8_is_refused_before_anything_is_calibrated(lpx, narrow, target):
    ran = lpx("build", "--int8", "--target", target)
    assert ran.code == 1
    check_refusal(ran.err)
    assert "calibrating" not in ran.err
    assert not (narrow / "scales.json").exists()


def test_calibrate_says_the_same(lpx, narrow):
    ran = lpx("calibrate")
    assert ran.code == 1
    check_refusal(ran.err)
    assert not (narrow / "scales.json").exists()


def test_other_precisions_are_built_all_the_same(lpx, narrow):
    ran = lpx("build", "--fp32", "--int8", "--target", "onnxruntime")
    assert ran.code == 1
    assert "error: INT8 was not built, FP32 was: lpx leaves all 4 convolutions" in ran.err
    check_refusal(ran.err)
    assert "lpx-out/engines/onnxruntime-fp32/engine.onnx" in ran.out
    assert [p.name for p in (narrow / "engines").iterdir()] == ["onnxruntime-fp32"]


def test_json_lists_what_was_built(lpx, narrow):
    ran = lpx("build", "--fp32", "--fp16", "--int8", "--target", "onnxruntime", "--json")
    assert ran.code == 1
    assert "INT8 was not built, FP32, FP16 was" in ran.err
    assert [e["precision"] for e in json.loads(ran.out)["engines"]] == ["fp32", "fp16"]


def test_precision_that_fails_late_leaves_the_others(lpx, narrow, monkeypatch):
    """As where TensorRT finds no kernel: known only when it has built."""
    from lpx.engines.onnxruntime import make
    from lpx.errors import NotAsAskedError

    def fail(graph, request):
        raise NotAsAskedError("FP32 was asked for, but the plan computes in FP16", "why", "fix")

    monkeypatch.setattr(
        "lpx.engines.build.make_for_cpu",
        lambda graph, request: (
            fail(graph, request)
            if request.precision == "fp32"
            else make.make_for_cpu(graph, request)
        ),
    )
    ran = lpx("build", "--fp32", "--fp16", "--target", "onnxruntime")
    assert ran.code == 1
    assert "error: FP32 was not built, FP16 was: FP32 was asked for, but the plan" in ran.err
    assert [p.name for p in (narrow / "engines").iterdir() if (p / "manifest.json").exists()] == [
        "onnxruntime-fp16"
    ]
    assert lpx("build", "--fp32", "--target", "onnxruntime").code == 1


@pytest.mark.parametrize("target", TARGETS)
def test_min_channels_overrides(lpx, narrow, target):
    ran = lpx("build", "--int8", "--target", target, "--min-channels", 8, "--limit", 8)
    assert ran.code == 0, ran.err
    assert "INT8 quantises 2 of 4 convolutions" in ran.err
    manifest = read_manifest(Path("lpx-out/engines") / f"{target}-int8")
    assert manifest.convolutions["int8"] == 2
    assert manifest.calibration["weights"]["min_channels"] == 8
    macs = manifest.multiply_accumulates
    assert macs["int8"] == 16 * 16 * 9 * (8 * 12 + 12 * 12)
    assert sum(macs.values()) == macs["int8"] + 16 * 16 * (75 * 8 + 12)
    assert f"{manifest.int8_share * 100:.0f} % of the multiply-accumulates" in ran.out


def test_calibrate_hands_the_option_on_and_its_evidence_is_kept(lpx, narrow):
    ran = lpx("calibrate", "--min-channels", 8, "--limit", 8)
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[-1] == "next: lpx build --int8 --min-channels 8"
    assert (
        "sorted by mean score error; methods with a significant AUC loss (95 %) are listed last"
        in ran.out
    )
    built = lpx("build", "--int8", "--target", "onnxruntime", "--min-channels", 8, "--json")
    assert "reusing" in built.err
    (engine,) = json.loads(built.out)["engines"]
    assert engine["calibration"]["candidates"]


@pytest.mark.parametrize(("min_channels", "quantised"), [(8, 2), (12, 1)])
def test_engine_with_less_than_half_its_work_in_integers_warns(
    lpx, narrow, min_channels, quantised
):
    line = ("build", "--int8", "--target", "onnxruntime", "--limit", 8)
    ran = lpx(*line, "--min-channels", min_channels)
    assert ran.code == 0, ran.err
    manifest = read_manifest(Path("lpx-out/engines/onnxruntime-int8"))
    assert manifest.convolutions == {"int8": quantised, "fp32": 4 - quantised}
    little = manifest.int8_share < 0.5
    assert little == (min_channels == 12)
    assert ("note: only 47 % of the multiply-accumulates run in integers" in ran.out) == little
    assert ("31 % (1 node): under 12 (min_channels)" in ran.out) == little


def test_explain_graph_takes_the_option(lpx, narrow):
    values = {
        n: json.loads(
            lpx("explain-graph", "--target", "onnxruntime", "--min-channels", n, "--json").out
        )["multiply_accumulates"]
        for n in (8, 12, 16)
    }
    assert values[8]["int8"] > values[12]["int8"] > 0
    assert "int8" not in values[16]


def test_scales_of_an_lpx_that_observed_fewer_tensors_are_made_again(lpx, narrow):
    build = ("build", "--int8", "--target", "onnxruntime", "--min-channels", 8, "--limit", 8)
    assert lpx(*build).code == 0
    path = narrow / "scales.json"
    values = read_sealed(path, "")
    values["tensors"].popitem()
    write_sealed(path, values)
    ran = lpx(*build)
    assert ran.code == 0, ran.err
    assert "reusing" not in ran.err
