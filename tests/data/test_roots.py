from __future__ import annotations

import os
from pathlib import Path

import pytest

from lpx.data.roots import data_roots, face_store
from lpx.errors import LpxError


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """A current folder without lpx.toml above it, and no settings in the environment."""
    for name in ("LPX_DATA", "LPX_FACE_STORE"):
        monkeypatch.delenv(name, raising=False)
    here = tmp_path / "a" / "b"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)


def test_no_root_is_named():
    assert data_roots() == ()
    assert face_store() == Path("lpx-faces")


def test_roots_come_in_order_and_once(tmp_path, monkeypatch):
    for name in ("given", "one", "two"):
        (tmp_path / name).mkdir()
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    monkeypatch.setenv("LPX_DATA", os.pathsep.join([one, "", two, one]))
    (tmp_path / "lpx.toml").write_text('[data]\nroot = "set"\n')
    roots = [tmp_path / name for name in ("given", "one", "two", "set")]
    assert data_roots(tmp_path / "given") == tuple(roots)
    assert data_roots() == tuple(roots[1:])
    assert data_roots(tmp_path / "two") == (roots[2], roots[1], roots[3])


def test_the_nearest_settings_count(tmp_path):
    (tmp_path / "lpx.toml").write_text('[data]\nroot = "far"\nstore = "far-faces"\n')
    (tmp_path / "a" / "lpx.toml").write_text('[data]\nroot = "/near"\n')
    assert data_roots() == (Path("/near"),)
    assert face_store() == Path("lpx-faces")


def test_the_store_comes_in_order(tmp_path, monkeypatch):
    (tmp_path / "lpx.toml").write_text('[data]\nstore = "faces"\n')
    assert face_store() == tmp_path / "faces"
    monkeypatch.setenv("LPX_FACE_STORE", "/environment")
    assert face_store() == Path("/environment")
    assert face_store(Path("~/given")) == Path.home() / "given"


def test_home_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("LPX_DATA", "~/sets")
    (tmp_path / "lpx.toml").write_text('[data]\nroot = "~/more"\n')
    assert data_roots() == (Path.home() / "sets", Path.home() / "more")


def test_settings_for_others_are_left_alone(tmp_path):
    (tmp_path / "lpx.toml").write_text("[bench]\nframes = 32\n")
    assert data_roots() == ()


def test_a_byte_order_mark_and_crlf_do_no_harm(tmp_path):
    (tmp_path / "lpx.toml").write_bytes('\ufeff[data]\r\nroot = "Größe"\r\n'.encode())
    assert data_roots() == (tmp_path / "Größe",)


@pytest.mark.parametrize(
    "text",
    [
        b"[data\nroot = 1",
        b'[data]\nroot = "\xff"',
        b"[data]\nroot = 3",
        b'[data]\nroot = ""',
        b'[data]\nroots = "typing error"',
        b"data = 5",
    ],
)
def test_damaged_settings_are_named(tmp_path, text):
    (tmp_path / "lpx.toml").write_bytes(text)
    with pytest.raises(LpxError, match=r"lpx\.toml"):
        data_roots()


def test_a_given_root_must_be_a_folder(tmp_path):
    with pytest.raises(LpxError, match="does not exist"):
        data_roots(tmp_path / "nothing")
    (tmp_path / "file").touch()
    with pytest.raises(LpxError, match="is a file"):
        data_roots(tmp_path / "file")
