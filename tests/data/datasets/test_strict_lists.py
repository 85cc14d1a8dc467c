"""Lists of data sets, tables and settings as nobody should write them."""

from __future__ import annotations

import json
import os

import pytest

from lpx.data import text_table
from lpx.data.datasets import dfdcp
from lpx.data.datasets.deepfakebench import frame_number
from lpx.data.datasets.lists import read_csv, read_json
from lpx.data.prepare.record import VideoRecord
from lpx.data.roots import data_roots
from lpx.errors import LpxError
from lpx.schema import SchemaError


@pytest.mark.parametrize(
    "text",
    [
        '{"a": NaN}',
        '{"a": 1e999}',
        f'{{"a": {"9" * 5000}}}',
        '{"a\\u0000": 1}',
        '{"\\ud800": 1}',
        "[" * 40 + "]" * 40,
        '{"a": 1, "a": 2}',
    ],
)
def test_json_that_python_would_take(tmp_path, text):
    path = tmp_path / "list.json"
    path.write_text(text)
    with pytest.raises(LpxError, match=r"list\.json is not JSON"):
        read_json(path)


@pytest.mark.parametrize(
    "entry",
    [
        {"label": [], "set": "test"},
        {"label": {}, "set": "test"},
        {"label": "fake", "set": []},
        {"label": "real", "set": "test", "target_id": [1]},
    ],
)
def test_entries_of_the_wrong_type(tmp_path, entry):
    (tmp_path / dfdcp.LIST).write_text(json.dumps({"original_videos/1/a.mp4": entry}))
    with pytest.raises(LpxError, match=r"copy the list again"):
        dfdcp._video(tmp_path, "original_videos/1/a.mp4", entry)


def test_frames_of_any_number_have_one_that_fits():
    assert [frame_number(stem) for stem in ("12", "x", "9" * 9)] == [12, -1, 999_999_999]
    assert frame_number("9" * 5000) == frame_number("2147483648") == -1


def test_tables_of_one_line_or_of_too_many_bytes(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("filename,label\na.mp4,1\n" + "," * (text_table.MAX_LINE_CHARACTERS + 1))
    with pytest.raises(LpxError, match=r"line 3 has 1048577 characters"):
        read_csv(path, ("filename", "label"))
    with pytest.raises(LpxError, match=r"the limit is 1000"):
        text_table.read_table(path, {"filename": ()}, advice="", max_bytes=1000)


def test_a_pipe_keeps_nobody_waiting(tmp_path):
    os.mkfifo(tmp_path / "labels.csv")
    with pytest.raises(LpxError, match="not a regular file"):
        read_csv(tmp_path / "labels.csv", ("filename", "label"))
    with pytest.raises(LpxError, match="not a regular file"):
        read_json(tmp_path / "labels.csv")


@pytest.mark.parametrize(
    "text",
    [
        'data = {a = "b"}',
        '[data]\nroot = "a\\u0000b"',
        "[data]\nroot = 1",
        "x = " + "[" * 5000,
        f"x = {'9' * 5000}",
        "[data]\nroot = 1979-05-27",
    ],
)
def test_settings_that_are_none(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LPX_DATA", raising=False)
    (tmp_path / "lpx.toml").write_text(text)
    with pytest.raises(LpxError, match=r"lpx\.toml"):
        data_roots()


RECORD = {
    "video": "a",
    "label": 1,
    "method": "x",
    "identities": ["1"],
    "split": "test",
    "source_sha256": "ab" * 32,
    "faces": [[0, 10, 10, 99]],
    "skipped": [[None, "why"]],
    "note": "",
    "rule": "largest",
    "several": 0,
}


@pytest.mark.parametrize(
    "change",
    [
        {"label": 2},
        {"label": True},
        {"faces": [[0, 10, 10]]},
        {"faces": [[0, -1, 10, 9]]},
        {"faces": [[0, 2**40, 10, 9]]},
        {"skipped": ["x"]},
        {"video": 3},
        {"more": 1},
    ],
)
def test_records_of_a_journal(change):
    assert VideoRecord.from_dict(RECORD).to_dict()["faces"] == RECORD["faces"]
    with pytest.raises(SchemaError):
        VideoRecord.from_dict({**RECORD, **change})
