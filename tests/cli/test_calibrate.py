from __future__ import annotations

import hashlib
import json

import pytest

from lpx.calibration.cache import read_cache
from lpx.calibration.methods import METHODS
from lpx.calibration.scales import load_scales
from lpx.graph.qdq.insert_qdq import Range
from lpx.workspace import sha256


@pytest.fixture
def calibrate(lpx, workspace):
    def run(*arguments):
        return lpx("calibrate", "-w", workspace.root, *arguments)

    return run


@pytest.mark.parametrize("select", ["stratified", "random", "coverage"])
def test_json_and_what_is_left_in_the_workspace(calibrate, workspace, crops, select):
    ran = calibrate("--faces", crops, "--limit", "8", "--select", select, "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert found["faces"] == 8
    assert set(found["methods"]) == set(METHODS)
    for key in ("forward_seconds", "calibration_seconds", "peak_rss_mib"):
        assert found[key] > 0
    assert all(m["score_error_mean"] >= 0 for m in found["methods"].values())
    scales = json.loads(workspace.scales.read_text())
    assert scales["method"] == found["method"] == next(iter(found["methods"]))
    assert [c["method"] for c in scales["candidates"]] == list(found["methods"])
    listed = json.loads((workspace.root / "calibration-faces.json").read_text())
    assert (listed["select"], len(listed["faces"])) == (select, 8)
    for face in listed["faces"]:
        assert face["sha256"] == hashlib.sha256((crops / face["name"]).read_bytes()).hexdigest()
    if select == "stratified":
        assert sum(face["label"] for face in listed["faces"]) == 4


def test_build_uses_the_scales_and_the_method(calibrate, workspace, crops, lpx):
    calibrate("--faces", crops, "--limit", "8", "--method", "mse")
    before = workspace.scales.read_bytes()
    for faces in ((), ("--faces", crops)):
        ran = lpx(
            "build", "--int8", "--target", "onnxruntime", "-w", workspace.root, "--json", *faces
        )
        assert ran.code == 0, ran.err
        assert "reusing" in ran.err
        (engine,) = json.loads(ran.out)["engines"]
        calibration = engine["calibration"]
        assert calibration["method"] == "mse"
        assert {c["method"] for c in calibration["candidates"]} == set(METHODS)
        assert engine["warnings"] == []
    assert workspace.scales.read_bytes() == before
    ran = lpx(
        "build",
        "--int8",
        "--target",
        "onnxruntime",
        "-w",
        workspace.root,
        "--faces",
        "demo",
        "--limit",
        "4",
    )
    assert "reusing" not in ran.err


def test_bench_refuses_the_faces_unless_told(calibrate, workspace, crops, lpx):
    calibrate("--faces", crops, "--limit", "8")
    lpx("build", "--int8", "--target", "onnxruntime", "-w", workspace.root)
    bench = ("bench", "--dataset", crops, "-w", workspace.root, "--latency-seconds", "0")
    refused = lpx(*bench)
    assert refused.code == 2
    assert f"was calibrated on 8 faces of folder:{crops}" in refused.err
    allowed = lpx(*bench, "--allow-overlap")
    assert allowed.code in (0, 1)
    assert "was calibrated on 8 faces" in allowed.out


def test_curve_and_cache(calibrate, workspace, crops, tmp_path):
    cache = tmp_path / "model.cache"
    ran = calibrate("--faces", crops, "--limit", "6", "--curve", "--export-cache", cache, "--json")
    curve = json.loads(ran.out)["curve"]
    assert [point["faces"] for point in curve] == [4, 6]
    assert (workspace.root / "calibration-curve.png").read_bytes().startswith(b"\x89PNG")
    peaks = read_cache(cache.read_text(), "cache")
    scales = json.loads(workspace.scales.read_text())
    shared = 0
    for name, peak in peaks.items():
        if name not in scales["tensors"]:
            shared += 1  # takes another one's scale over
            continue
        own = scales["tensors"][name]["peaks"][scales["method"]]
        shared += peak > own * (1 + 1e-6)  # of a group that has one scale
        assert peak >= own * (1 - 1e-6)
    assert shared < len(peaks) / 2


def test_one_class_is_enough_and_said(calibrate, crops):
    ran = calibrate("--faces", f"folder:{crops / 'real'}", "--limit", "4")
    assert ran.code == 0, ran.err
    assert "no AUC: that needs at least two held-out faces of each class" in ran.out


def test_table_marks_the_method_chosen(calibrate, crops):
    ran = calibrate("--faces", crops, "--limit", "4", "--method", "max")
    assert "max *" in ran.out
    assert all(method in ran.out for method in METHODS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--method", "magic"), "--method must be one of auto, max"),
        (("--select", "magic"), "--select must be one of stratified"),
        (("--limit", "0"), "--limit must be >= 1 (got 0)"),
        (("nowhere.onnx",), "nowhere.onnx cannot be read"),
    ],
)
def test_mistakes(calibrate, arguments, said):
    ran = calibrate(*arguments)
    assert ran.code == 2
    assert said in ran.err


def test_no_faces(calibrate, tmp_path):
    (tmp_path / "none").mkdir()
    ran = calibrate("--faces", tmp_path / "none")
    assert ran.code == 2
    assert "none" in ran.err


def test_weight_options_are_judged_and_passed_on(calibrate, workspace, crops, lpx):
    options = ("--equalise", "--weight-clip", "mse")
    ran = calibrate("--faces", crops, "--limit", "8", *options)
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[-1].startswith(
        "next: lpx build --int8 --weight-clip mse --equalise"
    )
    built = lpx(
        "build", "--int8", "--target", "onnxruntime", "-w", workspace.root, *options, "--json"
    )
    assert "reusing" in built.err, built.err
    calibration = json.loads(built.out)["engines"][0]["calibration"]
    assert calibration["candidates"]
    assert calibration["weights"]["equalise"]
    assert calibration["weights"]["clip"] == "mse"


@pytest.fixture
def cache(calibrate, crops, tmp_path):
    """A calibration cache for the workspace's model."""
    path = tmp_path / "trt.cache"
    ran = calibrate("--faces", crops, "--limit", "4", "--method", "max", "--export-cache", path)
    assert ran.code == 0, ran.err
    return path


def test_imported_cache_becomes_scales_that_build_takes(calibrate, workspace, cache, lpx):
    peaks = read_cache(cache.read_text(), "cache")
    workspace.scales.unlink()
    ran = calibrate("--import-cache", cache)
    assert ran.code == 0, ran.err
    assert f"{len(peaks)} scales imported from {cache}" in ran.out
    assert "warning: ranges come from the calibration cache trt.cache" in ran.err
    assert load_scales(workspace.scales, sha256(workspace.model)).ranges("imported") == {
        name: Range(-peak, peak, ()) for name, peak in peaks.items()
    }
    build = ("build", "--int8", "--target", "onnxruntime", "-w", workspace.root)
    built = lpx(*build)
    assert built.code == 0, built.err
    assert "ranges imported from trt.cache" in built.out
    assert "reusing" in built.err
    refused = lpx(*build, "--method", "mse")
    assert refused.code == 2
    assert "unknown calibration method 'mse' of ranges that were imported" in refused.err
    assert "reusing" not in lpx(*build, "--faces", "demo", "--limit", "2").err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: [*lines, "sigmoid 3f800000"], ": line {n} is not an entry"),
        (lambda lines: [lines[0], lines[1][:-8] + "0" * 8], ": line 2 gives {first} the scale 0"),
        (lambda lines: [*lines, "nowhere: 3f800000"], ": line {n} names nowhere, which is not a "),
        (lambda lines: [lines[0], *lines[2:]], "has no scale for {first} (1 tensors in all)"),
        (lambda lines: lines[1:], "is not a calibration cache of TensorRT"),
    ],
    ids=["bad line", "scale 0", "unknown tensor", "tensor lacking", "no header"],
)
def test_bad_caches_name_line_and_tensor(calibrate, workspace, cache, change, said):
    before = workspace.scales.read_bytes()
    lines = cache.read_text().splitlines()
    cache.write_text("\n".join(change(lines)) + "\n")
    ran = calibrate("--import-cache", cache)
    assert ran.code == 2
    first = lines[1].rsplit(": ", 1)[0]
    assert f"{cache}" in ran.err
    assert said.format(n=len(lines) + 1, first=first) in ran.err
    assert workspace.scales.read_bytes() == before


def test_cache_stands_in_for_faces(calibrate, cache, crops, tmp_path):
    for arguments in (("--faces", crops), (tmp_path / "other.onnx",)):
        ran = calibrate("--import-cache", cache, *arguments)
        assert ran.code == 2
        assert "cannot be combined with --faces or MODEL" in ran.err
    ran = calibrate("--import-cache", tmp_path / "nowhere.cache")
    assert ran.code == 2
    assert "nowhere.cache cannot be read" in ran.err
