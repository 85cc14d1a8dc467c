from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress

import numpy as np
import onnxruntime
import pytest

from lpx.data.images.decode import fit
from lpx.engines import load
from lpx.engines.load import load_plan
from lpx.engines.manifest import read_manifest
from lpx.engines.onnxruntime.cpu import session_options
from lpx.engines.tensorrt_options import TensorRTOptions
from lpx.engines.torch import TorchEngine
from lpx.errors import LpxError
from lpx.models.checkpoint import load_checkpoint
from lpx.workspace import read_sealed, write_sealed

ENGINES = ("onnxruntime-fp32", "onnxruntime-int8", "torch")


@pytest.fixture(scope="module")
def faces(drawn):
    return np.stack([fit(image, 160) for pair in drawn for image in pair])


@pytest.fixture
def engine(request, built):
    if request.param == "torch":
        loaded = TorchEngine(load_checkpoint(built.reference))
    else:
        loaded = load(built.engines / request.param)
    with closing(loaded):
        yield loaded


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
def test_prediction_is_float32_probabilities(engine, faces):
    found = engine.infer(faces)
    assert found.score.dtype == found.patch_map.dtype == np.float32
    assert found.score.shape == (16,)
    assert found.patch_map.shape == (16, 10, 10)
    for values in (found.score, found.patch_map):
        assert values.min() >= 0
        assert values.max() <= 1


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
def test_batch_does_not_matter(engine, faces):
    together = engine.infer(faces[:4])
    alone = [engine.infer(faces[i : i + 1]) for i in range(4)]
    assert np.concatenate([p.score for p in alone]) == pytest.approx(together.score, abs=1e-5)
    maps = np.concatenate([p.patch_map for p in alone])
    assert np.abs(maps - together.patch_map).max() < 1e-4


@pytest.mark.parametrize("name", ENGINES[:2])
def test_sharing_cores_changes_no_bit(built, faces, name):
    engines = [load(built.engines / name, shares_cores=shares) for shares in (False, True)]
    alone, beside = (engine.infer(faces) for engine in engines)
    assert np.array_equal(alone.score, beside.score)
    assert np.array_equal(alone.patch_map, beside.patch_map)
    options = engines[1].session.get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    for engine in engines:
        engine.close()


@pytest.mark.parametrize(("vnni", "entry"), [(True, None), (False, "1"), (None, "1")])
def test_slower_kernels_only_where_the_default_ones_saturate(vnni, entry):
    options = session_options(vnni=vnni)
    found = None
    # ONNX Runtime raises an error for an entry that was not set.
    with suppress(RuntimeError):
        found = options.get_session_config_entry("session.x64quantprecision")
    assert found == entry


def test_int8_is_exact_on_this_processor(built, faces):
    """The scores are those of the kernels that cannot saturate, whatever was chosen."""
    folder = built.engines / "onnxruntime-int8"
    with closing(load(folder)) as engine:
        chosen = engine.infer(faces)
    graph = (folder / "engine.onnx").read_bytes()
    exact = onnxruntime.InferenceSession(graph, session_options(vnni=False))
    score, patch_map = exact.run(["score", "patch_map"], {"faces": faces})
    np.testing.assert_array_equal(chosen.score, score)
    np.testing.assert_array_equal(chosen.patch_map, patch_map)


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
def test_any_memory_layout_will_do(engine, faces):
    wanted = engine.infer(faces[::-1].copy())
    assert engine.infer(faces[::-1]).score == pytest.approx(wanted.score, abs=1e-6)
    mirrored = engine.infer(np.ascontiguousarray(faces[:, :, ::-1]))
    assert engine.infer(faces[:, :, ::-1]).score == pytest.approx(mirrored.score, abs=1e-6)


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f.astype(np.float32) / 255, r"faces are float32 \[16, 160, 160, 3\]"),
        (lambda f: f[:, :100], r"faces are uint8 \[16, 100, 160, 3\]"),
        (lambda f: f.transpose(0, 3, 1, 2), r"faces are uint8 \[16, 3, 160, 160\]"),
        (lambda f: f[0], r"faces are uint8 \[160, 160, 3\]"),
        (lambda f: f[:0], "the batch has no faces"),
    ],
)
def test_faces_of_another_kind_are_refused(engine, faces, change, said):
    with pytest.raises(LpxError, match=said):
        engine.infer(change(faces))


def test_engines_agree(built, faces):
    torch, fp32, int8 = (
        engine.infer(faces)
        for engine in (
            TorchEngine(load_checkpoint(built.reference)),
            load(built.engines / "onnxruntime-fp32"),
            load(str(built.engines / "onnxruntime-int8")),
        )
    )
    assert np.abs(fp32.score - torch.score).max() < 1e-4
    assert np.abs(fp32.patch_map - torch.patch_map).max() < 1e-4
    assert 0 < np.abs(int8.score - torch.score).max() < 0.1


def test_int8_engine_says_what_its_graph_says(built, faces):
    """Integer kernels against the same Q/DQ graph node by node in floats.

    Both round alike but for ties, so only a kernel that saturates, as ONNX Runtime's default one
    does on x86-64 without VNNI, is far off.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(built.engines / "onnxruntime-int8/engine.onnx", options)
    score, patch_map = session.run(("score", "patch_map"), {"faces": faces})
    with closing(load(built.engines / "onnxruntime-int8")) as engine:
        found = engine.infer(faces)
    assert np.abs(found.score - score).max() < 0.01
    assert np.abs(found.patch_map - patch_map).mean() < 0.01


def test_several_threads_may_share_an_engine(built, faces):
    with closing(load(built.engines / "onnxruntime-int8")) as engine:
        wanted = engine.infer(faces).score
        with ThreadPoolExecutor(4) as pool:
            for found in pool.map(lambda _: engine.infer(faces).score, range(8)):
                assert (found == wanted).all()


def test_bytes_altered(workspace):
    folder = workspace.engines / "onnxruntime-int8"
    data = bytearray((folder / "engine.onnx").read_bytes())
    data[1000] ^= 1
    (folder / "engine.onnx").write_bytes(data)
    with pytest.raises(LpxError, match="is not the engine that its manifest describes") as caught:
        load(folder)
    assert "SHA-256" in caught.value.why


def test_file_missing(workspace):
    folder = workspace.engines / "onnxruntime-int8"
    (folder / "engine.onnx").unlink()
    with pytest.raises(LpxError, match=r"engine\.onnx does not exist"):
        load(folder)


def test_no_engine_there(tmp_path):
    with pytest.raises(LpxError, match="nothing does not exist") as caught:
        load(tmp_path / "nothing")
    assert caught.value.code == "not-found"
    with pytest.raises(LpxError, match="holds no engine") as caught:
        load(str(tmp_path))
    assert caught.value.code == "not-found"
    (tmp_path / "file").touch()
    with pytest.raises(LpxError, match="is not a folder") as caught:
        load(tmp_path / "file")
    assert caught.value.code == "not-found"


def test_bytes_that_are_no_model(workspace):
    """The manifest's hash fits, so that it is ONNX Runtime that refuses."""
    import hashlib

    folder = workspace.engines / "onnxruntime-int8"
    (folder / "engine.onnx").write_bytes(b"no model")
    values = read_sealed(folder / "manifest.json", "")
    values["engine_sha256"] = hashlib.sha256(b"no model").hexdigest()
    write_sealed(folder / "manifest.json", values)
    with pytest.raises(LpxError, match="ONNX Runtime cannot load the model"):
        load(folder)


def edit(folder, **changes):
    path = folder / "manifest.json"
    write_sealed(path, read_sealed(path, "") | changes)


@pytest.mark.parametrize("name", ["../onnxruntime-fp32/engine.onnx", "/etc/passwd", "a/."])
def test_engine_file_is_beside_its_manifest(workspace, name):
    folder = workspace.engines / "onnxruntime-int8"
    edit(folder, file=name)
    with pytest.raises(LpxError, match=r"file: .* is not the plain name of a file"):
        load(folder)


def test_engine_file_that_is_a_link_to_elsewhere(workspace, tmp_path):
    folder = workspace.engines / "onnxruntime-int8"
    (folder / "engine.onnx").rename(tmp_path / "engine.onnx")
    (folder / "engine.onnx").symlink_to(tmp_path / "engine.onnx")
    with pytest.raises(LpxError, match=r"engine\.onnx cannot be read") as caught:
        load(folder)
    assert "outside" in caught.value.why


def test_engine_file_that_is_a_pipe(workspace):
    folder = workspace.engines / "onnxruntime-int8"
    (folder / "engine.onnx").unlink()
    os.mkfifo(folder / "engine.onnx")
    with pytest.raises(LpxError, match=r"engine\.onnx cannot be read"):
        load(folder)


def test_card_of_the_manifest_is_that_of_the_engine(workspace):
    folder = workspace.engines / "onnxruntime-int8"
    values = read_sealed(folder / "manifest.json", "")
    edit(folder, card=values["card"] | {"threshold": 0.25})
    with pytest.raises(LpxError, match="carry different model cards"):
        load(folder)


@pytest.mark.parametrize(
    "target", ["onnxruntime-cuda", "onnxruntime-tensorrt", "onnxruntime-tensorrt-rtx"]
)
def test_provider_options_that_lpx_does_not_set(workspace, target):
    """ONNX Runtime loads the library that this option names."""
    folder = workspace.engines / "onnxruntime-int8"
    options = {"provider": {"use_tf32": "0", "trt_extra_plugin_lib_paths": "/tmp/evil.so"}}
    edit(folder, target=target, options=options | {"tensorrt": {"batches": [8]}})
    with pytest.raises(LpxError, match="provider options that lpx does not set"):
        load(folder)


@pytest.mark.parametrize("compatible", [True, False])
def test_a_version_compatible_plan_may_run_in_the_lean_runtime(workspace, compatible):
    folder = workspace.engines / "onnxruntime-int8"
    options = TensorRTOptions(version_compatible=compatible, dla_core=1)
    edit(folder, target="tensorrt", options={"tensorrt": options.to_dict()})
    asked = []

    def open_runtime(flavour, *, version_compatible):
        asked.append((flavour, version_compatible))
        raise LpxError("not here")

    manifest = read_manifest(folder)
    assert manifest.tensorrt.dla_core == 1
    with pytest.raises(LpxError, match="not here"):
        load_plan(
            folder,
            manifest,
            b"",
            allow_host_code=False,
            cuda_graph=True,
            open_runtime=open_runtime,
        )
    assert asked == [("tensorrt", compatible)]
