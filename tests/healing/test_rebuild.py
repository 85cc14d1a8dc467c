"""An engine is rebuilt from the graph and ranges of the old one, which stays until that passes."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace

import numpy as np
import pytest
from tensorrt_workshop import Workshop

import lpx
from lpx.artefacts.model import read_exported
from lpx.calibration.scales import load_scales, read_scales, save_scales
from lpx.engines.base import Availability
from lpx.engines.build import build_engine
from lpx.engines.load import GRAPH, load
from lpx.engines.manifest import read_manifest, write_manifest
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine
from lpx.engines.request import BuildRequest
from lpx.engines.targets import Installed, ResolvedTarget
from lpx.engines.tensorrt_options import TensorRTOptions
from lpx.errors import LpxError
from lpx.graph.qdq.plan import NO_PLAN, LayerPlan, PrecisionPlan
from lpx.healing.rebuild import MAX_BUILDS, STAGING, _options
from lpx.machine.machine import Gpu
from lpx.swap import swap
from tests.healing.conftest import fits_after
from tests.healing.test_pick import Off, of_another_lpx
from tests.support.machines import BOARD, PC, manifest_for

INT8 = "onnxruntime-int8"
PLAN = "tensorrt-int8"


def with_gpu(capability):
    return replace(PC, gpus=(Gpu(f"GPU {capability}", capability, 8192, "580"),), no_gpu_reason="")


def library_of(shop):
    """TensorRT as installed here."""
    trt = shop.library.opened
    version = ".".join(map(str, trt.capabilities.version))

    def found(name):
        return Availability(True, f"{name} {version}")

    return Installed(found, found, found, open=lambda flavour: trt)


def scored_by_its_graph(folder, **options):
    """Stand in for a plan: the graph beside it, in ONNX Runtime."""
    size = read_manifest(folder).model_card().input_size
    return OnnxRuntimeEngine((folder / GRAPH).read_bytes(), size, as_written=True)


@pytest.fixture
def plan(workspace):
    """A function that builds a plan with a stand-in for TensorRT, and unpacks a bundle of it."""

    def make(precision="int8", release="tensorrt-10.3.0", layers=NO_PLAN, **options):
        model = read_exported(workspace)
        scales = load_scales(workspace.scales, hashlib.sha256(model.data).hexdigest())
        shop = Workshop(release, precision)
        request = BuildRequest(
            "tensorrt",
            precision,
            scales if precision == "int8" else None,
            scales.method if precision == "int8" else "",
            tensorrt=TensorRTOptions(**options),
            plan=layers,
        )
        build_engine(
            model.data,
            model.card,
            request,
            ResolvedTarget("tensorrt", library=shop.library.opened),
            workspace.engines / request.name,
            with_gpu("8.9"),
        )
        workspace.pack("detector.lpx")
        lpx.unpack("detector.lpx", "board")
        return lpx.Workspace("board")

    return make


@pytest.mark.parametrize("precision", ["int8", "fp16", "fp32"])
def test_a_plan_of_another_gpu_is_rebuilt_from_its_graph(plan, healer, heard, precision):
    board = plan(precision, batches=(1, 4), optimisation_level=2)
    name = f"tensorrt-{precision}"
    old = read_manifest(board.engines / name)
    shop = Workshop("tensorrt-10.3.0", precision)
    shop.outcomes.append(lambda workshop: b"a plan for this GPU")
    picked = healer(
        board,
        machine=with_gpu("8.6"),
        installed=library_of(shop),
        load=scored_by_its_graph,
    ).open(name)
    picked.engine.close()
    assert "built for compute capability 8.9, here is 8.6" in heard
    assert f"rebuilding {name} with the graph of the one that does not run here" in heard
    assert f"{name} was rebuilt, and scores 16 probe faces as where it was packed" in heard
    assert f"rebuilding {name}" in heard.bars
    new = read_manifest(board.engines / name)
    assert (board.engines / name / "engine.plan").read_bytes() == b"a plan for this GPU"
    assert new.machine["gpus"][0]["compute_capability"] == "8.6"
    assert new.options["graph_sha256"] == old.options["graph_sha256"]
    assert new.calibration == old.calibration
    assert new.placement == old.placement
    assert [profile[1][0] for profile in shop.profiles()] == [1, 4]
    assert shop.set("builder_optimization_level") == [2]
    assert not (board.root / STAGING).exists()


def test_a_plan_of_another_release_of_another_dialect_is_made_from_the_ranges(plan, healer, heard):
    board = plan()
    shop = Workshop("tensorrt-8.6.1", "int8")
    healer(
        board,
        machine=with_gpu("8.9"),
        installed=library_of(shop),
        load=scored_by_its_graph,
    ).open(PLAN).engine.close()
    assert "built by TensorRT 10.3" in heard
    assert "with the ranges of the one that does not run here" in heard
    new = read_manifest(board.engines / PLAN)
    assert new.dialect == "weakly-typed"
    assert new.versions["tensorrt"].startswith("8.6")


@pytest.mark.parametrize("by", ["graph", "ranges"])
def test_a_rebuilt_engine_follows_the_plan_of_the_old_one(plan, healer, workspace, by):
    placement = read_manifest(workspace.engines / "onnxruntime-int8").placement
    chosen = next(d["node"] for d in placement if d["quantised"] and d["op_type"] == "Conv")
    layers = PrecisionPlan({chosen: LayerPlan("float", "it is sensitive")})
    board = plan(layers=layers)
    folder = board.engines / "tensorrt-int8"
    if by == "ranges":
        (folder / GRAPH).unlink()
    old = read_manifest(folder)
    shop = Workshop("tensorrt-10.3.0", "int8")
    healer(
        board,
        machine=with_gpu("8.6"),
        installed=library_of(shop),
        load=scored_by_its_graph,
    ).open("tensorrt-int8").engine.close()
    new = read_manifest(folder)
    assert new.machine["gpus"][0]["compute_capability"] == "8.6"
    assert new.precision_plan == old.precision_plan == layers
    assert new.options["graph_sha256"] == old.options["graph_sha256"]
    assert {d["node"]: d["quantised"] for d in new.placement}[chosen] is False


def test_other_ranges_are_refused(plan, healer):
    board = plan()
    scales = read_scales(board.scales)
    tensor, values = next(iter(scales.tensors.items()))
    changed = {**scales.tensors, tensor: replace(values, high=values.high * 2)}
    save_scales(board.scales, replace(scales, tensors=changed))
    before = (board.engines / PLAN / "engine.plan").read_bytes()
    with pytest.raises(LpxError, match="does not have the ranges") as caught:
        healer(
            board,
            machine=with_gpu("8.9"),
            installed=library_of(Workshop("tensorrt-8.6.1", "int8")),
            load=scored_by_its_graph,
        ).open(PLAN)
    assert "lpx build --int8 --target tensorrt" in caught.value.fix
    assert (board.engines / PLAN / "engine.plan").read_bytes() == before


def test_a_plan_without_its_graph_is_made_from_the_ranges(plan, healer, heard):
    board = plan()
    (board.engines / PLAN / GRAPH).unlink()
    healer(
        board,
        machine=with_gpu("8.6"),
        installed=library_of(Workshop("tensorrt-10.3.0", "int8")),
        load=scored_by_its_graph,
    ).open(PLAN).engine.close()
    assert "with the ranges of the one that does not run here" in heard


def test_an_altered_graph_is_not_built_from(plan, healer, tree):
    board = plan()
    (board.engines / PLAN / GRAPH).write_bytes(b"altered")
    before = tree(board.root)
    with pytest.raises(LpxError) as caught:
        healer(
            board,
            machine=with_gpu("8.6"),
            installed=library_of(Workshop("tensorrt-10.3.0", "int8")),
        ).open(PLAN)
    assert caught.value.code == "damaged"
    assert tree(board.root) == before


def test_a_build_that_fails_changes_nothing(plan, healer, tree):
    board = plan()
    shop = Workshop("tensorrt-10.3.0", "int8")
    shop.outcomes.append(lambda workshop: None)
    before = tree(board.root)
    with pytest.raises(LpxError):
        healer(board, machine=with_gpu("8.6"), installed=library_of(shop)).open(PLAN)
    assert tree(board.root) == before


def test_a_rebuilt_engine_whose_scores_differ_changes_nothing(board, healer, tree):
    of_another_lpx(board, INT8)
    before = tree(board.root)

    def off(folder, **options):
        return Off(load(folder, **options), 0.4)

    with pytest.raises(LpxError) as caught:
        healer(board, fits=fits_after("0.0"), load=off).open(INT8)
    assert caught.value.code == "scores-differ"
    assert f"{INT8} was rebuilt, and the new engine does not give probe faces" in caught.value.what
    assert "the old engine was kept" in caught.value.fix
    assert tree(board.root) == before


def test_a_rebuilt_engine_that_does_not_run_either_changes_nothing(board, healer, tree):
    before = tree(board.root)
    with pytest.raises(LpxError, match="was rebuilt, and does not run here either") as caught:
        healer(board, fits=lambda *_: Availability(False, "it never does")).open(INT8)
    assert caught.value.code == "unsupported"
    assert caught.value.why == "it never does"
    assert tree(board.root) == before


def test_an_interrupt_changes_nothing(board, healer, tree):
    of_another_lpx(board, INT8)
    before = tree(board.root)

    def interrupted(folder, **options):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        healer(board, fits=fits_after("0.0"), load=interrupted).open(INT8)
    assert tree(board.root) == before


def test_without_a_bundle_the_demo_faces_are_scored(workspace, healer, heard):
    of_another_lpx(workspace, INT8)
    healer(workspace, fits=fits_after("0.0")).open(INT8).engine.close()
    assert f"{INT8} was rebuilt, and scores 16 probe faces as in ONNX Runtime" in heard


def test_what_a_killed_process_left_is_removed(board, healer):
    of_another_lpx(board, INT8)
    left = board.root / STAGING / INT8
    shutil.copytree(board.engines / INT8, left)
    healer(board, fits=fits_after("0.0")).open(INT8).engine.close()
    assert not (board.root / STAGING).exists()


def test_a_workspace_in_use_is_not_rebuilt_in(board, healer):
    of_another_lpx(board, INT8)
    with board.lock(), pytest.raises(LpxError) as caught:
        healer(board, fits=fits_after("0.0")).open(INT8)
    assert caught.value.code == "in-use"


def test_what_another_process_rebuilt_meanwhile_is_taken(board, healer, heard):
    of_another_lpx(board, INT8)
    folder = board.engines / INT8

    def rebuilt_while_it_asks(question):
        old = read_manifest(folder)
        write_manifest(folder, replace(old, versions=old.versions | {"lpx": lpx.__version__}))
        return True

    healing = healer(board, rebuild="ask", fits=fits_after("0.0"), ask=rebuilt_while_it_asks)
    healing.open(INT8).engine.close()
    assert "was rebuilt" not in heard
    assert f"{INT8} scores 16 probe faces as expected" in heard


@pytest.mark.parametrize("name", [INT8, None])
def test_an_engine_that_seems_to_fit_and_does_not_load_is_rebuilt(board, healer, heard, name):
    of_another_lpx(board, INT8)
    if name is None:
        shutil.rmtree(board.engines / "onnxruntime-fp32")

    def opened(folder, **options):
        if read_manifest(folder).versions["lpx"] == "0.0":
            raise LpxError("the plan does not load", "of another release", code="unsupported")
        return load(folder, **options)

    # The survey warns of it, so that its manifest there is not the one on disk.
    picked = healer(board, load=opened).open(name)
    picked.engine.close()
    assert f"{INT8} does not run here: the plan does not load: of another release" in heard
    assert f"{INT8} was rebuilt" in heard


def test_an_engine_of_which_the_survey_warns_is_rebuilt_too(plan, healer, heard):
    """A plan of another GPU of the same capability fits, with a warning; TensorRT refuses it."""
    board = plan()
    refused = []

    def opened(folder, **options):
        if not refused:
            refused.append(folder)
            raise LpxError("the plan does not load", "other multiprocessors", code="unsupported")
        return scored_by_its_graph(folder)

    here = replace(with_gpu("8.9"), gpus=(Gpu("another GPU", "8.9", 8192, "580"),))
    shop = Workshop("tensorrt-10.3.0", "int8")
    healing = healer(board, machine=here, installed=library_of(shop), load=opened)
    healing.open(PLAN).engine.close()
    assert f"{PLAN} was rebuilt" in heard
    assert read_manifest(board.engines / PLAN).machine["gpus"][0]["name"] == "another GPU"


def test_its_own_name_stays(board, healer):
    (board.engines / INT8).rename(board.engines / "mine")
    of_another_lpx(board, "mine")
    picked = healer(board, fits=fits_after("0.0")).open("mine")
    picked.engine.close()
    assert picked.name == "mine"
    assert sorted(board.engine_names()) == ["mine", "onnxruntime-fp32"]


def test_the_rebuilt_engine_scores_as_the_old_one(board, healer):
    probe = np.zeros((2, *[read_manifest(board.engines / INT8).card["input_size"]] * 2, 3), "u1")
    with load(board.engines / INT8) as engine:
        before = engine.infer(probe).score
    of_another_lpx(board, INT8)
    with healer(board, fits=fits_after("0.0")).open(INT8).engine as engine:
        assert np.array_equal(engine.infer(probe).score, before)


# Options that belong to the machine that built it.


def options_of(target="tensorrt", machine=PC, outcome=None, **options):
    stated = {"tensorrt": TensorRTOptions(**options).to_dict()} | (outcome or {})
    # As JSON has them.
    stated["tensorrt"]["compute_capabilities"] = list(stated["tensorrt"]["compute_capabilities"])
    return _options(manifest_for(target, options=stated), machine)


def test_scratch_memory_that_nobody_asked_for_is_that_of_this_machine():
    asked = options_of(workspace_mib=512, outcome={"workspace_from": "as asked for"})
    assert asked.workspace_mib == 512
    free = options_of(workspace_mib=512, outcome={"workspace_from": "half of the 1024 MiB"})
    assert free.workspace_mib is None


def test_kernel_times_of_another_machine_are_not_asked_for():
    assert not options_of(frozen_timing_cache=True).frozen_timing_cache


@pytest.mark.parametrize(("asked", "made"), [(1, 1), (3, 3), (10**9, MAX_BUILDS)])
def test_a_manifest_cannot_ask_for_builds_without_end(asked, made):
    assert options_of(builds=asked).builds == made


def test_a_plan_for_other_gpus_is_built_for_this_board_only():
    assert options_of(hardware_compatible=True).hardware_compatible
    assert not options_of(machine=BOARD, hardware_compatible=True).hardware_compatible


@pytest.mark.parametrize(
    ("asked", "here", "built_for"),
    [
        (("8.6",), "8.6", ("8.6",)),
        (("8.6",), "8.9", ()),
        (("8.6",), "7.5", ("7.5",)),
        ((), "7.5", ("7.5",)),
        ((), "8.9", ()),
    ],
)
def test_rtx_plans_are_built_for_the_gpu_that_is_here(asked, here, built_for):
    options = options_of("tensorrt-rtx", with_gpu(here), compute_capabilities=asked)
    assert options.gpus == built_for


# Exchange of two folders.


@pytest.mark.parametrize("at_once", [True, False])
def test_folders_are_exchanged(tmp_path, at_once):
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    swap(tmp_path / "new", tmp_path / "old", at_once=at_once)
    assert (tmp_path / "old/new").is_file()
    assert (tmp_path / "new/old").is_file()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("missing", ["new", "old"])
def test_folders_that_are_not_there_are_not_exchanged(tmp_path, missing, at_once):
    other = {"new": "old", "old": "new"}[missing]
    (tmp_path / other).mkdir()
    with pytest.raises(FileNotFoundError):
        swap(tmp_path / "new", tmp_path / "old", at_once=at_once)
    assert [path.name for path in tmp_path.iterdir()] == [other]
