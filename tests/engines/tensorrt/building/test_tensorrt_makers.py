"""What a build for TensorRT adds to the plan: the workspace cap, and the timing cache on disk."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tensorrt_nets import tiny
from tensorrt_workshop import MODEL, Workshop

from lpx.engines.onnxruntime.make import PROVIDER_TF32, make_for_gpu
from lpx.engines.request import BuildRequest
from lpx.engines.tensorrt import Plan
from lpx.engines.tensorrt.building.make import make_for_tensorrt
from lpx.engines.tensorrt_options import TensorRTOptions
from lpx.errors import NotAsAskedError
from lpx.machine.machine import Machine, available_memory_mib
from tests.support.machines import BOARD

ORIN = BOARD.jetson
REQUEST = BuildRequest("tensorrt", "fp16")
MIB = 1 << 20


@pytest.fixture
def shop() -> Workshop:
    return Workshop("tensorrt-10.3.0")


def make(
    shop: Workshop,
    request: BuildRequest = REQUEST,
    machine: Machine = BOARD,
    free: int | None = 5000,
) -> Any:
    return make_for_tensorrt(
        MODEL, request, shop.library.opened, machine, free_memory_mib=lambda: free
    )


def plan(timing_cache: bytes) -> Plan:
    return Plan(b"plan", "tensorrt", "10.3.0", None, timing_cache, ())


def limits(shop: Workshop) -> list[int]:
    return [call[2] for call in shop.library.named("IBuilderConfig.set_memory_pool_limit")]


def test_a_board_caps_the_workspace_at_half_of_what_is_free(shop: Workshop) -> None:
    options = make(shop).options
    assert limits(shop) == [2500 * MIB]
    assert options["tensorrt"]["workspace_mib"] == 2500
    assert options["workspace_from"] == "half of the 5000 MiB that were free on the board"


def test_what_is_asked_for_goes_before(shop: Workshop) -> None:
    options = make(shop, replace(REQUEST, tensorrt=TensorRTOptions(workspace_mib=64))).options
    assert limits(shop) == [64 * MIB]
    assert (options["tensorrt"]["workspace_mib"], options["workspace_from"]) == (64, "as asked for")


def test_a_gpu_with_memory_of_its_own_keeps_tensorrts_default(shop: Workshop) -> None:
    options = make(shop, machine=replace(BOARD, jetson=None)).options
    assert limits(shop) == []
    assert (options["tensorrt"]["workspace_mib"], options["workspace_from"]) == (
        None,
        "TensorRT's default",
    )


def test_a_board_that_hides_its_memory_keeps_it_too(shop: Workshop) -> None:
    assert make(shop, free=None).options["tensorrt"]["workspace_mib"] is None


def test_available_memory_is_the_kernels_figure(tmp_path: Path) -> None:
    assert available_memory_mib(tmp_path) is None
    (tmp_path / "proc").mkdir()
    text = "MemTotal: 7802000 kB\nMemFree: 100 kB\nMemAvailable:    5242880 kB\n"
    (tmp_path / "proc/meminfo").write_text(text)
    assert available_memory_mib(tmp_path) == 5120


def test_a_precision_that_is_not_there_is_no_users_mistake(shop: Workshop) -> None:
    with pytest.raises(NotAsAskedError, match="INT8 was requested") as caught:
        make(shop, replace(REQUEST, precision="int8"))
    assert caught.value.exit_code == 1
    assert "CaskConvolution  conv" in caught.value.why


@pytest.mark.parametrize("override", [None, "0"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(
    "target", ["onnxruntime-cuda", "onnxruntime-tensorrt", "onnxruntime-tensorrt-rtx"]
)
def test_engines_of_providers_say_whether_tf32_is_on(
    monkeypatch: pytest.MonkeyPatch, target: Any, precision: Any, override: str | None
) -> None:
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    if override is not None:
        monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", override)
    graph = tiny(precision)
    made = make_for_gpu(graph, BuildRequest(target, precision), 160)
    on = target != "onnxruntime-cuda" and override is None
    assert made.options["tf32"] is on
    assert (PROVIDER_TF32 in made.warnings) is (on and precision == "fp32")


HERE = Path(__file__).parent
WRITER = """
import sys
import time
from pathlib import Path
sys.path[:0] = {folders!r}
import test_tensorrt_makers as t
from lpx.engines.tensorrt.building import make as making
from lpx.errors import LpxError
from lpx import Workspace

shop = t.Workshop("tensorrt-10.3.0")
root, done, refused = Path(sys.argv[1]), 0, 0

def build(request, library, progress):
    before = request.timing_cache or b""
    time.sleep(0.01)
    return t.plan(before + sys.argv[2].encode())

making.build_plan = build
print("ready", flush=True)
sys.stdin.readline()
while done < 20:
    try:
        with Workspace(root).lock():
            t.make_for_tensorrt(
                t.MODEL, t.REQUEST, shop.library.opened, t.BOARD,
                timing_caches=root / "timing-caches",
            )
            done += 1
    except LpxError as error:
        assert "is in use by process" in error.what, error
        refused += 1
    time.sleep(0.002)
print(refused)
"""


def test_two_processes_lose_nothing_of_one_timing_cache(tmp_path: Path) -> None:
    """Each reads the cache, takes its time, and writes it back with one letter more."""
    code = WRITER.format(folders=[str(HERE), str(HERE.parents[2] / "support" / "tensorrt")])
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), letter],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[4],
        )
        for letter in "ab"
    ]
    for writer in writers:
        # Else one is done before the other has imported what it needs.
        assert writer.stdout
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin
        writer.stdin.write("\n")
        writer.stdin.flush()
    refused = [int(writer.communicate(timeout=60)[0]) for writer in writers]
    (file,) = (tmp_path / "timing-caches").iterdir()
    assert sorted(file.read_text()) == ["a"] * 20 + ["b"] * 20
    assert sum(refused) > 0, "the two never met, so the test showed nothing"
