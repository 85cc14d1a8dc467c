"""Parts are checked to be those of one whole before any of them is used."""

from __future__ import annotations

import errno
import json
import resource
import shutil
from dataclasses import asdict
from functools import partial

import pytest

from lpx.errors import LpxError
from lpx.reporter import SILENT
from lpx.schema import MAX_INTEGER
from lpx.shards import part as part_module
from lpx.shards.join import open_whole
from lpx.shards.part import FILE, FORMAT, PartFile, PartManifest, open_part, read_part
from lpx.shards.shard import Shard
from lpx.workspace import locked, write_bytes, write_sealed
from tests.support.reporting import RecordingReporter

KEY = {"model": "a" * 64, "faces": "b" * 64, "versions": {"lpx": "1"}, "options": {"limit": 4}}


def make(folder, shard, *, kind="calibrate", key=KEY, data=b"payload"):
    with open_part(folder, kind, shard, key, SILENT) as work:
        write_bytes(folder / "payload", data)
        work.seal(["payload"], {"seconds": 1.0})
    return folder


def made(base, count):
    return [make(base / Shard(i, count).folder_name, Shard(i, count)) for i in range(count)]


def refusal(folders):
    with pytest.raises(LpxError) as caught:
        open_whole(folders)
    return caught.value


def test_parts_come_in_the_order_of_their_shards(tmp_path):
    folders = made(tmp_path, 3)
    for given in (folders[::-1], [tmp_path], [folders[2], *folders[:2]]):
        whole = open_whole(given)
        assert [part.manifest.index for part in whole.parts] == [0, 1, 2]
        assert whole.key == KEY
        assert whole.machine_note() == ""


def test_missing_parts_are_named(tmp_path):
    folders = made(tmp_path, 13)
    error = refusal(folders[:5] + folders[6:])
    assert error.what == "1 part of 13 is missing: 5/13"
    assert error.code == "not-found"
    assert "`lpx calibrate ... --shard 5/13`" in error.fix
    error = refusal(folders[:1])
    assert "12 parts of 13 are missing: 1/13, 2/13" in error.what
    assert error.what.endswith("10/13 and 2 more")


def test_a_part_that_is_given_twice(tmp_path):
    folders = made(tmp_path, 2)
    error = refusal([*folders, tmp_path / "." / "1-of-2"])
    assert error.what == "part 1/2 is given twice"
    shutil.copytree(folders[1], tmp_path / "copy")
    error = refusal([*folders, tmp_path / "copy"])
    assert error.what == "part 1/2 is given twice"
    assert str(tmp_path / "copy") in error.why


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"kind": "bench"}, "the first is of `lpx calibrate`, the second of `lpx bench`"),
        ({"shard": Shard(1, 3)}, "the first is one of 2, the second one of 3"),
        ({"key": KEY | {"model": "c"}}, "another model"),
        ({"key": KEY | {"faces": "c"}}, "another list of faces"),
        ({"key": KEY | {"versions": {"lpx": "2"}}}, "lpx 2, not 1"),
        ({"key": KEY | {"options": {"limit": 4, "seed": 1}}}, "seed 1, not None"),
        ({"key": KEY | {"more": "x" * 1000}}, "more xxx"),
    ],
)
def test_parts_of_different_wholes_are_both_named(tmp_path, changed, why):
    one = make(tmp_path / "one", Shard(0, 2))
    other = make(tmp_path / "other", changed.pop("shard", Shard(1, 2)), **changed)
    error = refusal([one, other])
    assert "do not belong together" in error.what
    assert str(one) in error.what
    assert str(other) in error.what
    assert why in error.why
    assert len(error.why) < 300


@pytest.mark.parametrize("change", ["cut", "grown", "gone"])
def test_a_payload_of_another_size_is_found_before_anything_is_read(tmp_path, change):
    folders = made(tmp_path, 2)
    path = folders[1] / "payload"
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes(b"payload more" if change == "grown" else b"pay")
    error = refusal(folders)
    assert error.code == "damaged"
    assert "part 1/2" in error.what


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"{}", b'{"format": "lpx-part/1"}', b"\xff\xfe", None]
)
def test_a_manifest_that_is_damaged(tmp_path, text):
    folders = made(tmp_path, 1)
    path = folders[0] / FILE
    path.write_bytes(path.read_bytes()[:-20] if text is None else text)
    assert refusal(folders).code == "damaged"


@pytest.mark.parametrize(
    "changed",
    [
        {"count": 0},
        {"index": -1},
        {"index": 2},
        {"count": MAX_INTEGER},
        {"files": [{"name": "../x", "size": 1, "sha256": ""}]},
        {"files": [{"name": "/etc/passwd", "size": 1, "sha256": ""}]},
        {"files": [{"name": "", "size": 1, "sha256": ""}]},
        {"files": [{"name": "x", "size": -1, "sha256": ""}]},
        {"kind": "train"},
    ],
)
def test_a_manifest_with_values_that_no_shard_writes(tmp_path, changed):
    values = asdict(PartManifest(FORMAT, "bench", 0, 2, KEY)) | changed
    write_sealed(tmp_path / FILE, values)
    with pytest.raises(LpxError) as caught:
        read_part(tmp_path)
    assert caught.value.code == "damaged"


def test_what_is_no_part(tmp_path):
    assert refusal([tmp_path]).code == "not-found"
    assert refusal([tmp_path / "nowhere"]).code == "not-found"
    (tmp_path / "file").write_text("x")
    assert refusal([tmp_path / "file"]).code == "not-found"
    assert "no part" in refusal([]).what


def test_a_link_out_of_the_part_is_not_followed(tmp_path):
    folder = make(tmp_path / "part", Shard(0, 1))
    (folder / "payload").rename(tmp_path / "payload")
    (folder / "payload").symlink_to(tmp_path / "payload")
    whole = open_whole([folder])
    part = whole.parts[0]
    with pytest.raises(LpxError, match="damaged"):
        part_module.read_payload(part.folder, part.manifest, part.file("payload"), lambda _: None)


def test_unlike_machines_are_noted(tmp_path):
    folders = made(tmp_path, 2)
    values = json.loads((folders[1] / FILE).read_text())
    del values["checksum"]
    values["about"]["machine"] = "another one"
    write_sealed(folders[1] / FILE, values)
    assert "2 kinds of machines" in open_whole(folders).machine_note()


def test_a_folder_with_other_things_is_not_taken(tmp_path):
    (tmp_path / "thesis.pdf").write_text("x")
    with pytest.raises(LpxError, match="is not empty") as caught:
        make(tmp_path, Shard(0, 1))
    assert "thesis.pdf" in caught.value.why
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "thesis.pdf"]


def test_two_processes_do_not_work_on_one_part(tmp_path):
    with locked(tmp_path / "part", "part", ""), pytest.raises(LpxError) as caught:
        make(tmp_path / "part", Shard(0, 1))
    assert caught.value.code == "in-use"


def test_a_file_system_without_locks_is_warned_of(tmp_path):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    reporter = RecordingReporter()
    lock = partial(locked, flock=refuse)
    with open_part(tmp_path / "part", "bench", Shard(0, 1), KEY, reporter, lock=lock):
        pass
    assert "has no locks" in reporter.said[0]


def test_many_parts_with_long_keys_take_little_memory(tmp_path):
    """Each names the videos that are missing: hundreds of equal lists must not be kept."""
    key = KEY | {"missing": [f"some/long/name/of/a/video/{n}" for n in range(1000)]}
    file = PartFile("payload", 0, "0" * 64)
    for index in range(400):
        folder = tmp_path / Shard(index, 400).folder_name
        folder.mkdir()
        (folder / "payload").touch()
        part = PartManifest(FORMAT, "bench", index, 400, key, True, {"machine": "m"}, (file,))
        text = json.dumps(part_module.sealed(asdict(part)))
        (folder / FILE).write_text(text)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(open_whole([tmp_path]).parts) == 400
    # The lists alone would be 40 MB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 << 10
