from __future__ import annotations

import errno
import os
from io import BytesIO

import pytest

from lpx.journal import ResumeJournal, append_whole


def names(journal):
    return [line.entry["name"] for line in journal.lines]


def read(path, **options):
    return ResumeJournal(path, dict, **options)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "below" / "journal.jsonl"
    journal = read(path)
    for name in "abc":
        journal.append({"name": name})
    return path


def test_lines_are_read_back_with_their_numbers(path):
    journal = read(path)
    assert [(line.number, line.entry["name"]) for line in journal.lines] == [
        (1, "a"),
        (2, "b"),
        (3, "c"),
    ]
    assert journal.damaged == []


def test_no_file_is_made_before_the_first_line(tmp_path):
    assert names(read(tmp_path / "journal.jsonl")) == []
    assert not (tmp_path / "journal.jsonl").exists()


@pytest.mark.parametrize("locked", [False, True])
def test_an_unfinished_line_is_dropped_without_mention(path, locked):
    data = path.read_bytes()
    path.write_bytes(data[:-5])
    journal = read(path, locked=locked)
    assert (names(journal), journal.damaged) == (["a", "b"], [])
    journal.append({"name": "c"})
    journal.close()
    assert path.read_bytes() == data


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line.replace(b'"b"', b'"x"'),
        lambda line: line.replace(b'"b"', b'"\r'),
        lambda line: b"{}\n",
        lambda line: b"\n",
    ],
)
def test_a_damaged_line_takes_no_other_along(path, damage):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + damage(lines[1]) + lines[2])
    journal = read(path)
    assert names(journal) == ["a", "c"]
    (message,) = journal.damaged
    assert message.startswith("line 2: ")
    journal.append({"name": "d"})
    assert (names(read(path)), read(path).damaged) == (["a", "c", "d"], [])


def test_a_line_that_the_reader_refuses_is_damaged(path):
    journal = ResumeJournal(path, lambda values: values["other"])
    assert journal.lines == []
    assert [text.partition(":")[0] for text in journal.damaged] == ["line 1", "line 2", "line 3"]


def test_a_locked_journal_is_not_opened_by_another(path):
    journal = read(path, locked=True)
    with pytest.raises(BlockingIOError):
        read(path, locked=True)
    journal.append({"name": "d"})
    journal.close()
    journal.close()
    again = read(path, locked=True)
    assert names(again) == [*"abcd"]
    again.close()


def test_a_locked_journal_keeps_damaged_lines(path):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"rubbish\n" + lines[2])
    journal = read(path, locked=True)
    journal.append({"name": "d"})
    journal.close()
    assert path.read_bytes().splitlines(keepends=True)[1] == b"rubbish\n"
    assert names(read(path)) == ["a", "c", "d"]


@pytest.mark.parametrize("locked", [False, True])
def test_a_link_is_not_written_through(tmp_path, locked):
    (tmp_path / "mine").write_text("")
    (tmp_path / "journal.jsonl").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="symbolic link"):
        read(tmp_path / "journal.jsonl", locked=locked).append({"name": "a"})
    assert (tmp_path / "mine").read_text() == ""


class FullStream(BytesIO):
    """A file with room for `room` more bytes, like a full disk: a short write, then an error."""

    def __init__(self, data, room):
        super().__init__(data)
        self.room = room

    def write(self, data):
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        part = data[: self.room]
        self.room -= len(part)
        return super().write(part)


def test_a_full_disk_leaves_the_file_as_it_was():
    stream = FullStream(b"before\n", 3)
    with pytest.raises(OSError, match="No space"):
        append_whole(stream, b"a line\n")
    assert stream.getvalue() == b"before\n"
    roomy = FullStream(b"before\n", 7)
    append_whole(roomy, b"a line\n")
    assert roomy.getvalue() == b"before\na line\n"
