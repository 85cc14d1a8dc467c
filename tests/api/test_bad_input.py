"""Bad input to the public Python API: every mistake is an LpxError that speaks Python."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import lpx
from lpx.data.face_sets.demo import CHECKPOINT, folder
from tests.support.networks import write_small_checkpoint

DEMO = folder() / CHECKPOINT
INT8 = "onnxruntime-int8"

WRONG_TYPES = {
    "root": lambda work: lpx.Workspace(1),
    "root-bytes": lambda work: lpx.Workspace(b"lpx-out"),
    "root-empty": lambda work: lpx.Workspace(""),
    "data-root": lambda work: lpx.Workspace("w", data_root=3),
    "checkpoint": lambda work: work.export(1),
    "opset": lambda work: work.export(DEMO, opset="17"),
    "tolerance": lambda work: work.export(DEMO, tolerance="small"),
    "verify-faces": lambda work: work.export(DEMO, verify_faces=2.5),
    "weights-key": lambda work: work.export(DEMO, weights_key=3),
    "factory": lambda work: work.export(factory=len),
    "foreign": lambda work: work.export(DEMO, foreign={"architecture": "resnet18"}),
    "calibrate-faces": lambda work: work.calibrate(["demo"]),
    "calibrate-limit": lambda work: work.calibrate("demo", limit="8"),
    "calibrate-seed": lambda work: work.calibrate("demo", seed=0.5),
    "calibrate-weights": lambda work: work.calibrate("demo", weights="mse"),
    "calibrate-model": lambda work: work.calibrate("demo", model=3),
    "precision": lambda work: work.build(8),
    "precisions": lambda work: work.build([8]),
    "no-precision": lambda work: work.build(()),
    "build-faces": lambda work: work.build("int8", faces=1),
    "build-limit": lambda work: work.build("int8", limit=True),
    "build-target": lambda work: work.build("fp32", target=None),
    "build-weights": lambda work: work.build("int8", weights={"clip": "mse"}),
    "build-tensorrt": lambda work: work.build("fp32", tensorrt={"builds": 2}),
    "emit-out": lambda work: work.emit("fp32", out=1),
    "emit-tensorrt": lambda work: work.emit("fp32", tensorrt=3),
    "dataset": lambda work: work.bench(None),
    "bench-limit": lambda work: work.bench("demo", limit=8.0),
    "margin": lambda work: work.bench("demo", margin="small"),
    "costs": lambda work: work.bench("demo", costs=0),
    "candidates": lambda work: work.bench("demo", candidates=8),
    "methods": lambda work: work.bench("demo", methods=8),
    "stages": lambda work: work.bench("demo", stages=False),
    "trtexec-times": lambda work: lpx.CostPlan(trtexec_times=["times.json"]),
    "trtexec-times-of-one": lambda work: lpx.CostPlan(trtexec_times="times.json"),
    "trtexec-engine": lambda work: lpx.CostPlan(trtexec_times=[("times.json", 3)]),
    "path": lambda work: work.predict(None),
    "predict-engine": lambda work: work.predict(".", engine=8),
    "frames": lambda work: work.predict(".", frames="all"),
    "predict-limit": lambda work: work.predict(".", limit=0.5),
    "watch-source": lambda work: work.watch(3),
    "watch-source-of-none": lambda work: work.watch(None),
    "watch-engine": lambda work: work.watch("camera:0", engine=8),
    "watch-frames": lambda work: work.watch("camera:0", frames="all"),
    "watch-seconds": lambda work: work.watch("camera:0", seconds="5"),
    "watch-fps": lambda work: work.watch("camera:0", fps=True),
    "watch-options": lambda work: work.watch("camera:0", options={"wait": True}),
    "watch-timeout": lambda work: lpx.LiveOptions(timeout_s="10"),
    "watch-wait": lambda work: lpx.LiveOptions(wait=1),
    "capacity-videos": lambda work: work.capacity(3),
    "capacity-fps": lambda work: work.capacity("demo", fps="10"),
    "capacity-fps-of-none": lambda work: work.capacity("demo", fps=None),
    "capacity-budget": lambda work: work.capacity("demo", budget_ms="200"),
    "capacity-watts": lambda work: work.capacity("demo", budget_watts="15"),
    "capacity-batches": lambda work: work.capacity("demo", batches="8"),
    "capacity-batch": lambda work: work.capacity("demo", batches=(1.5,)),
    "capacity-one-batch": lambda work: work.capacity("demo", batches=8),
    "capacity-engines": lambda work: work.capacity("demo", engines=8),
    "capacity-options": lambda work: work.capacity("demo", options=10),
    "capacity-seconds": lambda work: lpx.CapacityOptions(seconds="10"),
    "debug-engine": lambda work: work.debug(None),
    "debug-limit": lambda work: work.debug(INT8, limit="4"),
    "debug-tolerance": lambda work: work.debug(INT8, tolerance="0.1"),
    "explain-checkpoint": lambda work: work.explain(None, "demo"),
    "explain-source": lambda work: work.explain(DEMO, 8),
    "explain-limit": lambda work: work.explain(DEMO, "demo", limit="8"),
    "engine": lambda work: work.engine(8),
    "load": lambda work: lpx.load(8),
    "board": lambda work: lpx.Board(3),
    "board-config": lambda work: lpx.Board("h", ssh_config=3),
    "board-folder": lambda work: lpx.Board("h", remote_folder=3),
    "board-patience": lambda work: lpx.Board("h", patience_s="long"),
    "board-words": lambda work: lpx.Board("h").run("build", work),
    "board-no-words": lambda work: lpx.Board("h").run([], work),
    "board-workspace": lambda work: lpx.Board("h").run(["build"], 3),
    "board-faces": lambda work: lpx.Board("h").run(["build"], work, faces=3),
    "board-limit": lambda work: lpx.Board("h").run(["build"], work, limit=0),
    "board-attach": lambda work: lpx.Board("h").attach(3),
    "board-pull": lambda work: lpx.Board("h").pull(3),
    "board-python": lambda work: lpx.Board("h").setup(python=3),
    "board-wheels": lambda work: lpx.Board("h").setup(wheels=3),
    "load-engine": lambda work: lpx.load("lpx-out", engine=8),
    "load-engine-of-an-engine": lambda work: lpx.load(work.engines / INT8, engine=INT8),
    "rebuild": lambda work: lpx.Workspace("w", rebuild=True),
    "shard": lambda work: work.shard(3),
    "shard-numbers": lambda work: work.shard((0, 2)),
    "shard-out": lambda work: work.shard("0/2", out=3),
    "shard-limit": lambda work: work.shard("0/2").calibrate("demo", limit="8"),
    "shard-weights": lambda work: work.shard("0/2").calibrate("demo", weights="mse"),
    "shard-faces": lambda work: work.shard("0/2").calibrate(3),
    "shard-dataset": lambda work: work.shard("0/2").bench(None),
    "shard-processes": lambda work: work.shard("0/2").prepare_faces("dfdc", processes="all"),
    "merge": lambda work: work.merge(3),
    "merge-parts": lambda work: work.merge([3]),
    "merge-faces": lambda work: work.merge("nowhere", faces=3),
    "package": lambda work: work.package(3),
    "package-out": lambda work: work.package("cpp", 3),
    "package-engines": lambda work: work.package("triton", engines=3),
    "package-also": lambda work: work.package("triton", also=[3]),
    "package-name": lambda work: work.package("triton", name=3),
    "package-vnni": lambda work: work.package("triton", vnni="yes"),
    "unpack": lambda work: lpx.unpack(8, "board"),
    "unpack-folder": lambda work: lpx.unpack("detector.lpx", None),
    "unpack-check": lambda work: lpx.unpack("detector.lpx", "board", check="no"),
    "costs-batches": lambda work: lpx.CostPlan(batches="8"),
    "costs-latency": lambda work: lpx.CostPlan(latency_seconds="2"),
    "weights-channels": lambda work: lpx.WeightOptions(min_channels="16"),
    "weights-equalise": lambda work: lpx.WeightOptions(equalise="no"),
}
WRONG_CHOICES = {
    "precision": lambda work: work.build("int4"),
    "load-rebuild": lambda work: lpx.load(work.engines / INT8, rebuild="sometimes"),
    "load-rebuild-of-a-workspace": lambda work: lpx.load("lpx-out", rebuild=""),
    "rebuild": lambda work: lpx.Workspace("w", rebuild="yes"),
    "shard": lambda work: work.shard("7/7"),
    "shard-of-none": lambda work: work.shard("0/0"),
    "shard-select": lambda work: work.shard("0/2").calibrate("demo", select="coverage"),
    "shard-bench-limit": lambda work: work.shard("0/2").bench("demo", limit=3),
    "shard-frames": lambda work: work.shard("0/2").prepare_faces("dfdc", frames=0),
    "package": lambda work: work.package("rust"),
    "watch-scheme": lambda work: work.watch("ftp://host/x"),
    "watch-camera": lambda work: work.watch("camera:first"),
    "watch-detector": lambda work: work.watch("camera:0", detector="none"),
    "watch-limit": lambda work: work.watch("camera:0", frames=0),
    "capacity-detector": lambda work: work.capacity("demo", detector="none"),
    "capacity-crop": lambda work: work.capacity("demo", crop="none"),
    "capacity-no-batch": lambda work: work.capacity("demo", batches=()),
    "capacity-budget-0": lambda work: work.capacity("demo", budget_ms=0),
    "capacity-watts-0": lambda work: work.capacity("demo", budget_watts=0),
    "capacity-streams": lambda work: lpx.CapacityOptions(most_streams=0),
    "package-name": lambda work: work.package("triton", name="a/b"),
    "package-engine": lambda work: work.package("triton", engine=INT8),
    "package-own-crop": lambda work: work.package("cpp", own_crop=True),
    "precision-case": lambda work: work.build("INT8"),
    "target": lambda work: work.build("fp32", target="openvino"),
    "method": lambda work: work.build("int8", method="median"),
    "select": lambda work: work.calibrate("demo", select="first"),
    "calibrate-method": lambda work: work.calibrate("demo", method="median"),
    "calibrate-limit": lambda work: work.calibrate("demo", limit=0),
    "seed": lambda work: work.calibrate("demo", seed=-1),
    "opset": lambda work: work.export(DEMO, opset=3),
    "tolerance": lambda work: work.export(DEMO, tolerance=2),
    "verify-faces": lambda work: work.export(DEMO, verify_faces=1),
    "margin": lambda work: work.bench("demo", margin=2),
    "bench-limit": lambda work: work.bench("demo", limit=3),
    "candidates": lambda work: work.bench("demo", candidates="tensorrt-int8"),
    "methods": lambda work: work.bench("demo", methods="FaceSwap"),
    "stages": lambda work: work.bench("demo", stages="engine"),
    "pipeline": lambda work: work.bench("demo", stages=("onnx", "pixels:vic")),
    "detector": lambda work: work.predict(".", detector="mtcnn"),
    "crop": lambda work: work.predict(".", crop="tight"),
    "frames": lambda work: work.predict(".", frames=0),
    "against": lambda work: work.debug(INT8, against="tensorrt"),
    "runtime": lambda work: work.debug(INT8, runtime="openvino"),
    "debug-tolerance": lambda work: work.debug(INT8, tolerance=0),
    "sensitivity": lambda work: work.debug(INT8, sensitivity=True, against="torch"),
    "explain-limit": lambda work: work.explain(DEMO, "demo", limit=0),
    "channel-order": lambda work: lpx.ForeignModel("resnet18", channel_order="GBR"),
    "clip": lambda work: lpx.WeightOptions(clip="none"),
    "min-channels": lambda work: lpx.WeightOptions(min_channels=0),
    "like": lambda work: lpx.CostPlan(like=9),
    "batches": lambda work: lpx.CostPlan(batches=(0,)),
    "latency": lambda work: lpx.CostPlan(latency_seconds=-1),
    "energy": lambda work: lpx.CostPlan(energy_seconds=float("nan")),
    "in-flight": lambda work: lpx.CostPlan(in_flight=-1),
    "trt-batches": lambda work: lpx.TensorRTOptions(batches=(0,)),
    "trt-builds": lambda work: lpx.TensorRTOptions(builds=0),
    "trt-level": lambda work: lpx.TensorRTOptions(optimisation_level=9),
}
MISSING = {
    "checkpoint": lambda work: work.export("nowhere.pt"),
    "calibrate-faces": lambda work: work.calibrate("nowhere"),
    "calibrate-model": lambda work: work.calibrate("demo", model="nowhere.onnx"),
    "build-faces": lambda work: work.build("int8", target="onnxruntime", faces="nowhere"),
    "dataset": lambda work: work.bench("nowhere"),
    "path": lambda work: work.predict("nowhere.jpg"),
    "predict-engine": lambda work: work.predict(folder(), engine="nowhere", limit=1),
    "watch": lambda work: work.watch("nowhere.mp4"),
    "watch-engine": lambda work: next(work.watch("udp://127.0.0.1:9", engine="nowhere")),
    "capacity": lambda work: work.capacity("nowhere.mp4"),
    "capacity-engines": lambda work: work.capacity("demo", engines="nowhere"),
    "debug-engine": lambda work: work.debug("nowhere"),
    "debug-faces": lambda work: work.debug(INT8, faces="nowhere"),
    "explain-checkpoint": lambda work: work.explain("nowhere.pt", "demo"),
    "explain-source": lambda work: work.explain(DEMO, "nowhere.png"),
    "engine": lambda work: work.engine("nowhere"),
    "load": lambda work: lpx.load("nowhere"),
    "load-engine": lambda work: lpx.load("lpx-out", engine="nowhere"),
    "merge": lambda work: work.merge("nowhere"),
    "shard-faces": lambda work: work.shard("0/2").calibrate("nowhere"),
    "shard-dataset": lambda work: work.shard("0/2").bench("nowhere"),
    "unpack": lambda work: lpx.unpack("nowhere.lpx", "board"),
    "workspace": lambda work: lpx.Workspace("nowhere").build("fp32"),
}


def refused(call, workspace):
    with pytest.raises(lpx.LpxError) as caught:
        call(workspace)
    # Whole commands in backticks may have options.
    text = re.sub("`lpx [^`]*`", "", str(caught.value))
    assert "--" not in text, f"an option in the library's text: {text}"
    return caught.value


@pytest.mark.parametrize("name", WRONG_TYPES)
def test_wrong_types(name, workspace):
    # Not any LpxError: a later one, as of missing faces, would hide that the value was accepted.
    assert refused(WRONG_TYPES[name], workspace).code == "invalid-argument"


@pytest.mark.parametrize("name", WRONG_CHOICES)
def test_wrong_choices(name, workspace):
    expected = {"candidates": "not-found", "methods": "not-found"}.get(name, "invalid-argument")
    assert refused(WRONG_CHOICES[name], workspace).code == expected


@pytest.mark.parametrize("name", MISSING)
def test_missing_paths(name, workspace):
    error = refused(MISSING[name], workspace)
    assert "nowhere" in str(error)
    assert error.code == "not-found"


@pytest.mark.parametrize("kind", [str, Path])
def test_paths_are_str_or_path(kind, workspace, crops):
    (int8,) = workspace.build("int8", target="onnxruntime", faces=kind(crops), limit=8)
    assert int8.calibration["face_count"] == 8
    result = workspace.predict(
        kind(crops), engine=INT8, out=kind("pictures"), detector=None, limit=1
    )
    assert result.scores == Path("pictures/scores.csv")
    assert workspace.emit("fp32", out=kind("scripts")) == Path("scripts")
    again = lpx.Workspace(kind("again"))
    write_small_checkpoint(Path("ckpt.pt"))
    assert again.export(kind("ckpt.pt"), verify_faces=2).model == Path("again/model.onnx")
