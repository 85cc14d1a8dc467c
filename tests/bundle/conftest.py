from __future__ import annotations

import shutil

import pytest

from lpx import Workspace


@pytest.fixture(scope="session")
def small_faces(tmp_path_factory):
    """Four real and four fake crops in a folder; read only."""
    from lpx.data.face_sets.demo import demo_set
    from lpx.render.encode import encode_png

    folder = tmp_path_factory.mktemp("small") / "crops"
    for number, face in enumerate(demo_set("test").faces[:8]):
        path = folder / ("fake" if face.label else "real") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(face.source.read()))
    return folder


@pytest.fixture(scope="session")
def bundle(built, small_faces, tmp_path_factory):
    """A bundle of `built` with the small faces; read only."""
    path = tmp_path_factory.mktemp("bundle") / "detector.lpx"
    copy = path.parent / "lpx-out"
    shutil.copytree(built.root, copy)
    Workspace(copy).pack(path, faces=small_faces)
    return path
