from __future__ import annotations

import errno
import hashlib
import math
import os
import shutil
import signal
import stat
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lpx import Workspace, interrupts
from lpx.errors import LpxError
from lpx.swap import swap
from lpx.workspace import (
    Appended,
    NoLocksError,
    atomic_path,
    check_writable,
    locked,
    no_follow,
    read_json,
    read_regular,
    read_sealed,
    sha256,
    write_bytes,
    write_json,
    write_sealed,
)


class InterruptedWriteError(Exception):
    """What a block raises in the middle of writing."""


def test_file_appears_whole_when_the_block_ends(tmp_path):
    target = tmp_path / "new" / "folder" / "model.onnx"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent
        temporary.write_bytes(b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole"
    assert os.listdir(target.parent) == ["model.onnx"]


@pytest.mark.parametrize("error", [InterruptedWriteError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("before", [None, b"old"])
def test_nothing_half_written_is_left_when_the_block_raises(tmp_path, error, before):
    target = tmp_path / "model.onnx"
    if before is not None:
        target.write_bytes(before)

    def write():
        with atomic_path(target) as temporary:
            temporary.write_bytes(b"ha")
            raise error

    with pytest.raises(error):
        write()
    assert os.listdir(tmp_path) == ([] if before is None else ["model.onnx"])
    assert before is None or target.read_bytes() == before


def test_block_that_cannot_write_is_a_users_error(tmp_path):
    def write():
        with atomic_path(tmp_path / "model.onnx"):
            raise OSError(28, "No space left on device")

    with pytest.raises(LpxError, match="No space left on device"):
        write()
    assert os.listdir(tmp_path) == []


def test_reader_sees_the_old_file_or_the_new_one(tmp_path):
    target = tmp_path / "scales.json"
    write_bytes(target, b"old")
    with target.open("rb") as reader:
        write_bytes(target, b"new")
        assert reader.read() == b"old"
    assert target.read_bytes() == b"new"


def test_file_has_the_users_permissions_not_a_temporary_files(tmp_path):
    mask = os.umask(0o027)
    try:
        write_bytes(tmp_path / "shared", b"")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o640


def under_a_file(tmp_path):
    """A path that not even root can write: its parent is a file."""
    (tmp_path / "file").write_bytes(b"")
    return tmp_path / "file" / "workspace"


def test_unwritable_folder(tmp_path):
    folder = under_a_file(tmp_path)
    with pytest.raises(LpxError, match=r"workspace cannot be written") as caught:
        write_bytes(folder / "model.onnx", b"")
    assert "use another folder" in caught.value.fix
    assert caught.value.code == "unwritable"
    with pytest.raises(LpxError, match="cannot be written"), Workspace(folder).lock():
        pytest.fail("the lock is held in a folder that does not exist")


def test_target_that_is_a_folder(tmp_path):
    (tmp_path / "model.onnx").mkdir()
    with pytest.raises(LpxError, match="cannot be written"):
        write_bytes(tmp_path / "model.onnx", b"data")
    assert os.listdir(tmp_path) == ["model.onnx"]


def test_json_round_trip(tmp_path):
    value = {"name": "Grüße", "list": [1, 2.5, None], "deep": {"a": True}}
    write_json(tmp_path / "m.json", value)
    assert read_json(tmp_path / "m.json", "lpx build") == value
    assert (tmp_path / "m.json").read_text(encoding="utf-8").endswith("}\n")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_has_no_nan(tmp_path, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "m.json", {"auc": value})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "does not exist"),
        (b"", "cannot be read"),
        (b'{"a": ', "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"[1, 2]", "is not a manifest"),
        (b"3", "is not a manifest"),
    ],
    ids=["missing", "empty", "truncated", "binary", "list", "number"],
)
def test_damaged_manifest(tmp_path, data, said):
    if data is not None:
        (tmp_path / "m.json").write_bytes(data)
    with pytest.raises(LpxError, match=said) as caught:
        read_json(tmp_path / "m.json", "lpx build --int8")
    assert "`lpx build --int8`" in caught.value.fix


def test_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
    # Longer than what is read at a time.
    data = os.urandom((2 << 20) + 7)
    (tmp_path / "large").write_bytes(data)
    assert sha256(tmp_path / "large") == hashlib.sha256(data).hexdigest()


HOLD = """
import os, sys
from dataclasses import dataclass, field
from pathlib import Path
from lpx import Workspace
with Workspace(Path(sys.argv[1])).lock():
    print(os.getpid(), flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the workspace until it is told, or made, to end."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    with process:
        assert int(process.stdout.readline()) == process.pid
        yield process
        process.kill()


def test_lock_refuses_a_second_process_and_names_the_first(tmp_path, holder):
    with pytest.raises(LpxError) as caught, Workspace(tmp_path).lock():
        pytest.fail("two processes hold the workspace")
    assert caught.value.what.endswith(f"is in use by process {holder.pid}")
    assert str(tmp_path) in caught.value.what


@pytest.mark.parametrize("end", ["ends", "killed"])
def test_lock_is_free_again_when_its_holder_is_gone(tmp_path, holder, end):
    if end == "ends":
        holder.stdin.write("\n")
        holder.stdin.flush()
    else:
        holder.kill()
    holder.wait(timeout=20)
    with Workspace(tmp_path).lock():
        # Whoever comes now is told of this process, not of the one before.
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"


def test_lock_is_free_again_after_an_error(tmp_path):
    workspace = Workspace(tmp_path / "new")

    def work():
        with workspace.lock():
            raise InterruptedWriteError

    with pytest.raises(InterruptedWriteError):
        work()
    said = f"in use by process {os.getpid()}"
    with workspace.lock(), pytest.raises(LpxError, match=said), workspace.lock():
        pytest.fail("the workspace is held twice")


def test_reading_does_not_make_the_workspace(tmp_path):
    workspace = Workspace(tmp_path / "new")
    paths = (workspace.model, workspace.reference, workspace.engines, workspace.scales)
    assert all(path.parent == workspace.root for path in paths)
    assert len(set(paths)) == 4
    assert os.listdir(tmp_path) == []


def test_lock_that_is_a_link_does_not_empty_what_it_names(tmp_path):
    victim = tmp_path / "notes.txt"
    victim.write_text("years of work")
    (tmp_path / "lpx-out").mkdir()
    (tmp_path / "lpx-out/.lock").symlink_to(victim)
    workspace = Workspace(tmp_path / "lpx-out")
    with pytest.raises(LpxError, match=r"\.lock is a symbolic link"), workspace.lock():
        pass
    assert victim.read_text() == "years of work"


def test_lock_with_another_name_is_held_but_not_written(tmp_path):
    victim = tmp_path / "notes.txt"
    victim.write_text("years of work")
    (tmp_path / ".lock").hardlink_to(victim)
    first, second = Workspace(tmp_path), Workspace(tmp_path)
    with first.lock(), pytest.raises(LpxError, match="is in use"), second.lock():
        pass
    assert victim.read_text() == "years of work"


def test_a_file_system_without_locks_is_a_users_error(tmp_path):
    """Not an internal error: Lustre and BeeGFS are often mounted without locks."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    with pytest.raises(NoLocksError) as caught, locked(tmp_path, "workspace", "", flock=refuse):
        raise AssertionError("it must not be taken for locked")
    assert caught.value.code == "unwritable"
    assert f"{tmp_path} has no locks" in caught.value.what


def test_lock_that_is_a_pipe_does_not_keep_lpx_waiting(tmp_path):
    os.mkfifo(tmp_path / ".lock")
    with pytest.raises(LpxError, match="cannot be written"), Workspace(tmp_path).lock():
        pass


def test_pipe_in_place_of_a_manifest_does_not_keep_lpx_waiting(tmp_path):
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(LpxError, match="cannot be read") as caught:
        read_json(tmp_path / "manifest.json", "lpx build")
    assert caught.value.why == "it is not a regular file"


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": 1, "a": 2}', "[" * 100_000, '{"a": 1e999}'])
def test_json_that_no_command_wrote(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(LpxError, match="cannot be read"):
        read_json(tmp_path / "manifest.json", "lpx build")


def test_file_outside_its_folder_is_not_read(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (inside / "link").symlink_to(tmp_path / "secret")
    (inside / "file").write_bytes(b"plain")
    (inside / "own").symlink_to("file")
    assert read_regular(inside / "own", inside=inside) == b"plain"
    for name in ("link", "../secret", str(tmp_path / "secret")):
        with pytest.raises(OSError, match="outside"):
            read_regular(inside / name, inside=inside)
    with pytest.raises(OSError, match="the limit is 4"):
        read_regular(inside / "file", limit=4)


def test_progress_is_not_written_through_links(tmp_path):
    victim = tmp_path / "notes.txt"
    victim.write_text("years of work")
    (tmp_path / "results.jsonl").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        no_follow(str(tmp_path / "results.jsonl"), os.O_WRONLY | os.O_APPEND)
    assert victim.read_text() == "years of work"


@dataclass
class Disk:
    """What is synced to the disk.

    Attributes:
        synced: Path of each file or folder, in order, with the names in its folder then.
        error: Number of the error that syncing raises, if any.
    """

    synced: list[tuple[Path, set[str]]] = field(default_factory=list)
    error: int | None = None

    def sync(self, handle):
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        self.synced.append((path, set(os.listdir(path if path.is_dir() else path.parent))))


@pytest.fixture
def disk(monkeypatch):
    """A disk whose syncing is watched: nothing else shows that it was done."""
    watched = Disk()
    monkeypatch.setattr(os, "fsync", watched.sync)
    return watched


def test_a_result_is_on_the_disk_before_and_after_it_gets_its_name(tmp_path, disk):
    write_sealed(tmp_path / "m.json", {"a": 1})
    (content, names), after = disk.synced
    assert content.parent == tmp_path
    assert content.name.startswith(".m.")
    assert names == {content.name}
    assert after == (tmp_path, {"m.json"})
    disk.synced.clear()
    write_bytes(tmp_path / "overlay.png", b"x", durable=False)
    assert (tmp_path / "overlay.png").read_bytes() == b"x"
    assert disk.synced == []


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync(tmp_path, disk, number):
    disk.error = number
    write_bytes(tmp_path / "a", b"x")
    Appended(tmp_path / "b").add(b"x")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == b"x"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fails_at_the_end_leaves_the_old_file(tmp_path, disk, number):
    write_bytes(tmp_path / "a", b"old")
    disk.error = number
    with pytest.raises(LpxError, match="cannot be written") as error:
        write_bytes(tmp_path / "a", b"new")
    assert error.value.why == os.strerror(number)
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    with pytest.raises(LpxError, match="cannot be written"):
        Appended(tmp_path / "b").add(b"x")


def test_a_journal_is_synced_each_second(tmp_path, disk):
    now = [100.0]
    path = tmp_path / "new" / "j"
    journal = Appended(path, clock=lambda: now[0])
    for _ in range(100):
        journal.add(b"line\n")
    assert disk.synced == [(path, {"j"}), (path.parent, {"j"})]
    now[0] += 1.5
    journal.add(b"line\n")
    assert disk.synced[2:] == [(path, {"j"})]
    assert path.read_bytes() == b"line\n" * 101


def test_sealed_json(tmp_path):
    path = tmp_path / "m.json"
    write_sealed(path, {"low": 0.25, "name": "a"})
    assert read_sealed(path, "lpx build") == {"low": 0.25, "name": "a"}
    path.write_text(path.read_text().replace("0.25", "0.26"))
    with pytest.raises(LpxError, match="is not as lpx wrote it") as error:
        read_sealed(path, "lpx build")
    assert "checksum does not match" in error.value.why
    assert error.value.fix == "run `lpx build` again"
    write_json(path, {"low": 0.25})
    with pytest.raises(LpxError, match="is not as lpx wrote it"):
        read_sealed(path, "lpx build")


def test_places_that_cannot_be_written_are_found_beforehand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_writable(tmp_path / "new" / "deep", "a.csv")
    assert not os.listdir()
    (tmp_path / "file").touch()
    (tmp_path / "there" / "a.csv").mkdir(parents=True)
    os.symlink("nowhere", "broken")
    os.symlink("circle", "circle")
    for place in ("file", "file/below", "there", "broken", "circle", "n" * 300, "circle/x"):
        with pytest.raises(LpxError, match="cannot be written"):
            check_writable(Path(place), "a.csv")


@pytest.mark.parametrize(
    "line",
    [
        ["bench", "--dataset", "demo"],
        ["predict", "--crops", "crops/real"],
        ["explain", "ckpt.pt", "crops/real", "--out", "lpx-out/predictions"],
    ],
)
def test_results_that_cannot_be_written_are_not_computed(lpx, workspace, crops, line):
    # Work that begins ends in another error: the models cannot be loaded, nor the faces read.
    shutil.move(workspace.reference, "ckpt.pt")
    for path in (*workspace.engines.glob("*/engine.onnx"), *crops.glob("*/*.png")):
        path.write_bytes(b"")
    workspace.predictions.mkdir()
    for name in ("report.json", "predictions/scores.csv", "predictions/index.html"):
        (workspace.root / name).mkdir()
    ran = lpx(*line)
    assert ran.code == 2, ran.err
    assert "in it is a folder, not a file" in ran.err


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_signal_waits_until_both_folders_are_in_place(tmp_path, number):
    """Between the renames the folder is missing, and what unwinds would remove the other one."""
    new, old = tmp_path / "new", tmp_path / "old"
    for folder in (new, old):
        folder.mkdir()
        (folder / "name").write_text(folder.name)
    renamed = []

    def rename(source, target):
        os.rename(source, target)
        renamed.append(target)
        if len(renamed) == number:
            # Not SIGINT, which stays ignored where tests run in the background.
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(interrupts.Interrupted), interrupts.handled():
        swap(new, old, at_once=False, rename=rename)
    assert (old / "name").read_text() == "new"
    assert (new / "name").read_text() == "old"


def test_a_folder_that_cannot_be_moved_stays(tmp_path):
    (tmp_path / "old").mkdir()
    with pytest.raises(OSError, match="new"):
        swap(tmp_path / "new", tmp_path / "old", at_once=False)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
