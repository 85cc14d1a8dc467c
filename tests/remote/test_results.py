"""Results of a board are checked as a bundle is: the board may send anything."""

from __future__ import annotations

import hashlib
import io
import json
import os
from contextlib import contextmanager
from pathlib import Path

import pytest

from lpx import LpxError
from lpx.remote.agent import results as agent_results
from lpx.remote.connection import LostError
from lpx.remote.host import folder_name
from lpx.remote.results import fetch, results_folder
from lpx.reporter import SILENT

CSV = {"predictions/scores.csv": b"file,score\n"}


class Hostile:
    """A board that lists some files and sends other bytes."""

    host = "board"

    def __init__(self, files, sent=None, machine=None, listing=None):
        self.files = files
        self.sent = files if sent is None else sent
        self.machine = {"hostname": "b"} if machine is None else machine
        self.listing = listing
        self.data = b""

    def call(self, verb, request):
        assert verb == "results"
        listing = self.listing
        if listing is None:
            listing = {}
            for name, data in self.files.items():
                listing[name] = [len(data), hashlib.sha256(data).hexdigest()]
        return {"files": listing, "machine": self.machine}

    @contextmanager
    def session(self, verb, request):
        assert verb == "fetch"
        self.data = b"".join(self.sent.get(name, b"") for name, _ in request["files"])
        yield self

    def read(self, size):
        data, self.data = self.data[:size], self.data[size:]
        if len(data) < size:
            raise LostError("cut off")
        return data


def receive(board, workspace, reporter=SILENT):
    return fetch(board, workspace, "w", {}, reporter)


def left(workspace):
    """All files below the folder of results."""
    found = []
    for parent, _, files in os.walk(workspace.root / "remote"):
        found += [str(Path(parent, name).relative_to(workspace.root)) for name in files]
    return sorted(found)


def engine(workspace, name="onnxruntime-fp32"):
    """The files of a real engine, by their names on a board."""
    files = {}
    for path in (workspace.engines / name).iterdir():
        files[f"engines/{name}/{path.name}"] = path.read_bytes()
    return files


def test_what_is_right_is_taken(workspace):
    board = Hostile({**engine(workspace), **CSV, "report.md": b"# Report\n"})
    assert receive(board, workspace).new == ("engines/onnxruntime-fp32", "predictions", "report")
    assert receive(board, workspace).new == ()
    assert not [name for name in left(workspace) if "/." in name]


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "predictions/../../x",
        "/etc/passwd",
        "predictions//x",
        "predictions/.hidden",
        ".lock",
        "model.onnx",
        "lpx.toml",
        "remote.json",
        "engines/x",
        "engines/../model.onnx",
        "predictions/a\nb",
        "predictions/a\x1b[2Jb",
        "predictions/con",
        "predictions/a\\b",
        "predictions/" + "x" * 300,
        "predictions",
        "",
        "report.json/x",
    ],
)
def test_names_that_are_refused(workspace, name):
    with pytest.raises(LpxError) as caught:
        receive(Hostile({**CSV, name: b"x"}), workspace)
    assert caught.value.code == "damaged"
    assert "\x1b" not in str(caught.value)
    assert left(workspace) == []
    assert not (workspace.root.parent / "x").exists()


@pytest.mark.parametrize(
    "listing",
    [
        [],
        "x",
        {"predictions/a": [1]},
        {"predictions/a": [-1, "0" * 64]},
        {"predictions/a": [1 << 60, "0" * 64]},
        {"predictions/a": ["1", "0" * 64]},
        {"predictions/a": [1, "0" * 63]},
        {"predictions/a": [1, "../" + "0" * 61]},
        {"predictions/a": [1, "0" * 64], "predictions/A": [1, "0" * 64]},
        {"predictions/a": [1, "0" * 64], "predictions/a/b": [1, "0" * 64]},
    ],
)
def test_listings_that_are_refused(workspace, listing):
    with pytest.raises(LpxError) as caught:
        receive(Hostile({}, listing=listing), workspace)
    assert caught.value.code == "damaged"
    assert left(workspace) == []


def test_a_listing_larger_than_the_disk(workspace):
    listing = {f"predictions/{number}": [4 << 30, "0" * 64] for number in range(60)}
    listing = {name: [size - 2, digest] for name, (size, digest) in listing.items()}
    with pytest.raises(LpxError) as caught:
        receive(Hostile({}, listing=listing), workspace)
    assert caught.value.code == "unwritable"
    assert left(workspace) == []


def test_other_bytes_than_announced(workspace):
    receive(Hostile(CSV), workspace)
    before = left(workspace)
    changed = {"predictions/scores.csv": b"file,other\n"}
    with pytest.raises(LpxError) as caught:
        receive(Hostile(changed, sent=CSV), workspace)
    assert caught.value.code == "damaged"
    assert "scores.csv" in caught.value.what
    assert left(workspace) == before
    path = results_folder(workspace, "board") / "predictions/scores.csv"
    assert path.read_bytes() == CSV["predictions/scores.csv"]


def test_a_connection_that_ends_early(workspace):
    with pytest.raises(LpxError) as caught:
        receive(Hostile(CSV, sent={"predictions/scores.csv": b"fi"}), workspace)
    assert caught.value.code == "unreachable"
    assert left(workspace) == []


def test_an_engine_that_its_manifest_does_not_describe(workspace):
    files = engine(workspace)
    files["engines/onnxruntime-fp32/engine.onnx"] += b"\0"
    with pytest.raises(LpxError) as caught:
        receive(Hostile(files), workspace)
    assert caught.value.code == "damaged"
    assert left(workspace) == []


def test_a_manifest_that_was_edited(workspace):
    files = engine(workspace)
    name = "engines/onnxruntime-fp32/manifest.json"
    files[name] = files[name].replace(b'"fp32"', b'"int8"')
    with pytest.raises(LpxError) as caught:
        receive(Hostile(files), workspace)
    assert caught.value.code == "damaged"
    assert left(workspace) == []


def test_an_engine_without_its_manifest(workspace):
    files = engine(workspace)
    del files["engines/onnxruntime-fp32/manifest.json"]
    with pytest.raises(LpxError):
        receive(Hostile(files), workspace)
    assert left(workspace) == []


def test_a_report_that_is_none(workspace):
    with pytest.raises(LpxError):
        receive(Hostile({"report.json": b"{}"}), workspace)
    assert left(workspace) == []


def test_a_link_here_is_replaced_and_not_followed(workspace, tmp_path):
    folder = results_folder(workspace, "board")
    folder.mkdir(parents=True)
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine")
    (folder / "report.md").symlink_to(mine)
    receive(Hostile({"report.md": b"theirs"}), workspace)
    assert mine.read_bytes() == b"mine"
    assert (folder / "report.md").read_bytes() == b"theirs"


def test_a_machine_with_strange_values(workspace):
    receive(Hostile(CSV, machine={"hostname": "\x1b[2J"}), workspace)
    text = (results_folder(workspace, "board") / "remote.json").read_text()
    assert json.loads(text)["board"]["hostname"] == "\x1b[2J"
    assert "\x1b" not in text
    with pytest.raises(LpxError):
        receive(Hostile(CSV, machine=[]), workspace)


def test_predictions_that_vanished_there_do_so_here(workspace):
    receive(Hostile({**CSV, "predictions/a.png": b"a"}), workspace)
    assert receive(Hostile(CSV), workspace).new == ("predictions",)
    assert "remote/board/predictions/a.png" not in left(workspace)


def test_the_record_lists_what_is_here(workspace):
    """One engine is refused: the others are taken, and the record is of these."""
    files = {**engine(workspace), **CSV}
    files["engines/onnxruntime-fp32/engine.onnx"] += b"\0"
    with pytest.raises(LpxError):
        receive(Hostile(files), workspace)
    record = results_folder(workspace, "board") / "remote.json"
    digest = hashlib.sha256(CSV["predictions/scores.csv"]).hexdigest()
    assert json.loads(record.read_text())["files"] == {"predictions/scores.csv": digest}
    receive(Hostile({**engine(workspace), **CSV}), workspace)
    assert set(json.loads(record.read_text())["files"]) == {*engine(workspace), *CSV}


def test_without_a_model(workspace):
    workspace.model.unlink()
    with pytest.raises(LpxError) as caught:
        receive(Hostile(CSV), workspace)
    assert caught.value.code == "not-found"


@pytest.mark.parametrize(
    ("host", "name"),
    [("u@jetson", "u@jetson"), ("[fe80::1%eth0]", "_fe80__1_eth0_"), ("a.b", "a.b")],
)
def test_folder_names(host, name):
    assert folder_name(host) == name


def test_a_search_comes_back_without_what_it_keeps_for_its_next_run(tmp_path, monkeypatch):
    root = tmp_path / "work" / "w" / "lpx-out"
    here = ("search/plan.json", "sensitivity/sensitivity.json", "engines/e/manifest.json")
    there = ("search/engines/int8-1/manifest.json", "search/shifts/all/a", "sensitivity/shifts/b")
    for name in (*here, *there):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"1")
    answers = []
    monkeypatch.setattr(agent_results, "answer", lambda request, values: answers.append(values))
    agent_results.results(str(tmp_path), {"work": "w"}, io.BytesIO())
    assert sorted(answers[0]["files"]) == sorted(here)
