"""From one machine to another: pack here, unpack there, and go on without PyTorch."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from tests.cli.test_without_torch import BROKEN

NO_TORCH = BROKEN.format("torch")


@pytest.fixture
def packed(lpx, workspace, crops):
    """What `lpx pack` printed; the bundle is out.lpx."""
    ran = lpx("pack", "-o", "out.lpx", "--faces", crops, "--json")
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def test_pack_here_and_score_elsewhere(shell, workspace, crops, tmp_path):
    ran = shell("pack", "-o", "out.lpx", "--faces", crops, cwd=tmp_path, before=NO_TORCH)
    assert ran.code == 0, ran.err
    assert "faces: 16 of folder:" in ran.out
    assert "next, on the other machine: lpx unpack out.lpx" in ran.out

    board = tmp_path / "board"
    board.mkdir()
    (tmp_path / "out.lpx").rename(board / "out.lpx")
    # Nothing of this machine is left.
    shutil.rmtree(workspace.root)
    shutil.rmtree(crops)

    ran = shell("unpack", "out.lpx", cwd=board, before=NO_TORCH)
    assert ran.code == 0, ran.err
    command = ran.out.splitlines()[-1].removeprefix("next: lpx ")
    assert command == "predict --crops lpx-out/faces"

    ran = shell(*command.split(), cwd=board, before=NO_TORCH)
    assert ran.code == 0, ran.err
    with (board / "lpx-out/predictions/scores.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert len(rows) == 16

    ran = shell("build", "--int8", "--target", "onnxruntime", cwd=board, before=NO_TORCH)
    assert ran.code == 0, ran.err
    assert "reusing lpx-out/scales.json (16 faces of demo)" in ran.err

    ran = shell("bench", "--dataset", "lpx-out/faces", cwd=board)
    assert ran.code == 2
    assert "reference.pt does not exist" in ran.err
    assert "lpx pack --checkpoint" in ran.err


def test_bench_works_where_the_checkpoint_came_along(lpx, workspace, crops):
    assert lpx("pack", "-o", "out.lpx", "--faces", crops, "--checkpoint").code == 0
    assert lpx("unpack", "out.lpx", "-w", "board").code == 0
    ran = lpx(
        *("bench", "--dataset", "board/faces", "-w", "board", "--no-stages", "--json"),
        *("--candidates", "onnxruntime-fp32", "--batches", "1", "--latency-seconds", "0"),
    )
    assert json.loads(ran.out)["faces"] == 16


@pytest.mark.parametrize("faces", ["a folder", "demo"])
def test_ranges_that_came_in_a_bundle_are_reused(lpx, workspace, crops, faces):
    """Without the bundle, ranges of few demo faces would give way to those of more."""
    command = ("build", "--int8", "--target", "onnxruntime")
    chosen = (crops,) if faces == "a folder" else ("demo", "--limit", "4")
    assert lpx(*command, "--faces", *chosen).code == 0
    lpx("pack", "-o", "out.lpx")
    lpx("unpack", "out.lpx", "-w", "board")
    shutil.rmtree(crops)
    scales = Path("board/scales.json").read_bytes()
    ran = lpx(*command, "-w", "board")
    assert ran.code == 0
    assert "reusing board/scales.json" in ran.err
    assert Path("board/scales.json").read_bytes() == scales


def test_ranges_that_were_made_there_are_treated_like_any_others(lpx, workspace, packed):
    lpx("unpack", "out.lpx", "-w", "board")
    command = ("build", "--int8", "--target", "onnxruntime", "-w", "board")
    assert "reusing" not in lpx(*command, "--faces", "demo", "--limit", "4").err
    ran = lpx(*command, "--limit", "8")
    assert "board/scales.json is not used, and is written again" in ran.err


def test_json(lpx, workspace, packed):
    assert packed["bundle"] == "out.lpx"
    assert packed["engines"] == ["onnxruntime-fp32", "onnxruntime-int8"]
    assert packed["faces"]["count"] == 16
    assert packed["size_bytes"] == Path("out.lpx").stat().st_size
    ran = lpx("unpack", "out.lpx", "-w", "board", "--json")
    values = json.loads(ran.out)
    assert values["workspace"] == "board"
    assert values["faces_folder"] == "board/faces"
    assert values["members"] == packed["members"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["pack"], "Missing option '-o' / '--out'"),
        (["pack", "-o", "x", "--limit", "0"], "0 is not in the range"),
        (["pack", "-o", "x", "--engines", "tensorrt-fp16"], "use one of these"),
        (["pack", "-o", "ckpt.pt"], "use another name with --out"),
        (["pack", "-o", "x", "-w", "nowhere"], "no exported model"),
        (["pack", "-o", "x", "--faces", "nowhere"], "unknown data set 'nowhere'"),
        (["unpack"], "Missing argument 'BUNDLE'"),
        (["unpack", "x", "-w", "board"], "x does not exist"),
        (["unpack", "ckpt.pt", "-w", "board"], "ckpt.pt is not a bundle of lpx"),
        (["unpack", "ckpt.pt"], "lpx-out is not empty"),
    ],
)
def test_mistakes(lpx, workspace, arguments, expected):
    Path("ckpt.pt").write_bytes(b"weights" * 100)
    ran = lpx(*arguments)
    assert ran.code == 2
    assert expected in ran.err
    assert "internal" not in ran.err


def test_fewer_faces_and_engines(lpx, workspace, crops):
    ran = lpx(
        "pack", "-o", "out.lpx", "--faces", crops, "--limit", "4", "--engines", "onnxruntime-int8"
    )
    assert ran.code == 0
    assert "packing 4 of 16 faces" in ran.err
    assert "(--limit)" in ran.err
    assert "engines: onnxruntime-int8\n" in ran.out
