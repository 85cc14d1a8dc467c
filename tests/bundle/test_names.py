from __future__ import annotations

import pytest

from lpx.bundle.names import MemberNames, name_problem


@pytest.mark.parametrize(
    "name",
    [
        "model.onnx",
        "faces/real/0001 (2).png",
        "engines/\u043c\u043e\u0451/engine.onnx",
        "faces/con-2/a.png",
        "a..b/c",
        "x" * 240,
    ],
)
def test_names_that_every_file_system_takes(name):
    assert name_problem(name) == ""


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/x",
        "//x",
        "../x",
        "a/../x",
        "a/..",
        ".",
        "./x",
        "a//x",
        "a/",
        "C:\\x",
        "C:x",
        "a\\b",
        "a\0b",
        "a\nb",
        "a\x1b[2Jb",
        "a\u202eb",
        "\udcff.png",
        ".lock",
        "a/.hidden",
        "x.png:stream",
        "what?",
        "con",
        "faces/NUL.png",
        "com1.onnx",
        "lpt\u00b9",
        "a.",
        "a ",
        " a",
        "e\u0301",
        "x" * 241,
        "/".join("a" * 33),
        "a/" * 600,
    ],
)
def test_names_that_are_refused(name):
    assert name_problem(name)
    assert MemberNames().add(name)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a.png", "a.png"),
        ("a.png", "A.PNG"),
        ("faces/x", "FACES/x"),
        ("stra\u00dfe", "STRASSE"),
        ("a", "a/b"),
        ("a/b", "A"),
        ("a/b/c", "a/B"),
    ],
)
def test_names_that_collide(first, second):
    names = MemberNames()
    assert names.add(first) == ""
    assert names.add(second)


def test_names_in_one_folder_do_not_collide():
    names = MemberNames()
    assert [names.add(name) for name in ("a/b", "a/c", "A/d", "ab")] == [""] * 4
