import hashlib
import os
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from lpx.data import contents
from lpx.data.contents import UNREADABLE, ContentCache, file_digests

OLD = 1_600_000_000.123_456_789


def of(data):
    return hashlib.sha256(data).digest()


def settled_cache(path, **options):
    """A cache for which files that were just written are old: nobody changes them within a tick."""
    return ContentCache(path, settled_seconds=-3600.0, **options)


@pytest.fixture
def cache(tmp_path):
    with settled_cache(tmp_path / "cache" / "contents.sqlite3") as opened:
        yield opened


def replaced(path, data):
    """Replace what a file holds by as many bytes, and set the time of its change back."""
    before = path.stat()
    assert before.st_size == len(data)
    time.sleep(0.02)
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_what_has_not_changed_is_not_read_again(tmp_path, cache):
    paths = [tmp_path / f"{i}.bmp" for i in range(1500)]
    for number, path in enumerate(paths):
        path.write_bytes(b"%d" % number)
    raw = [os.fsencode(path) for path in paths]
    wanted = [of(b"%d" % number) for number in range(1500)]
    assert [bytes(one) for one in cache.digests(raw)] == wanted
    assert cache.read == 1500
    assert [bytes(one) for one in cache.digests(raw)] == wanted
    assert cache.read == 1500
    paths[7].write_bytes(b"x")
    assert bytes(cache.digests(raw)[7]) == of(b"x")
    assert cache.read == 1501


@pytest.mark.parametrize("how", ["in place", "renamed over", "through a link", "link turned"])
def test_same_size_and_time_but_other_content(tmp_path, cache, how):
    path, other = tmp_path / "a.bmp", tmp_path / "b.bmp"
    path.write_bytes(b"old picture")
    other.write_bytes(b"new picture")
    asked = path
    if how in ("through a link", "link turned"):
        asked = tmp_path / "link.bmp"
        asked.symlink_to(path)
    assert cache.digest(asked) == of(b"old picture")
    status = path.stat()
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    if how == "renamed over":
        other.replace(path)
    elif how == "link turned":
        asked.unlink()
        asked.symlink_to(other)
    else:
        replaced(path, b"new picture")
    assert cache.digest(asked) == of(b"new picture")


def test_a_hard_link_changes_with_its_file(tmp_path, cache):
    path, link = tmp_path / "a.png", tmp_path / "b.png"
    path.write_bytes(b"one")
    os.link(path, link)
    assert cache.digest(link) == of(b"one")
    replaced(path, b"two")
    assert cache.digest(link) == of(b"two")


def test_the_same_name_in_another_folder(tmp_path, cache, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(name.encode())
        monkeypatch.chdir(tmp_path / name)
        assert [bytes(one) for one in cache.digests([b"0.png"])] == [of(name.encode())]


def test_what_changed_a_moment_ago_is_not_remembered(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"a")
    with ContentCache(tmp_path / "contents.sqlite3") as cache:
        assert cache.digest(path) == cache.digest(path) == of(b"a")
        assert cache.read == 2
        # A restored time of change does not make it old: its inode has just changed.
        os.utime(path, (OLD, OLD))
        cache.digest(path)
        cache.digest(path)
        assert cache.read == 4


def test_a_file_system_with_coarse_times_is_not_relied_on(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"a")
    status = list(path.stat())
    fine = os.stat_result(status, {"st_ctime_ns": 10**18 + 1, "st_mtime_ns": 10**18})
    coarse = os.stat_result(status, {"st_ctime_ns": 10**18, "st_mtime_ns": 10**18})
    assert contents.is_settled(fine, time.time(), 2.0)
    assert not contents.is_settled(coarse, time.time(), 2.0)


def test_a_file_that_changes_while_it_is_read_is_not_stored(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"a")

    def slow(handle, size):
        path.write_bytes(b"ab")
        return os.read(handle, size)

    file = contents._File(0, os.fsencode(path), b"")
    assert contents._read_file(file, -3600.0, read=slow).status is None
    assert contents._read_file(file, -3600.0).status is not None


def test_what_cannot_be_read(tmp_path, cache):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "folder.png").mkdir()
    for name in ("pipe.png", "loop.png", "folder.png", "absent.png", "n" * 300):
        assert cache.digest(tmp_path / name) == UNREADABLE
    (tmp_path / "absent.png").write_bytes(b"there")
    assert cache.digest(tmp_path / "absent.png") == of(b"there")
    assert cache.digest(tmp_path / "empty") == UNREADABLE
    (tmp_path / "empty").write_bytes(b"")
    assert cache.digest(tmp_path / "empty") == of(b"") != UNREADABLE


def remembered(path):
    with closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT key, value FROM contents").fetchall()


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"nonsense" * 4096),
        lambda path: os.truncate(path, path.stat().st_size // 2),
        lambda path: os.truncate(path, 0),
        lambda path: path.write_bytes(bytes(100) + path.read_bytes()[100:]),
        lambda path: path.write_bytes(path.read_bytes()[:4096] + bytes(8192)),
    ],
)
def test_a_damaged_database_is_never_believed(tmp_path, damage):
    database, picture = tmp_path / "contents.sqlite3", tmp_path / "a.png"
    picture.write_bytes(b"a")
    for _ in range(2):
        with settled_cache(database) as cache:
            assert cache.digest(picture) == of(b"a")
        assert len(remembered(database)) == 1
        damage(database)
        with settled_cache(database) as cache:
            assert cache.digest(picture) == of(b"a")
    with settled_cache(database) as cache:
        cache.digest(picture)
        cache.read = 0
        assert cache.digest(picture) == of(b"a")
        assert cache.read == 0


@pytest.mark.parametrize("at", [0, 8, 30, 40, 60, 75])
def test_a_flipped_bit_of_a_remembered_digest(tmp_path, at):
    database, picture = tmp_path / "contents.sqlite3", tmp_path / "a.png"
    picture.write_bytes(b"a")
    with settled_cache(database) as cache:
        cache.digest(picture)
    ((key, value),) = remembered(database)
    flipped = value[:at] + bytes([value[at] ^ 4]) + value[at + 1 :]
    with closing(sqlite3.connect(database)) as opened, opened:
        opened.execute("UPDATE contents SET value = ? WHERE key = ?", (flipped, key))
    with settled_cache(database) as cache:
        assert cache.digest(picture) == of(b"a")
        assert cache.read == 1


def test_no_place_for_a_database(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"a")
    (tmp_path / "file").write_bytes(b"")
    os.mkfifo(tmp_path / "contents.sqlite3")
    for place in (tmp_path / "file", tmp_path):
        monkeypatch.setenv("LPX_CACHE", str(place))
        (found,) = file_digests([os.fsencode(tmp_path / "a.png")])
        assert bytes(found) == of(b"a")


def test_a_locked_database_is_left_alone(tmp_path):
    database, picture = tmp_path / "contents.sqlite3", tmp_path / "a.png"
    picture.write_bytes(b"a")
    with settled_cache(database) as cache:
        cache.digest(picture)
    with closing(sqlite3.connect(database)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with settled_cache(database, timeout_s=0.05) as cache:
            assert cache.digest(picture) == of(b"a")
    assert len(remembered(database)) == 1


def test_several_at_a_time(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(600)]
    for path in paths:
        path.write_bytes(path.name.encode())
    raw = [os.fsencode(path) for path in paths]

    def digests(_):
        with settled_cache(tmp_path / "contents.sqlite3") as cache:
            return [bytes(one) for one in cache.digests(raw)]

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(digests, range(6)))
    assert all(one == [of(path.name.encode()) for path in paths] for one in found)


def test_a_database_that_has_grown_too_large_is_discarded(tmp_path):
    database, picture = tmp_path / "contents.sqlite3", tmp_path / "a.png"
    picture.write_bytes(b"a")
    with settled_cache(database) as cache:
        cache.digest(picture)
    with settled_cache(database, max_bytes=100):
        assert remembered(database) == []
