"""Workspaces with plans, which are text, and repositories made of them."""

from __future__ import annotations

import shutil

import pytest

from lpx import Workspace
from tests.support.packages import write_plan


@pytest.fixture
def add_plan(workspace):
    """Adds a plan to the workspace, see `write_plan`."""

    def add(*names, **options):
        return write_plan(workspace, *names, **options)

    return add


@pytest.fixture
def board(workspace, tmp_path):
    """Makes another workspace of the same model, as of a board: its name, and what it holds."""

    def make(name, **options):
        root = tmp_path / name
        shutil.copytree(workspace.root, root)
        other = Workspace(root)
        for folder in other.engines.iterdir():
            if folder.name.startswith("tensorrt"):
                shutil.rmtree(folder)
        write_plan(other, **options)
        return other

    return make


@pytest.fixture(scope="session")
def packaged(built, tmp_path_factory):
    """A package of three models: of a plan, and of two graphs."""
    root = tmp_path_factory.mktemp("packaged")
    shutil.copytree(built.root, root / "lpx-out")
    work = Workspace(root / "lpx-out")
    write_plan(work)
    return work.package("triton", root / "served").folder


@pytest.fixture
def package(packaged, tmp_path):
    """A copy of that package, to alter."""
    return shutil.copytree(packaged, tmp_path / "a package")
