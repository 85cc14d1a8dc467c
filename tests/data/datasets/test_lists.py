from __future__ import annotations

import json
import os
from pathlib import PurePosixPath

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lpx.data.datasets.adapter import choose_methods, index_folders, index_videos, name_of
from lpx.data.datasets.lists import (
    read_csv,
    read_json,
    read_json_table,
    read_lines,
    read_text,
    relative_path,
)
from lpx.errors import LpxError
from tests.data.trees import touch, write

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16")
HERE = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_lines_are_the_same_in_any_encoding_and_line_end(tmp_path, encoding, end):
    path = tmp_path / "list.txt"
    path.write_bytes(end.join(["erste", "", "  zwölf.mp4 ", "Größe 3"]).encode(encoding))
    assert read_lines(path) == [(1, "erste"), (3, "zwölf.mp4"), (4, "Größe 3")]


@HERE
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | TEXTS,
        lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
        max_leaves=8,
    ),
    encoding=st.sampled_from(ENCODINGS),
    indent=st.sampled_from([None, 2]),
)
def test_json_is_the_same_in_any_encoding_and_line_end(tmp_path, value, encoding, indent):
    path = tmp_path / "list.json"
    text = json.dumps(value, indent=indent).replace("\n", "\r\n")
    path.write_bytes(text.encode(encoding))
    assert read_json(path) == value


@pytest.mark.parametrize("data", [b"", b"{", b"<html>", b"[1, 2", b"[" * 100_000, b"\x00\x01"])
def test_what_is_not_json_is_named(tmp_path, data):
    path = tmp_path / "list.json"
    path.write_bytes(data)
    with pytest.raises(LpxError, match=r"list\.json is not JSON"):
        read_json(path)


def test_a_name_that_stands_twice_is_refused(tmp_path):
    path = write(tmp_path / "metadata.json", '{"a.mp4": {"label": "FAKE"}, "a.mp4": {}}')
    with pytest.raises(LpxError, match=r"metadata\.json is not JSON(.|\n)*'a\.mp4' occurs twice"):
        read_json(path)


def test_another_encoding_is_named(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes("Größe".encode("latin-1"))
    with pytest.raises(LpxError, match="not text in UTF-8"):
        read_text(path)


def test_a_list_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(LpxError, match="cannot be read"):
        read_text(tmp_path)


@pytest.mark.parametrize("value", [[], 3, {"a": 1}, {"a": {}, "b": []}])
def test_a_table_holds_objects(tmp_path, value):
    with pytest.raises(LpxError, match=r"table\.json"):
        read_json_table(write(tmp_path / "table.json", value))


def test_csv_rows_know_their_lines(tmp_path):
    path = write(tmp_path / "labels.csv", "\ufefflabel,more,filename\r\n1,x,a.mp4\r\n0,y,b.mp4\r\n")
    assert read_csv(path, ("filename", "label")) == [(2, ("a.mp4", "1")), (3, ("b.mp4", "0"))]


def test_csv_rows_are_the_same_however_they_are_separated(tmp_path):
    for mark in ";\t|":
        text = f"label{mark}filename\n1{mark}a, b.mp4\n"
        path = write(tmp_path / "labels.csv", text)
        assert read_csv(path, ("filename", "label")) == [(2, ("a, b.mp4", "1"))]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a.mp4,1\n", "no column filename, label"),
        ("", "no column filename, label"),
        ("filename,label\na.mp4,1\nb.mp4\n", "line 3 has 1 cell for 2 columns"),
        ("filename,label\n,1\n", "line 2"),
    ],
)
def test_csv_without_columns_or_fields(tmp_path, text, what):
    with pytest.raises(LpxError, match=what):
        read_csv(write(tmp_path / "labels.csv", text), ("filename", "label"))


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("a/b.png", "a/b.png"),
        (r"a\b\c.png", "a/b/c.png"),
        (r".\a\b.png", "a/b.png"),
        (r"F:\data\a.png", "data/a.png"),
        ("d:/data/a.png", "data/a.png"),
        ("  ünï/é.png ", "ünï/é.png"),
        ("a/..b/c..png", "a/..b/c..png"),
        ("/home/me/data/a.png", "home/me/data/a.png"),
        (r"\\server\share\data\a.png", "data/a.png"),
        ("//server/share/data/a.png", "data/a.png"),
        (r"\\?\C:\data\a.png", "data/a.png"),
    ],
)
def test_paths_of_lists(text, path):
    assert relative_path(text, "list") == PurePosixPath(path)


@pytest.mark.parametrize(
    "text",
    [
        "../a.png",
        "a/../../b.png",
        r"a\..\..\b.png",
        "/../a.png",
        r"\\server\share\..\a.png",
        r"C:\..\a.png",
        "..",
        "a\0b",
    ],
)
def test_paths_that_leave_the_root_are_refused_and_named(text):
    with pytest.raises(LpxError, match="leaves the data set's folder") as caught:
        relative_path(text, "list.json: x")
    assert repr(text) in str(caught.value)
    assert "list.json: x" in str(caught.value)


@pytest.mark.parametrize("text", ["", " ", ".", "C:"])
def test_paths_that_name_nothing_are_refused(text):
    with pytest.raises(LpxError, match="empty path"):
        relative_path(text, "list")


@given(st.text(alphabet="ab./\\:C \0", max_size=12))
def test_no_path_of_a_list_ever_leaves_the_root(text):
    try:
        path = relative_path(text, "list")
    except LpxError:
        return
    assert os.path.normpath(f"/base/{path}").startswith("/base/")


def test_videos_are_found_below_a_folder_and_behind_links(tmp_path_factory):
    tmp_path, elsewhere = tmp_path_factory.mktemp("set"), tmp_path_factory.mktemp("disk")
    touch(tmp_path, "b/y.MP4", "a/x.mp4", "a/.hidden.mp4", "a/x.txt", "a/more/z.avi", "b/x.mp4")
    touch(tmp_path, ".trash/gone.mp4", "@eaDir/thumb.mp4")
    touch(elsewhere, "far.wmv")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "b" / "disk").symlink_to(elsewhere)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    found = index_videos(tmp_path)
    assert {stem: str(path.relative_to(tmp_path)) for stem, path in found.items()} == {
        "x": "a/x.mp4",
        "z": "a/more/z.avi",
        "y": "b/y.MP4",
        "far": "b/disk/far.wmv",
    }
    assert list(index_folders(tmp_path)) == ["a", "b"]
    assert index_videos(tmp_path / "no") == index_folders(tmp_path / "no") == {}
    assert index_videos(tmp_path / "self") == index_folders(tmp_path / "self") == {}


@pytest.mark.parametrize("index", [index_videos, index_folders])
def test_a_folder_without_the_right_to_read_is_named(tmp_path, monkeypatch, index):
    # As a folder of mode 000 answers, which it does not to root.
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(LpxError, match=f"{tmp_path} cannot be read"):
        index(tmp_path)


def test_accents_are_found_however_they_are_written(tmp_path):
    touch(tmp_path, "e\u0301te\u0301.mp4")
    assert list(index_videos(tmp_path)) == ["\u00e9t\u00e9"]


def test_names_of_another_encoding_stay_apart_and_printable(tmp_path):
    names = [name_of(tmp_path / os.fsdecode(raw), tmp_path) for raw in (b"\xff.mp4", b"\xfe.mp4")]
    assert names == [r"\xff", r"\xfe"]


def test_only_the_suffix_of_a_video_is_no_part_of_its_name(tmp_path):
    assert name_of(tmp_path / "a" / "b.c.mp4", tmp_path) == "a/b.c"
    assert name_of(tmp_path / "images" / "b.c", tmp_path) == "images/b.c"


def test_methods_are_chosen_in_any_case_and_in_the_order_of_the_set():
    known = ("Alpha", "Beta", "Gamma")
    assert choose_methods((), known) == known
    assert choose_methods((), known, ("Gamma", "Alpha")) == ("Alpha", "Gamma")
    assert choose_methods(("gamma", "ALPHA", "Gamma"), known) == ("Alpha", "Gamma")
    with pytest.raises(LpxError, match="unknown method 'Betta'") as caught:
        choose_methods(("Betta",), known)
    assert "did you mean Beta? this set has: Alpha, Beta, Gamma" in str(caught.value)
