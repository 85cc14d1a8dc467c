"""`lpx package --for triton`: a repository that Triton's rules accept, checked file by file."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import lpx
from lpx import CostPlan, Workspace
from lpx.cli.package import show_triton
from lpx.deploy.triton.batching import Batching
from lpx.engines.manifest import read_manifest
from lpx.graph.model_io import parse as parse_graph
from lpx.graph.qdq.unsigned_weights import saturating_weights
from tests.support.reporting import RecordingReporter
from tests.support.triton_rules import check_graph, check_profiles, check_repository, messages

FILES = {"README.md", "SHA256SUMS", "card.json", "client.py", "face.rgb", "models", "models.json"}
FILES |= {"perf.json", "serve.sh"}


def names(folder):
    return {path.name for path in folder.iterdir()}


def served(workspace, out="served", **options):
    """Package for Triton; returns the result and the checked configurations."""
    result = workspace.package("triton", out, **options)
    return result, check_repository(result.repository)


def parameters(config):
    return {name: value.string_value for name, value in config.parameters.items()}


def test_graphs_for_onnx_runtime(workspace):
    result, configs = served(workspace)
    perf = {f"perf-detector-onnxruntime-{one}.json" for one in ("fp32", "int8")}
    assert names(result.folder) == FILES | perf
    assert [model.name for model in result.models] == list(configs)
    assert list(configs) == ["detector-onnxruntime-fp32", "detector-onnxruntime-int8"]
    card = json.loads(Path("served/card.json").read_text())
    for model in result.models:
        config = configs[model.name]
        data = (result.repository / model.files[0]).read_bytes()
        check_graph(config, data)
        assert config.input[0].format == messages().ModelInput.FORMAT_NHWC
        assert list(config.input[0].dims) == [card["input_size"]] * 2 + [3]
        assert config.max_batch_size == model.batching.largest == 32
        assert config.instance_group[0].kind == messages().ModelInstanceGroup.KIND_CPU
        # Nothing was measured, so nothing is gathered.
        assert list(config.dynamic_batching.preferred_batch_size) == []
        assert config.dynamic_batching.max_queue_delay_microseconds == 0
        assert not model.batching.measured
        found = parameters(config)
        assert found["lpx.engine_sha256"] == hashlib.sha256(data).hexdigest()
        card_bytes = Path("served/card.json").read_bytes()
        assert found["lpx.card_sha256"] == hashlib.sha256(card_bytes).hexdigest()
        assert [sample.batch_size for sample in config.model_warmup] == [1, 32]
    float_data = (result.repository / result.models[0].files[0]).read_bytes()
    assert float_data == (workspace.engine("onnxruntime-fp32") / "engine.onnx").read_bytes()
    text = Path("served/README.md").read_text()
    assert "No Triton server, and no GPU, has run this package" in text
    assert "{" not in text.replace(text[text.index('{"file') : text.index("}") + 1], "")


def test_int8_for_onnx_runtime_cannot_saturate(workspace):
    result, configs = served(workspace, engines="onnxruntime-int8")
    (model,) = result.models
    data = (result.repository / model.files[0]).read_bytes()
    assert not saturating_weights(parse_graph(data, "it"))
    assert parameters(configs[model.name])["lpx.needs_vnni"] == "no"
    assert "uint8" in model.notes[0]
    assert (
        "`lpx bench` measures the engine, and not this form" in Path("served/README.md").read_text()
    )


def test_int8_weights_are_kept_on_request_and_never_silently(workspace):
    heard = RecordingReporter()
    result, configs = served(workspace, engines=["onnxruntime-int8"], vnni=True, reporter=heard)
    (model,) = result.models
    data = (result.repository / model.files[0]).read_bytes()
    assert data == (workspace.engine("onnxruntime-int8") / "engine.onnx").read_bytes()
    assert parameters(configs[model.name])["lpx.needs_vnni"] == "yes"
    assert any("wrong on x86-64 processors without VNNI" in text for text in heard.said)
    assert "wrong on x86-64 processors without VNNI" in Path("served/README.md").read_text()


def test_plans_of_a_fleet_become_one_model(workspace, add_plan, board):
    add_plan(capability="8.6")
    orin = board("orin", capability="8.7", release="10.3.0")
    thor = board("thor", capability="11.0", release="10.3.0")
    result, configs = served(
        workspace, engines="tensorrt-fp16", also=[orin.root, str(thor.root)], name="fake"
    )
    (model,) = result.models
    config = configs["fake-tensorrt-fp16"]
    assert dict(config.cc_model_filenames) == {
        "8.6": "model-sm86.plan",
        "8.7": "model-sm87.plan",
        "11.0": "model-sm110.plan",
    }
    assert model.compute_capabilities == ("8.6", "8.7", "11.0")
    # On a GPU without a plan the model must not load any.
    assert config.default_model_filename == ""
    assert "model.plan" not in names(result.repository / config.name / "1")
    check_profiles(config, [(1, 32)])
    assert config.instance_group[0].kind == messages().ModelInstanceGroup.KIND_GPU
    assert list(config.instance_group[0].profile) == []
    assert config.optimization.cuda.graphs
    assert [spec.batch_size for spec in config.optimization.cuda.graph_spec] == [1, 32]
    for capability, name in config.cc_model_filenames.items():
        data = (result.repository / config.name / "1" / name).read_bytes()
        assert data == f"plan tensorrt-fp16 {capability}".encode()
        digest = hashlib.sha256(data).hexdigest()
        assert parameters(config)[f"lpx.engine_sha256.{capability}"] == digest
    text = Path("served/README.md").read_text()
    assert "`model-sm87.plan` for compute capability 8.7, built by TensorRT 10.3.0" in text
    assert "--gpus all" in Path("served/serve.sh").read_text()
    # perf_analyzer compares bytes, which no GPU computes as a CPU does.
    assert names(result.folder) == FILES


def test_releases_that_differ_are_named(workspace, add_plan, board):
    add_plan(capability="8.6", release="10.13.2")
    orin = board("orin", capability="8.7", release="10.3.0")
    heard = RecordingReporter()
    served(workspace, engines="tensorrt-fp16", also=orin.root, reporter=heard)
    assert any("10.13.2 and 10.3.0" in text for text in heard.said)
    assert "different releases" in Path("served/README.md").read_text()


def test_a_hardware_compatible_plan_serves_the_gpus_without_their_own(workspace, add_plan):
    add_plan("tensorrt-fp16", capability="8.9")
    add_plan("ampere", capability="8.6", options={"hardware_compatible": True})
    result, configs = served(workspace, engines=["tensorrt-fp16", "ampere"])
    config = configs["detector-tensorrt-fp16"]
    assert dict(config.cc_model_filenames) == {"8.9": "model-sm89.plan"}
    assert config.default_model_filename == "model.plan"
    assert (result.repository / config.name / "1/model.plan").read_bytes() == b"plan ampere 8.6"
    assert "lpx.engine_sha256.other" in parameters(config)


def test_version_compatible_plans_need_a_flag(workspace, add_plan):
    add_plan(options={"version_compatible": True})
    result, _ = served(workspace, engines="tensorrt-fp16")
    flag = "--backend-config=tensorrt,version-compatible=true"
    assert flag in result.flags
    assert flag in Path("served/serve.sh").read_text()
    text = Path("served/README.md").read_text()
    assert flag in text
    assert "only do that if you trust the source" in text


def test_profiles_are_named_and_a_gap_ends_the_batches(workspace, add_plan):
    add_plan(options={"batches": (1, 2, 8)})
    result, configs = served(workspace, engines="tensorrt-fp16")
    config = configs["detector-tensorrt-fp16"]
    assert list(config.instance_group[0].profile) == ["0", "1"]
    assert config.max_batch_size == 2
    check_profiles(config, [(1, 1), (2, 2), (8, 8)])
    assert "no profile for 3" in result.models[0].notes[0]


def test_a_plan_for_one_face_is_not_batched(workspace, add_plan):
    add_plan(options={"batches": 1})
    _, configs = served(workspace, engines="tensorrt-fp16")
    config = configs["detector-tensorrt-fp16"]
    assert config.max_batch_size == 1
    assert not config.HasField("dynamic_batching")
    assert [sample.batch_size for sample in config.model_warmup] == [1]


def test_a_dla_core_is_a_secondary_device(workspace, add_plan):
    add_plan("tensorrt-fp16-dla1", options={"dla_core": 1})
    add_plan("tensorrt-fp16")
    _, configs = served(workspace, engines=["tensorrt-fp16-dla1", "tensorrt-fp16"])
    assert list(configs) == ["detector-tensorrt-fp16", "detector-tensorrt-fp16-dla1"]
    (device,) = configs["detector-tensorrt-fp16-dla1"].instance_group[0].secondary_devices
    assert device.device_id == 1
    assert not configs["detector-tensorrt-fp16-dla1"].optimization.cuda.graphs


def test_copies_of_a_plan_count_once(workspace, add_plan, board):
    add_plan(plan=b"the same")
    copy = board("copy", plan=b"the same")
    result, _ = served(workspace, engines="tensorrt-fp16", also=copy.root)
    assert result.models[0].files == ("detector-tensorrt-fp16/1/model-sm86.plan",)


def test_engines_that_triton_cannot_serve_are_left_out_and_named(workspace, add_plan):
    add_plan("rtx", target="tensorrt-rtx")
    heard = RecordingReporter()
    result, configs = served(workspace, reporter=heard)
    assert list(configs) == ["detector-onnxruntime-fp32", "detector-onnxruntime-int8"]
    assert "no backend for TensorRT for RTX" in result.left_out["rtx"]
    assert any("rtx is left out" in text for text in heard.said)
    assert json.loads(json.dumps(result.to_dict()))["left_out"] == result.left_out


@pytest.fixture
def benched(workspace):
    costs = CostPlan(batches=(1, 4), latency_seconds=0.05)
    workspace.bench("demo", limit=24, costs=costs)
    return workspace


def speed_up(workspace, name, batch, factor):
    """Divide the times of an engine in the report, so that they do not depend on this machine."""
    path = workspace.root / "report.json"
    report = json.loads(path.read_text())
    for candidate in report["candidates"]:
        for row in candidate["latency_by_batch"]:
            if candidate["name"] == name:
                ms = 2.0 / factor if row["batch"] == batch else 2.0
                row["per_face_p50_ms"] = ms
                row["intervals_ms"]["p50"] = [ms - 0.01, ms + 0.01]
    path.write_text(json.dumps(report))


def test_measured_latencies_decide_the_batches(benched):
    speed_up(benched, "onnxruntime-fp32", 4, 2)
    result, configs = served(benched, engines="onnxruntime-fp32")
    (model,) = result.models
    batching = configs[model.name].dynamic_batching
    assert list(batching.preferred_batch_size) == [4] == list(model.batching.preferred)
    assert batching.max_queue_delay_microseconds == 400 == model.batching.delay_us
    assert [sample.batch_size for sample in configs[model.name].model_warmup] == [1, 4, 32]
    assert model.batching.measured
    text = Path("served/README.md").read_text()
    assert (
        "Batches of up to 32 faces. Requests wait up to 400 microseconds to fill one of 4." in text
    )


def test_measurements_of_another_engine_are_not_used(benched):
    speed_up(benched, "onnxruntime-fp32", 4, 2)
    path = benched.root / "report.json"
    report = json.loads(path.read_text())
    for candidate in report["candidates"]:
        candidate["engine_sha256"] = "0" * 64
    path.write_text(json.dumps(report))
    result, _ = served(benched, engines="onnxruntime-fp32")
    assert not result.models[0].batching.measured


def test_measurements_are_not_used_for_another_form_of_the_graph(benched):
    speed_up(benched, "onnxruntime-int8", 4, 2)
    result, _ = served(benched, engines="onnxruntime-int8")
    assert not result.models[0].batching.measured
    result, _ = served(benched, "kept", engines="onnxruntime-int8", vnni=True)
    assert result.models[0].batching.preferred == (4,)


def test_a_damaged_report_is_named_and_left(workspace):
    (workspace.root / "report.json").write_text("{")
    heard = RecordingReporter()
    result, _ = served(workspace, engines="onnxruntime-fp32", reporter=heard)
    assert not result.models[0].batching.measured
    assert any("the last bench is not used" in text for text in heard.said)


def test_a_report_of_a_board_counts_for_its_plan(workspace, add_plan, board, benched):
    add_plan(capability="8.6")
    orin = board("orin", capability="8.7")
    speed_up(orin, "onnxruntime-fp32", 4, 4)
    path = orin.root / "report.json"
    report = json.loads(path.read_text())
    digest = read_manifest(orin.engine("tensorrt-fp16")).engine_sha256
    report["candidates"][0]["engine_sha256"] = digest
    path.write_text(json.dumps(report))
    result, configs = served(workspace, engines="tensorrt-fp16", also=orin.root)
    assert result.models[0].batching.preferred == (4,)
    graphs = configs["detector-tensorrt-fp16"].optimization.cuda.graph_spec
    assert [spec.batch_size for spec in graphs] == [1, 4, 32]


def test_perf_input_has_faces_and_the_exact_scores(workspace):
    result, _ = served(workspace)
    size = json.loads(Path("served/card.json").read_text())["input_size"]
    for model in result.models:
        values = json.loads(Path(f"served/perf-{model.name}.json").read_text())
        faces = []
        for row in values["data"]:
            assert row["faces"]["shape"] == [size, size, 3]
            data = base64.b64decode(row["faces"]["content"]["b64"])
            faces.append(np.frombuffer(data, np.uint8).reshape(size, size, 3))
        assert len({face.tobytes() for face in faces}) == len(faces) == 8
        path = result.repository / model.files[0]
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        for face, row in zip(faces, values["validation_data"], strict=True):
            (score,) = session.run(["score"], {"faces": face[None]})
            assert row["score"]["shape"] == [1]
            assert base64.b64decode(row["score"]["content"]["b64"]) == score.astype("<f4").tobytes()
    assert json.loads(Path("served/perf.json").read_text()).keys() == {"data"}


def test_the_face_detects_faults_in_every_model(workspace, add_plan):
    add_plan("tensorrt-int8", "int8")
    result, _ = served(workspace)
    face = Path("served/face.rgb").read_bytes()
    for model in result.models:
        assert (result.repository / model.name / "warmup/face.rgb").read_bytes() == face
        assert model.tolerance < model.expected_score < 1 - model.tolerance


def test_a_bundle_is_packaged(workspace, add_plan, tmp_path):
    add_plan()
    workspace.pack(tmp_path / "detector.lpx")
    shutil.rmtree(workspace.root)
    work = Workspace(tmp_path / "detector.lpx")
    _, configs = served(work)
    assert "detector-tensorrt-fp16" in configs
    # Bundles of boards, too.
    (tmp_path / "here").mkdir()
    _, again = served(work, "again", engines="tensorrt-fp16", also=tmp_path / "detector.lpx")
    assert list(again) == ["detector-tensorrt-fp16"]


def test_results_of_a_board_are_taken_from_their_folder(workspace, add_plan, board):
    """`lpx remote` fetches engines without the model: their manifests name it."""
    add_plan(capability="8.6")
    orin = board("orin", capability="8.7")
    fetched = workspace.root / "remote" / "orin"
    shutil.copytree(orin.engines, fetched / "engines")
    result, _ = served(workspace, engines="tensorrt-fp16", also=fetched)
    assert result.models[0].compute_capabilities == ("8.6", "8.7")


def after(*steps, **options):
    """The options, after steps that were taken to spoil something."""
    return options


def two_machines():
    return {"gpus": [{"compute_capability": "8.6"}, {"compute_capability": "9.0"}]}


FP16 = "tensorrt-fp16"
# What spoils the workspace and makes the options; the error's code, and a part of its text.
BAD = {
    "unknown": (lambda w, add, board: after(engines="int4"), "not-found", "does not exist"),
    "no name": (lambda w, add, board: after(engines=[]), "invalid-argument", "must name one"),
    "no text": (lambda w, add, board: after(engines=[3]), "invalid-argument", "engines must be"),
    "engine": (
        lambda w, add, board: after(engine="onnxruntime-fp32"),
        "invalid-argument",
        'engine must be left out for `kind="triton"`',
    ),
    "vnni": (lambda w, add, board: after(vnni=1), "invalid-argument", "vnni must be"),
    "vnni of nothing": (
        lambda w, add, board: after(vnni=True, engines="onnxruntime-fp32"),
        "invalid-argument",
        "vnni must be left out",
    ),
    "also": (lambda w, add, board: after(also=3), "invalid-argument", "also must be"),
    "also one": (lambda w, add, board: after(also=[3]), "invalid-argument", "also must be a path"),
    "nowhere": (lambda w, add, board: after(also=["nowhere"]), "not-found", "nowhere does not"),
    "none": (
        lambda w, add, board: after(shutil.rmtree(w.engines)),
        "not-found",
        "no engine that Triton can serve",
    ),
    "no model": (lambda w, add, board: after(w.model.unlink()), "not-found", "no exported model"),
    "another runtime": (
        lambda w, add, board: after(add("rtx", target="tensorrt-rtx"), engines="rtx"),
        "unsupported",
        "engine rtx cannot be packaged for Triton",
    ),
    "no capability": (
        lambda w, add, board: after(add(machine={})),
        "unsupported",
        "the compute capability of plan tensorrt-fp16 is not known",
    ),
    "no number": (
        lambda w, add, board: after(add(capability="../8.6")),
        "unsupported",
        "the compute capability of plan tensorrt-fp16 is not known",
    ),
    "two capabilities": (
        lambda w, add, board: after(add(machine=two_machines())),
        "unsupported",
        "had GPUs of '8.6', '9.0'",
    ),
    "two plans": (
        lambda w, add, board: after(add("a"), add("b"), engines=["a", "b"]),
        "invalid-input",
        "would be one model",
    ),
    "two boards": (
        lambda w, add, board: after(add(), also=board("other", plan=b"another").root, engines=FP16),
        "invalid-input",
        "both are FP16 plans for compute capability 8.6",
    ),
    "two graphs": (
        lambda w, add, board: after(
            add("b", "fp32", target="onnxruntime"), engines=["b", "onnxruntime-fp32"]
        ),
        "invalid-input",
        "both are FP32 for ONNX Runtime",
    ),
    "graph of another workspace": (
        lambda w, add, board: after(
            board("other", capability="8.7"),
            shutil.rmtree(w.engine("onnxruntime-int8")),
            also="other",
            engines=["onnxruntime-int8", FP16],
        ),
        "not-found",
        "onnxruntime-int8 does not exist",
    ),
    "another model": (
        lambda w, add, board: after(add(model_sha256="0" * 64)),
        "invalid-input",
        "was built from another model",
    ),
    "another model there": (
        lambda w, add, board: after(
            also=board("other", capability="8.7", model_sha256="0" * 64).root, engines=FP16
        ),
        "invalid-input",
        "is of another model",
    ),
    "other ranges": (
        lambda w, add, board: after(
            add("a", "int8"),
            add("b", "int8", capability="8.7", calibration={"ranges_sha256": "0" * 64}),
            engines=["a", "b"],
        ),
        "invalid-input",
        "calibrated differently",
    ),
    "TF32": (
        lambda w, add, board: after(
            add("a"), add("b", capability="8.7", options={"tf32": False}), engines=["a", "b"]
        ),
        "invalid-input",
        "multiplies in TF32",
    ),
    "other batches": (
        lambda w, add, board: after(
            add(),
            also=board("other", capability="8.7", options={"batches": 1}).root,
            engines=FP16,
        ),
        "invalid-input",
        "other batch sizes",
    ),
    "no single face": (
        lambda w, add, board: after(add(options={"batches": 8})),
        "unsupported",
        "takes batches of 8 faces at least",
    ),
    "no plan there": (
        lambda w, add, board: after(shutil.rmtree(board("bare").engines / FP16), also="bare"),
        "not-found",
        "has no TensorRT plan",
    ),
    "not empty": (
        lambda w, add, board: after(Path("served").mkdir(), Path("served/mine").touch()),
        "unwritable",
        "served is not empty",
    ),
    "file": (
        lambda w, add, board: after(Path("served").touch()),
        "unwritable",
        "served cannot be written",
    ),
    "altered": (
        lambda w, add, board: after(
            (w.engine("onnxruntime-fp32") / "engine.onnx").write_bytes(b"other")
        ),
        "damaged",
        "is not the engine that its manifest describes",
    ),
}


@pytest.mark.parametrize("name", ["a/b", "..", "a b", "a\n", "a" * 201, "", 3, "-a", "é"])
def test_names_that_triton_or_its_addresses_do_not_take(workspace, name):
    with pytest.raises(lpx.LpxError, match="name must be letters") as caught:
        workspace.package("triton", "served", name=name)
    assert caught.value.code == "invalid-argument"
    assert not Path("served").exists()


@pytest.mark.parametrize("name", BAD)
def test_bad_input(workspace, add_plan, board, tree, name):
    spoil, code, message = BAD[name]
    options = spoil(workspace, add_plan, board)
    before = tree(".")
    with pytest.raises(lpx.LpxError) as caught:
        workspace.package("triton", "served", **options)
    assert caught.value.code == code
    assert message in f"{caught.value.what} {caught.value.why}"
    assert "--" not in caught.value.what
    assert tree(".") == before


@pytest.mark.parametrize("option", ["engines", "also", "name"])
def test_options_of_triton_are_not_for_cpp(workspace, option):
    with pytest.raises(lpx.LpxError, match=f'{option} must be left out for `kind="cpp"`') as caught:
        workspace.package("cpp", "project", **{option: "a"})
    assert caught.value.code == "invalid-argument"
    with pytest.raises(lpx.LpxError, match="vnni must be left out"):
        workspace.package("cpp", "project", vnni=True)


def test_an_interrupt_leaves_nothing(workspace, tree):
    """While models are made, and while files are written."""

    class Interrupting(RecordingReporter):
        def warn(self, text):
            raise KeyboardInterrupt

    (workspace.root / "report.json").write_text("{")
    before = tree(".")
    with pytest.raises(KeyboardInterrupt):
        workspace.package("triton", "served", reporter=Interrupting())
    assert tree(".") == before


def test_a_full_disk_leaves_nothing(workspace, tree):
    before = tree(".")
    code = (
        "import resource, lpx\n"
        "import signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "lpx.Workspace('lpx-out').package('triton', 'served')\n"
    )
    root = str(Path(lpx.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert tree(".") == before


def test_command(lpx, workspace):
    ran = lpx("package", "--for", "triton", "-o", "served", "--engines", "onnxruntime-int8,")
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    assert lines[0] == "written: served"
    assert lines[1] == (
        "  detector-onnxruntime-int8: batches of up to 32 faces, without waiting for more (its "
        "latency was not measured)"
    )
    assert "uint8" in ran.out
    ran = lpx("package", "--for", "triton", "-o", "more", "--json", "--name", "mine")
    values = json.loads(ran.out)
    assert [model["name"] for model in values["models"]] == [
        "mine-onnxruntime-fp32",
        "mine-onnxruntime-int8",
    ]
    assert values["repository"] == "more/models"
    ran = lpx("package", "--for", "triton", "-o", "x", "--engine", "onnxruntime-fp32")
    assert ran.code == 2
    assert "--engine must be left out for --for triton" in ran.err


@pytest.mark.parametrize(
    ("batching", "text"),
    [
        (Batching(1, measured=True), "one face at a time"),
        (
            Batching(32, (4, 8), 400, measured=True),
            "batches of up to 32 faces, waiting up to 400 µs to fill one of 4 or 8 (measured)",
        ),
        (
            Batching(32, measured=True),
            "batches of up to 32 faces, without waiting for more (in the last bench no larger "
            "batch took less time per face)",
        ),
    ],
)
def test_batches_in_words(workspace, capsys, batching, text):
    result = workspace.package("triton", "served", engines="onnxruntime-fp32")
    models = tuple(replace(model, batching=batching) for model in result.models)
    show_triton(replace(result, models=models))
    assert capsys.readouterr().out.splitlines()[1] == f"  detector-onnxruntime-fp32: {text}"


@pytest.fixture
def start(tmp_path):
    """Runs serve.sh of a package with a stand-in for docker, which prints its arguments."""
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\necho "$*"\n')
    docker.chmod(0o755)

    def run(folder, *arguments, **environment):
        return subprocess.run(
            ["sh", str(folder / "serve.sh"), *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, "DOCKER": str(docker), **environment},
            check=False,
            timeout=120,
        )

    return run


def test_start_script(package, start):
    folder = package
    done = start(folder, "image:1")
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert words[:4] == ["run", "--rm", "--gpus", "all"]
    assert "127.0.0.1:8000:8000" in words
    assert done.stdout.rstrip().endswith(
        "image:1 tritonserver --model-repository=/models --disable-auto-complete-config"
    )
    assert "0.0.0.0:8000:8000" in start(folder, "image:1", ADDRESS="0.0.0.0").stdout
    done = start(folder)
    assert done.returncode != 0
    assert "name the image" in done.stderr
    (folder / "models/detector-onnxruntime-fp32/1/model.onnx").write_bytes(b"another")
    done = start(folder, "image:1")
    assert done.returncode == 1
    assert "not as lpx wrote it" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("flags", "vnni", "code"),
    [
        ("flags : avx2\n", True, 1),
        ("flags : avx512_vnni\n", True, 0),
        ("flags : avx2\n", False, 0),
        ("Features : asimddp\n", True, 0),
    ],
)
def test_int8_weights_do_not_start_without_vnni(workspace, start, tmp_path, flags, vnni, code):
    (tmp_path / "cpuinfo").write_text(flags)
    folder = workspace.package("triton", "served", vnni=vnni).folder
    done = start(folder, "image:1", CPUINFO=str(tmp_path / "cpuinfo"))
    assert done.returncode == code
    assert ("no VNNI" in done.stderr) == (code == 1)
