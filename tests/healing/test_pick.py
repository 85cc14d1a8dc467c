"""The engine that fits is chosen, rebuilt if none does, and checked before it serves."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import lpx
from lpx.artefacts.model import read_exported
from lpx.engines.base import Availability
from lpx.engines.load import load
from lpx.engines.manifest import read_manifest, write_manifest
from lpx.engines.targets import Installed
from lpx.errors import InvalidArgumentError, LpxError
from lpx.healing.host import Host, ask_on_terminal
from lpx.healing.pick import HealingOptions, pick_engine
from lpx.machine.machine import Gpu
from lpx.workspace import read_sealed, write_sealed
from tests.conftest import environment
from tests.healing.conftest import fits_after
from tests.support.machines import PC, manifest_for

INT8, FP32 = "onnxruntime-int8", "onnxruntime-fp32"


def edit(workspace, name, **fields):
    """Change an engine's manifest."""
    folder = workspace.engines / name
    manifest = replace(read_manifest(folder), **fields)
    write_manifest(folder, manifest)
    return manifest


def of_another_lpx(workspace, *names):
    """Make engines that `fits_after("0.0")` says do not fit."""
    for name in names:
        versions = read_manifest(workspace.engines / name).versions
        edit(workspace, name, versions=versions | {"lpx": "0.0"})


def test_the_fastest_is_chosen_and_checked(board, healer, heard):
    name, engine = healer(board).open(None)
    engine.close()
    assert name == INT8
    assert f"using {INT8}" in heard
    assert f"{INT8} scores 16 probe faces as expected" in heard


def test_what_does_not_fit_is_passed_over_with_the_reason(board, healer, heard):
    of_another_lpx(board, INT8)
    before = read_manifest(board.engines / INT8)
    name, engine = healer(board, fits=fits_after("0.0")).open(None)
    engine.close()
    assert name == FP32
    assert f"{INT8} is passed over: built with lpx 0.0" in heard
    # Something fits: nothing is rebuilt unasked.
    assert read_manifest(board.engines / INT8) == before


def test_a_slower_engine_that_does_not_fit_is_not_mentioned(board, healer, heard):
    of_another_lpx(board, FP32)
    name, engine = healer(board, fits=fits_after("0.0")).open(None)
    engine.close()
    assert name == INT8
    assert "passed over" not in heard


def test_an_engine_of_tensorrt_beside_one_of_onnx_runtime(board, healer, heard):
    edit(board, INT8, target="tensorrt", options={"tensorrt": {}})
    name, engine = healer(board).open(None)
    engine.close()
    assert name == FP32
    assert f"{INT8} is passed over: no NVIDIA GPU was found" in heard


def test_a_plan_that_does_not_load_is_passed_over(board, healer, heard):
    def refusing(folder, **options):
        if folder.name == INT8:
            raise LpxError("the plan does not load", "another release", code="unsupported")
        return load(folder, **options)

    name, engine = healer(board, load=refusing).open(None)
    engine.close()
    assert name == FP32
    assert f"{INT8} is passed over: the plan does not load: another release" in heard


def test_an_altered_engine_is_not_passed_over(board, healer):
    (board.engines / INT8 / "engine.onnx").write_bytes(b"altered")
    with pytest.raises(LpxError) as caught:
        healer(board).open(None)
    assert caught.value.code == "damaged"


def test_code_that_was_not_allowed_is_not_passed_over(board, healer):
    edit(board, INT8, options={"tensorrt": {"version_compatible": True}})

    def refusing(folder, **options):
        raise LpxError("the plan does not load", "host code", code="unsupported")

    with pytest.raises(LpxError, match="host code"):
        healer(board, load=refusing).open(None)


def test_where_none_fits_one_is_rebuilt(board, healer, heard):
    of_another_lpx(board, INT8, FP32)
    name, engine = healer(board, fits=fits_after("0.0")).open(None)
    engine.close()
    assert name == INT8
    assert f"warning: {INT8} does not run here: built with lpx 0.0" in heard
    assert f"{INT8} was rebuilt, and scores 16 probe faces as where it was packed" in heard
    assert read_manifest(board.engines / INT8).versions["lpx"] == lpx.__version__
    assert read_manifest(board.engines / FP32).versions["lpx"] == "0.0"


@pytest.mark.parametrize("name", [INT8, None])
def test_probe_faces_of_another_version_are_no_reason_to_rebuild(board, healer, heard, name):
    path = board.root / "probe/probe.json"
    write_sealed(path, read_sealed(path, "") | {"format": "lpx-probe/1"})
    with pytest.raises(LpxError, match="an earlier version") as caught:
        healer(board).open(name)
    assert caught.value.code == "unsupported"
    assert not heard.bars
    # Nor is the engine at fault, as a bench would list it.
    manifest = read_manifest(board.engines / INT8)
    with load(board.engines / INT8) as engine, pytest.raises(LpxError, match="an earlier version"):
        healer(board).problem(manifest, engine)


def test_damaged_probe_faces_are_noticed_before_a_build(board, healer, heard):
    of_another_lpx(board, INT8)
    (board.root / "probe/00.png").write_bytes(b"altered")
    with pytest.raises(LpxError) as caught:
        healer(board, fits=fits_after("0.0")).open(INT8)
    assert caught.value.code == "damaged"
    assert not heard.bars


def test_a_named_engine_is_rebuilt_though_others_fit(board, healer):
    of_another_lpx(board, INT8)
    picked = healer(board, fits=fits_after("0.0")).open(INT8)
    picked.engine.close()
    assert picked.name == INT8
    assert read_manifest(board.engines / INT8).versions["lpx"] == lpx.__version__


@pytest.mark.parametrize(
    ("rebuild", "answer", "why"),
    [
        ("never", None, 'rebuilding it was not allowed (`rebuild="never"`)'),
        ("ask", False, "you chose not to rebuild it"),
        ("ask", None, '`rebuild="ask"` needs a terminal to ask on'),
    ],
)
def test_what_is_not_to_be_rebuilt_is_an_error_that_says_how(board, healer, rebuild, answer, why):
    of_another_lpx(board, INT8)
    asked = []

    def ask(question):
        asked.append(question)
        return answer

    before = read_manifest(board.engines / INT8)
    with pytest.raises(LpxError) as caught:
        healer(board, rebuild=rebuild, fits=fits_after("0.0"), ask=ask).open(INT8)
    assert caught.value.code == "unsupported"
    assert f"engine {INT8} does not run here" == caught.value.what
    assert caught.value.why == f"built with lpx 0.0; {why}"
    assert '`rebuild="auto"` rebuilds it without asking' in caught.value.fix
    assert FP32 in caught.value.fix
    assert len(asked) == (rebuild == "ask")
    assert read_manifest(board.engines / INT8) == before


def test_it_asks_and_is_answered_yes(board, healer):
    of_another_lpx(board, INT8)
    asked = []
    fits = fits_after("0.0")
    healing = healer(board, rebuild="ask", fits=fits, ask=lambda text: asked.append(text) or True)
    healing.open(INT8).engine.close()
    assert asked == [
        f"{INT8} does not run here: built with lpx 0.0. Rebuild it? TensorRT takes minutes."
    ]
    assert read_manifest(board.engines / INT8).versions["lpx"] == lpx.__version__


def test_nobody_is_asked_without_a_terminal():
    assert ask_on_terminal("really?") is None


ASK = """
from lpx.cli.console import ConsoleReporter
from lpx.healing.host import ask_on_terminal
with ConsoleReporter() as reporter:
    reporter.say("before")
    answer = ask_on_terminal("really?")
print("answer:", answer)
"""


@pytest.mark.parametrize(
    ("typed", "answer"), [(b"y\n", True), (b" YES\n", True), (b"n\n", False), (b"\n", False)]
)
def test_whoever_sits_at_a_terminal_is_asked(typed, answer):
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", ASK],
        stdin=terminal,
        stderr=terminal,
        stdout=subprocess.PIPE,
        env=environment(),
    )
    os.close(terminal)
    shown = b""
    while b"really? [y/N]" not in shown:
        shown += os.read(master, 1000)
    os.write(master, typed)
    out, _ = process.communicate(timeout=60)
    os.close(master)
    assert f"answer: {answer}" in out.decode()


def test_where_none_fits_and_none_can_be_rebuilt(board, healer):
    for name in (INT8, FP32):
        edit(board, name, target="tensorrt", options={"tensorrt": {}})
    with pytest.raises(LpxError, match="has no engine that runs here") as caught:
        healer(board).open(None)
    assert caught.value.code == "unsupported"
    with pytest.raises(LpxError, match=f"engine {INT8} does not run here") as caught:
        healer(board).open(INT8)
    assert caught.value.code == "unsupported"
    assert caught.value.why.count("no NVIDIA GPU was found") == 1


def test_a_plan_with_host_code_is_not_rebuilt_unless_that_is_allowed(board, healer):
    edit(board, INT8, target="tensorrt", options={"tensorrt": {"version_compatible": True}})
    here = replace(PC, gpus=(Gpu("a GPU", "8.9", 8192, "580"),))
    libraries = Installed(lambda name: Availability(True, f"{name} 10.9"))
    with pytest.raises(LpxError) as caught:
        healer(
            board,
            machine=here,
            installed=libraries,
            fits=lambda *_: Availability(False, "built for another GPU"),
        ).open(INT8)
    assert caught.value.code == "untrusted"
    assert "`allow_host_code=True`" in caught.value.fix


def test_where_the_lean_runtime_is_it_runs_version_compatible_plans(board, healer, heard):
    """The whole TensorRT is not there: plans of its release alone do not fit, others do."""
    options = {"tensorrt": {"version_compatible": True}}
    edit(board, INT8, target="tensorrt", options=options, versions={"tensorrt": "10.3.0"})
    edit(board, FP32, target="tensorrt", options={"tensorrt": {}})
    here = replace(PC, gpus=(Gpu("a GPU", "8.9", 8192, "580"),))
    lean = Installed(
        tensorrt=lambda name: Availability(False, "it is not here"),
        runtime=lambda name: Availability(True, "tensorrt_lean 10.9.0"),
    )
    loaded = []

    def opened(folder, **options):
        loaded.append((folder.name, options["allow_host_code"]))
        raise LpxError("enough", code="closed")

    with pytest.raises(LpxError, match="enough"):
        healer(board, machine=here, installed=lean, load=opened, allow_host_code=True).open(None)
    assert loaded == [(INT8, True)]


class Off:
    """An engine whose scores are off by some amount."""

    def __init__(self, engine, by):
        self.engine, self.by, self.closed = engine, by, False

    def infer(self, faces):
        found = self.engine.infer(faces)
        return replace(found, score=found.score + np.float32(self.by))

    def close(self):
        self.closed = True
        self.engine.close()


@pytest.mark.parametrize("by", [0.5, -0.3, float("nan")])
def test_an_engine_whose_scores_differ_does_not_serve(board, healer, by):
    opened = []

    def off(folder, **options):
        opened.append(Off(load(folder, **options), by))
        return opened[-1]

    with pytest.raises(LpxError) as caught:
        healer(board, load=off).open(None)
    assert caught.value.code == "scores-differ"
    assert caught.value.exit_code == 1
    assert f"engine {INT8} does not give probe faces the scores" in caught.value.what
    assert "16 probe faces differ by more than" in caught.value.why
    assert opened[0].closed


def test_a_small_difference_is_as_large_as_the_precision_allows(board, healer):
    def off(folder, **options):
        return Off(load(folder, **options), 0.009)

    # INT8 rounds that much; float32 in the same library does not.
    healer(board, load=off).open(INT8).engine.close()
    with pytest.raises(LpxError) as caught:
        healer(board, load=off).open(FP32)
    assert caught.value.code == "scores-differ"


def test_probe_faces_of_another_model_are_not_used(board, healer, heard):
    manifest = board.model.with_suffix(".json")
    assert manifest.is_file()
    healing = healer(board)
    object.__setattr__(healing, "model", replace(healing.model, sha256="0" * 64))
    assert healing._probe is None


def test_an_engine_that_was_calibrated_otherwise_is_compared_with_its_own_graph(
    board, crops, healer, heard
):
    board.build("int8", target="onnxruntime", faces=crops, limit=4, method="max")
    healer(board).open(INT8).engine.close()
    assert f"{INT8} scores 16 probe faces as expected" in heard


def test_damaged_probe_faces_are_an_error(board, healer):
    (board.root / "probe/03.png").write_bytes(b"")
    with pytest.raises(LpxError) as caught:
        healer(board).open(None)
    assert caught.value.code == "damaged"


def test_without_probe_faces_an_engine_from_elsewhere_is_said_to_be_unchecked(
    workspace, healer, heard
):
    edit(workspace, INT8, versions={"onnxruntime": "1.0"})
    healer(workspace).open(INT8).engine.close()
    assert f"warning: the scores of {INT8} were not checked" in heard
    assert "it was built with onnxruntime 1.0, and here is " in heard


def test_without_probe_faces_an_engine_of_this_machine_needs_no_words(workspace, heard):
    model = read_exported(workspace)
    pick_engine(workspace, model, INT8, reporter=heard).engine.close()
    assert heard.said == []


def test_there_is_no_such_engine(board, healer):
    with pytest.raises(LpxError) as caught:
        healer(board).open("tensorrt-int4")
    assert caught.value.code == "not-found"


@pytest.mark.parametrize("rebuild", ["always", "", None, True])
def test_rebuild_is_one_of_three_words(rebuild):
    with pytest.raises(InvalidArgumentError):
        HealingOptions(rebuild)


def test_an_engine_for_a_gpu_is_not_rebuilt_where_there_is_none():
    # TensorRT for RTX would build it.
    found = Host(machine=PC).rebuilds(manifest_for("tensorrt-rtx"))
    assert found == (False, "no NVIDIA GPU was found")
