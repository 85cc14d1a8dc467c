"""`lpx build`'s options of TensorRT's builder, as a user types them."""

from __future__ import annotations

import json

import pytest

from lpx.engines.manifest import read_manifest
from lpx.engines.tensorrt import LayerTable, available
from lpx.engines.tensorrt.building.progress import outermost
from lpx.engines.tensorrt.inspect import parse_build_log

USABLE, REASON = available("tensorrt-rtx")


@pytest.mark.skipif(not USABLE, reason=REASON)
def test_profiles_level_and_repeated_builds_by_tensorrt_rtx(lpx, workspace):
    build = (
        "build",
        "--fp16",
        "--target",
        "tensorrt-rtx",
        "--compute-capability",
        "8.9",
        "--batch",
        "1,8",
        "--optimisation-level",
        "0",
        "--builds",
        "2",
    )
    ran = lpx(*build, "--json")
    assert ran.code == 0, ran.err
    assert "building tensorrt-rtx-fp16: done" in ran.err
    (engine,) = json.loads(ran.out)["engines"]
    assert engine["options"]["tensorrt"]["batches"] == [1, 8]
    options = engine["options"]
    assert options["tensorrt"]["optimisation_level"] == 0
    assert options["timing_cache"] is None
    assert "fp16" in options["layers"]
    spread = options["builds"]
    assert len(spread["seconds"]) == len(spread["sizes"]) == 2
    assert spread["sizes"][0] == (workspace.engines / engine["name"] / "engine.plan").stat().st_size
    shown = lpx(*build).out
    assert "2 builds gave " in shown
    assert "; kept number 1" in shown


@pytest.mark.skipif(not USABLE, reason=REASON)
def test_convolutions_that_the_plan_does_not_show_are_named(lpx, workspace, monkeypatch):
    def without_the_last(text: str) -> LayerTable:
        table = parse_build_log(text)
        lost = table.convolutions[-1]
        return LayerTable(tuple(row for row in table.rows if row is not lost))

    monkeypatch.setattr("lpx.engines.tensorrt.building.plan.parse_build_log", without_the_last)
    ran = lpx(
        "build", "--fp16", "--target", "tensorrt-rtx", "--batch", "1", "--optimisation-level", "0"
    )
    assert ran.code == 0, ran.err
    counts = read_manifest(workspace.engines / "tensorrt-rtx-fp16").convolutions
    assert counts["unknown"] == 1
    assert f"convolutions: {counts['fp16']} fp16, 1 not recognised" in ran.out
    assert f"the precision of 1 of {counts['fp16'] + 1} convolutions is not verified" in ran.out


@pytest.mark.skipif(not USABLE, reason=REASON)
def test_tf32_is_named_with_an_fp32_engine_and_can_be_switched_off(lpx, workspace):
    build = (
        "build",
        "--fp32",
        "--target",
        "tensorrt-rtx",
        "--compute-capability",
        "8.9",
        "--batch",
        "1",
        "--optimisation-level",
        "0",
    )
    ran = lpx(*build)
    assert ran.code == 0, ran.err
    assert "note: TF32 is on" in ran.out
    ran = lpx(*build, "--no-tf32")
    assert ran.code == 0, ran.err
    assert "TF32 is off" in ran.out
    assert "TF32 is on" not in ran.out


@pytest.mark.skipif(not USABLE, reason=REASON)
@pytest.mark.parametrize("options", [("--dla", "0"), ("--hardware-compatible",)])
def test_what_the_library_cannot_build_is_refused_before_faces_are_calibrated_on(
    lpx, workspace, monkeypatch, tree, options
):
    def calibrated(*arguments, **named):
        raise AssertionError("faces were calibrated on")

    monkeypatch.setattr("lpx.api.build.scales_for", calibrated)
    before = tree(workspace.root)
    ran = lpx("build", "--int8", "--fp16", "--target", "tensorrt-rtx", *options)
    assert ran.code == 2
    assert tree(workspace.root) == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--batch", "1,many"), "must be positive integers such as 1,8,32 (got '1,many')"),
        (("--batch", "0,8"), "must be positive integers such as 1,8,32 (got '0,8')"),
        (("--batch-range", "1:8"), "smallest first (got '1:8')"),
        (("--batch-range", "8:1:32"), "smallest first (got '8:1:32')"),
        (("--batch", "1", "--batch-range", "1:2:3"), "mutually exclusive"),
        (("--optimisation-level", "6"), "--optimisation-level must be between 0 and 5 (got 6)"),
        (("--builds", "0"), "--builds must be >= 1 (got 0)"),
        (("--dla", "-1"), "--dla must be >= 0 (got -1)"),
        (("--out", "x"), "--out needs --emit"),
        (("--weight-clip", "none"), "'none' is not one of 'max', 'mse'"),
        (("--batch", "1,8"), "--batch with target onnxruntime"),
        (("--workspace-mib", "64"), "--workspace-mib with target onnxruntime"),
        (("--version-compatible",), "--version-compatible with target onnxruntime"),
        (("--frozen-timing-cache",), "--frozen-timing-cache with target onnxruntime"),
        (("--dla", "0"), "--dla with target onnxruntime"),
        (("--no-tf32",), "--no-tf32 with target onnxruntime"),
    ],
)
def test_mistakes_are_told_before_anything_is_built(lpx, workspace, tree, options, said):
    before = tree(workspace.root)
    ran = lpx("build", "--fp32", "--target", "onnxruntime", *options)
    assert ran.code == 2
    assert said in ran.err
    assert tree(workspace.root) == before


def test_bar_is_that_of_theoutermost_phase():
    told = []
    progress = outermost(lambda done, total: told.append((done, total)))
    for phase, done in (("build", 0), ("tactics", 3), ("build", 1), ("tactics", 4), ("build", 2)):
        progress(phase, done, 2 if phase == "build" else 9)
    assert told == [(0, 2), (1, 2), (2, 2)]
