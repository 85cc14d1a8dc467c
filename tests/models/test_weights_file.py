"""Files of other kinds are named as what they are; nothing in any file is run."""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import pathlib
import struct
import sys
import tarfile
import types
import zipfile

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from lpx.errors import LpxError
from lpx.models.weights_file import read_weights


class Program(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def torchscript(path):
    torch.jit.save(torch.jit.trace(Program(), torch.zeros(1, 3, 8, 8)), path)


def exported_program(path):
    # The extension is what torch wants; the file is then renamed, as users do.
    made = path.with_suffix(".pt2")
    torch.export.save(torch.export.export(Program(), (torch.zeros(1, 3, 8, 8),)), made)
    made.rename(path)


def onnx_model(path):
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    onnx.save_model(
        onnx.helper.make_model(onnx.helper.make_graph([node], "g", [value], [out])), path
    )


def zipped(*names):
    def write(path):
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, b"x")

    return write


def npz(path):
    with path.open("wb") as stream:
        np.savez(stream, a=np.ones(2))


def tar(*names):
    def write(path):
        with tarfile.open(path, "w") as archive:
            for name in names:
                archive.addfile(tarfile.TarInfo(name))

    return write


def holds(data):
    return lambda path: path.write_bytes(data)


KINDS = {
    "empty": (holds(b""), "it is empty", "download it again"),
    "lfs": (
        holds(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        "a Git LFS pointer",
        "git lfs pull",
    ),
    "page": (holds(b"<!DOCTYPE html><html><title>Virus scan</title></html>"), "web page", "gdown"),
    "page-2": (holds(b"\n <HTML><body>Sign in"), "web page", "raw link"),
    "hdf5": (holds(b"\x89HDF\r\n\x1a\n" + bytes(64)), "HDF5 file: weights of Keras", "`factory="),
    "keras": (zipped("config.json", "model.weights.h5"), "a Keras model", "`factory="),
    "torchscript": (torchscript, "a TorchScript program", "torch.jit.load"),
    "pt2": (exported_program, "a program of torch.export", "torch.export.load"),
    "onnx": (onnx_model, "an ONNX model", "`factory="),
    "zip": (zipped("best.pth", "readme.txt"), "a ZIP archive of other files: best.pth", "unzip"),
    "npz": (npz, "a NumPy archive", "`factory="),
    "tar": (tar("a.pth"), "a tar archive", "tar xf"),
    "torch-0.1": (tar("sys_info", "pickle", "storages", "tensors"), "PyTorch 0.1", "newer PyTorch"),
    "gzip": (holds(b"\x1f\x8b\x08" + bytes(32)), "compressed with gzip", "unpack it"),
    "json": (holds(b'{"message": "Not Found"}'), "JSON text", "download it again"),
    "png": (holds(b"\x89PNG\r\n\x1a\n" + bytes(64)), "a picture (PNG)", "of another kind"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_file_of_another_kind_is_named(tmp_path, kind):
    write, why, fix = KINDS[kind]
    path = tmp_path / "weights.pth"
    write(path)
    with pytest.raises(LpxError, match="not a readable PyTorch checkpoint") as caught:
        read_weights(path)
    assert why in caught.value.why
    assert fix in caught.value.fix
    assert "weights_only" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("write", "load"), [(torchscript, "jit"), (exported_program, "export")])
def test_advice_for_programs_gives_their_weights(tmp_path, write, load):
    path = tmp_path / "weights.pth"
    write(path)
    with pytest.raises(LpxError) as caught:
        read_weights(path)
    code = caught.value.fix.split('python -c "')[1].removesuffix('"')
    exec(code.replace("'weights.pt'", f"'{tmp_path / 'weights.pt'}'"), {})
    assert read_weights(tmp_path / "weights.pt").keys() == {"conv.weight", "conv.bias"}


BESIDE = {
    "lr": np.float32(0.1),
    "epoch": np.int64(3),
    "good": np.bool_(True),
    "name": np.str_("x"),
    "curve": np.linspace(0, 1, 5),
    "type": np.dtype("float32"),
    "args": argparse.Namespace(lr=0.1, out=pathlib.Path("runs")),
    "when": datetime.datetime(2024, 1, 1),
    "took": datetime.timedelta(hours=1),
    "counts": collections.defaultdict(int, {"a": 1}),
    "last": collections.deque([1, 2]),
    "set": frozenset([1]),
    "space": types.SimpleNamespace(a=1),
    "complex": 1j,
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", BESIDE)
def test_plain_values_beside_the_weights_are_not_code(tmp_path, name, legacy):
    path = tmp_path / "weights.pth"
    content = {"state_dict": {"w": torch.arange(3.0)}, name: BESIDE[name]}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    assert torch.equal(read_weights(path)["state_dict"]["w"], torch.arange(3.0))


def test_number_of_numpy_1_is_not_code(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(
        {"w": torch.zeros(1), "lr": np.float64(1)}, path, _use_new_zipfile_serialization=False
    )
    data = path.read_bytes()
    assert b"numpy._core.multiarray" in data
    path.write_bytes(data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert "w" in read_weights(path)


class Callback:
    pass


def test_object_of_other_code_is_refused_by_name(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"w": torch.zeros(1), "callback": Callback()}, path)
    with pytest.raises(LpxError, match=r"pickled Python objects.*test_weights_file\.Callback"):
        read_weights(path)


def safetensors_file(path, damaged=False):
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    values = b"" if damaged else struct.pack("<2f", 1, 2)
    path.write_bytes(struct.pack("<Q", len(header)) + header + values)


def test_safetensors_without_the_package_names_the_command(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    safetensors_file(path)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(LpxError, match="it is a safetensors file") as caught:
        read_weights(path)
    assert caught.value.fix.startswith("pip install safetensors")


def test_safetensors_is_read_with_the_package(tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    safetensors_file(path)
    stub = types.SimpleNamespace(load_file=lambda path: {"w": torch.tensor([1.0, 2.0])})
    monkeypatch.setitem(sys.modules, "safetensors", types.ModuleType("safetensors"))
    monkeypatch.setitem(sys.modules, "safetensors.torch", stub)
    assert read_weights(path)["w"].tolist() == [1, 2]


@pytest.mark.parametrize("damaged", [False, True])
def test_safetensors_itself(tmp_path, damaged):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    path = tmp_path / "weights.pth"
    safetensors_file(path, damaged)
    if damaged:
        with pytest.raises(LpxError, match="a damaged safetensors file"):
            read_weights(path)
    else:
        assert read_weights(path)["w"].tolist() == [1, 2]


@pytest.mark.parametrize("nested", [False, True])
def test_stride_of_0_asks_for_more_than_the_file_holds(tmp_path, nested):
    weights = {"weight": torch.zeros(1).expand(5_000_000_000)}
    torch.save({"state_dict": [weights]} if nested else weights, tmp_path / "weights.pt")
    assert (tmp_path / "weights.pt").stat().st_size < 4096
    with pytest.raises(LpxError, match=r"such as one of \[5000000000\]") as caught:
        read_weights(tmp_path / "weights.pt")
    assert "the limit for repeated or sparse values is 64 MiB" in caught.value.why


def test_sparse_tensor_asks_for_more_than_the_file_holds(tmp_path):
    place, value = torch.tensor([[0]]), torch.ones(1)
    sparse = torch.sparse_coo_tensor(place, value, (5_000_000_000,), check_invariants=True)
    torch.save({"weight": sparse}, tmp_path / "weights.pt")
    with pytest.raises(LpxError, match="such as one of"):
        read_weights(tmp_path / "weights.pt")


def test_small_views_are_read(tmp_path):
    weights = {"weight": torch.zeros(1).expand(1000), "other": torch.zeros(4, 4)[:2].T}
    torch.save(weights, tmp_path / "weights.pt")
    assert read_weights(tmp_path / "weights.pt")["weight"].shape == (1000,)


def test_a_file_that_is_compressed_does_not_grow_without_end(tmp_path):
    torch.save({"a": torch.zeros(1 << 20)}, tmp_path / "a.pt")
    assert read_weights(tmp_path / "a.pt", limit=1 << 20)
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as whole,
        zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in whole.infolist():
            packed.writestr(entry.filename, whole.read(entry))
    with pytest.raises(LpxError, match="it is compressed, and would take 3 MiB more"):
        read_weights(tmp_path / "b.pt", limit=1 << 20)


def test_a_file_whose_index_is_damaged(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"a": torch.zeros(3)}, path)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"PK\x01\x02", b"PK\x01\x03"))
    with pytest.raises(LpxError, match="its index is damaged"):
        read_weights(path)


def test_an_archive_that_claims_to_span_several_disks(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"a": torch.zeros(3)}, path)
    end = b"PK\x06\x07" + struct.pack("<LQL", 1, 0, 2)
    data = path.read_bytes()
    place = data.rindex(b"PK\x05\x06")
    path.write_bytes(data[: place - len(end)] + end + data[place:])
    # Python's zipfile raises where it is asked whether this is an archive; PyTorch reads it.
    assert read_weights(path)["a"].shape == (3,)
