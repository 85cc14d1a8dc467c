"""Probe faces must get the same scores here, within a tolerance of each precision."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import lpx
from lpx.artefacts.model import read_exported
from lpx.bundle.check import ScoreCheck, check_model_scores, compare_scores, expected_of
from lpx.bundle.expected import ExpectedScores, expected_scores, identity, to_float32
from lpx.bundle.manifest import from_bytes
from lpx.bundle.pack import _write
from lpx.bundle.probe import Probe, read_probe
from lpx.bundle.sources import file_source
from lpx.engines.base import Prediction
from lpx.engines.load import load
from lpx.engines.manifest import read_manifest
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine
from lpx.errors import LpxError
from lpx.reporter import SILENT
from lpx.schema import sealed, unsealed
from tests.support.machines import manifest_for


@pytest.fixture
def board(bundle, tmp_path):
    return lpx.Workspace(lpx.unpack(bundle, tmp_path / "board").folder)


@pytest.fixture
def repacked(tmp_path, monkeypatch):
    """A function that packs the files of a workspace again, as they are, into detector.lpx."""
    monkeypatch.chdir(tmp_path)

    def pack(board):
        packed = from_bytes(board.bundle.read_bytes())
        if board.root != Path("there"):
            board.root.rename("there")
        names = [name for name in packed.members if Path("there", name).is_file()]
        sources = [file_source(name, Path("there", name)) for name in names]
        named = (packed.model_sha256, packed.engines, packed.faces)
        _write(Path("detector.lpx"), sources, *named, SILENT)
        return Path("detector.lpx")

    return pack


def change_scores(folder, by):
    """Change the float32 model's scores of probe faces, as if another machine had packed them."""
    path = folder / "probe.json"
    values = unsealed(json.loads(path.read_text()))
    for face in values["faces"]:
        face["score"] = min(1.0, max(0.0, face["score"] + by))
    path.write_text(json.dumps(sealed(values)))


def test_engines_have_scores_of_their_own(board):
    probe = read_probe(board.root / "probe")
    for name in board.engine_names():
        manifest = read_manifest(board.engines / name)
        expected = probe.engines[identity(manifest)]
        with load(board.engines / name) as engine:
            scores = engine.infer(probe.faces).score
        assert np.abs(scores - expected.scores).max() < 1e-5
        own = np.abs(expected.scores - probe.scores).max()
        wanted = {
            "fp32": probe.tolerance,
            "int8": max(0.01, 2 * float(own)),
        }[manifest.precision]
        assert expected.tolerance == pytest.approx(wanted, abs=1e-5)


def test_kernels_that_round_elsewhere_are_within_the_tolerance(board):
    """Node by node, in float: other kernels for the same INT8 graph."""
    probe = read_probe(board.root / "probe")
    folder = board.engines / "onnxruntime-int8"
    expected = expected_of(folder, read_manifest(folder), probe)
    data = (folder / "engine.onnx").read_bytes()
    with OnnxRuntimeEngine(data, probe.faces.shape[1], as_written=True) as engine:
        assert np.abs(engine.infer(probe.faces).score - expected.scores).max() < expected.tolerance


def test_identity_is_what_was_asked_for():
    engine = manifest_for("tensorrt", calibration={"method": "mse", "ranges_sha256": "a"})
    same = manifest_for(
        "tensorrt",
        versions={"tensorrt": "9"},
        machine={"cpu": "x"},
        calibration={"method": "mse", "ranges_sha256": "a", "seconds": 3.0, "warning": "few"},
    )
    assert identity(engine) == identity(same)
    for other in (
        manifest_for("tensorrt-rtx", calibration=engine.calibration),
        manifest_for("tensorrt", calibration={"method": "max", "ranges_sha256": "a"}),
        manifest_for("tensorrt", calibration=engine.calibration, model_sha256="b"),
        manifest_for("tensorrt", calibration=engine.calibration, precision="fp16"),
        manifest_for("tensorrt"),
    ):
        assert identity(other) != identity(engine)


def test_a_precision_that_is_not_in_the_graph_is_compared_with_float32(tmp_path):
    float32 = np.array([0.25, 0.5], np.float32)
    faces = np.zeros((2, 8, 8, 3), np.uint8)
    for precision, tolerance in (("fp16", 0.05), ("int8", 0.25)):
        manifest = manifest_for("tensorrt", precision=precision, dialect="calibration-cache")
        expected = expected_scores(tmp_path, manifest, faces, float32, 1e-4)
        assert expected.tolerance == tolerance
        assert np.array_equal(expected.scores, float32)
    # As when there is no graph beside a plan.
    expected = expected_scores(tmp_path, manifest_for("tensorrt"), faces, float32, 1e-4)
    assert expected.tolerance == to_float32(manifest_for("tensorrt"), float32, 1e-4).tolerance


@pytest.mark.parametrize(
    ("target", "tf32", "tolerance"),
    [
        ("tensorrt", True, 0.05),
        ("tensorrt", False, 0.002),
        ("onnxruntime-tensorrt", True, 0.05),
        ("onnxruntime", True, 1e-4),
    ],
)
def test_tf32_is_as_coarse_as_fp16(built, tmp_path, target, tf32, tolerance):
    model = built.model.read_bytes()
    manifest = manifest_for(
        target,
        precision="fp32",
        file="graph.onnx",
        engine_sha256=hashlib.sha256(model).hexdigest(),
        options={"tensorrt": {"tf32": tf32, "batches": [1]}},
    )
    for name in ("graph.onnx", "engine.onnx"):
        (tmp_path / name).write_bytes(model)
    size = read_exported(built).card.input_size
    faces = np.zeros((1, size, size, 3), np.uint8)
    with OnnxRuntimeEngine(model, size) as engine:
        float32 = engine.infer(faces).score
    found = expected_scores(tmp_path, manifest, faces, float32, 1e-4)
    assert found.tolerance == pytest.approx(tolerance)


def test_scores_beyond_the_tolerance_are_counted():
    class Fixed:
        """Scores faces by the value of their first pixel."""

        def infer(self, faces):
            scores = np.array([0.5, 0.7, np.nan], np.float32)[faces[:, 0, 0, 0]]
            return Prediction(scores, scores.reshape(-1, 1, 1))

    scores = np.array([0.5, 0.5, 0.5], np.float32)
    faces = np.zeros((3, 8, 8, 3), np.uint8) + np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1)
    probe = Probe(faces, scores, 0.1, "")
    found = compare_scores(Fixed(), probe, ExpectedScores(scores, 0.1))
    assert found == ScoreCheck(3, float("inf"), 0.1, 2)
    assert not found.passed
    assert str(found) == (
        "scores of 2 of 3 probe faces differ by more than 0.1 (largest difference not finite)"
    )


def test_unpack_refuses_a_machine_that_scores_otherwise(board, repacked):
    """The bundle is intact; its model computes something else here."""
    change_scores(board.root / "probe", 0.2)
    repacked(board)
    with pytest.raises(LpxError) as caught:
        lpx.unpack("detector.lpx", "board")
    assert caught.value.code == "scores-differ"
    assert caught.value.exit_code == 1
    assert "the exported model in ONNX Runtime does not give probe faces" in caught.value.what
    assert "lpx unpack --no-check" in caught.value.fix
    assert not Path("board").exists()
    assert list(Path().glob(".board*")) == []
    lpx.unpack("detector.lpx", "board", check=False)
    assert Path("board/model.onnx").is_file()


@pytest.mark.parametrize("by", [0.001, 0.3])
def test_the_models_scores_are_checked(board, by):
    check_model_scores(board.root)
    change_scores(board.root / "probe", by)
    with pytest.raises(LpxError) as caught:
        check_model_scores(board.root)
    assert caught.value.code == "scores-differ"


def test_without_probe_faces_nothing_is_checked(built):
    check_model_scores(built.root)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scores", [0.5]),
        ("scores", [2.0] * 8),
        ("scores", ["0.5"] * 8),
        ("tolerance", -1.0),
        ("tolerance", 2.0),
        ("tolerance", None),
        ("name", 8),
    ],
)
def test_scores_that_no_engine_can_have_are_damage(board, field, value):
    path = board.root / "probe/probe.json"
    values = unsealed(json.loads(path.read_text()))
    next(iter(values["engines"].values()))[field] = value
    path.write_text(json.dumps(sealed(values)))
    with pytest.raises(LpxError) as caught:
        read_probe(path.parent)
    assert caught.value.code == "damaged"


def edit_probe(folder, **changes):
    """Change fields of `probe.json`, with a checksum that matches them."""
    path = folder / "probe.json"
    values = unsealed(json.loads(path.read_text()))
    path.write_text(json.dumps(sealed(values | changes)))


@pytest.mark.parametrize(
    ("found", "what", "fix"),
    [
        ("lpx-probe/1", "was written by an earlier version of lpx", "pack the bundle again with"),
        ("lpx-probe/9", "was written by a newer version of lpx", "update lpx, or pack"),
    ],
)
def test_probe_faces_of_another_version_are_not_damaged(board, repacked, found, what, fix):
    edit_probe(board.root / "probe", format=found)
    with pytest.raises(LpxError, match=what) as caught:
        read_probe(board.root / "probe")
    assert caught.value.code == "unsupported"
    assert fix in caught.value.fix
    with pytest.raises(LpxError) as caught:
        lpx.unpack(repacked(board), "again")
    assert caught.value.what == f"detector.lpx: probe/probe.json {what}"
    assert caught.value.code == "unsupported"
    assert not Path("again").exists()


@pytest.mark.parametrize("found", [None, 2, "lpx-probe", "lpx-bundle/2", "lpx-probe/2x"])
def test_what_is_not_a_format_of_probe_faces_is_damage(board, found):
    edit_probe(board.root / "probe", format=found)
    with pytest.raises(LpxError, match="is damaged") as caught:
        read_probe(board.root / "probe")
    assert caught.value.code == "damaged"


def test_probe_faces_of_another_model_are_refused(board, repacked):
    """Its engines would never be checked."""
    edit_probe(board.root / "probe", model_sha256="0" * 64)
    with pytest.raises(LpxError, match="of another model") as caught:
        lpx.unpack(repacked(board), "again")
    assert caught.value.code == "damaged"
    assert "detector.lpx: probe/probe.json" in caught.value.what


def test_unpack_says_how_many_faces_were_scored(board, repacked):
    bundle = repacked(board)
    assert lpx.unpack(bundle, "checked").checked == 8
    assert lpx.unpack(bundle, "unchecked", check=False).checked == 0
    shutil.rmtree("there/probe")
    board = lpx.Workspace("there")
    assert lpx.unpack(repacked(board), "without").checked == 0


def test_the_model_of_the_probe_faces_is_named(board):
    assert read_probe(board.root / "probe").model_sha256 == read_exported(board).sha256


@pytest.mark.parametrize("check", [None, 2, "no"])
def test_check_is_true_or_false(bundle, tmp_path, check):
    with pytest.raises(LpxError) as caught:
        lpx.unpack(bundle, tmp_path / "board", check=check)
    assert caught.value.code == "invalid-argument"
