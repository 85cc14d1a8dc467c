"""benchmarks/gpu.py on a machine without a GPU: what it refuses, and its own arithmetic."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lpx.models.checkpoint import Detector
from lpx.models.detector import new_detector

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks/gpu.py"


@pytest.fixture(scope="module")
def gpu():
    sys.path.insert(0, str(SCRIPT.parent))
    yield importlib.import_module("gpu")
    sys.path.remove(str(SCRIPT.parent))


@pytest.fixture(scope="module")
def limits(gpu):
    return importlib.import_module("gpu_limits")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_exits_with_2():
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert "sees no NVIDIA GPU" in done.stderr
    assert "--dry-run" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_dry_run_lists_every_contender_with_a_time_or_a_reason(gpu, tmp_path):
    from click.testing import CliRunner

    line = [
        *("--dry-run", "--only", "resnet18", "--batches", "1", "--size", "64", "--seconds", "0"),
        *("--json", str(tmp_path / "gpu.json"), "--markdown", str(tmp_path / "gpu.md")),
    ]
    ran = CliRunner().invoke(gpu.main, line)
    assert ran.exit_code == 0, ran.output
    values = json.loads((tmp_path / "gpu.json").read_text())
    rows = {row["contender"]: row for row in values["rows"]}
    assert len(rows) == 14
    ran_ = [name for name, row in rows.items() if row["cannot_run"] is None]
    assert ran_ == ["torch eager fp32", "torch fp16 channels-last"]
    assert rows["torch eager fp32"]["per_face_p50_ms"] > 0
    assert values["limits"]["gigabytes_per_second"] > 0
    text = (tmp_path / "gpu.md").read_text()
    assert "these are no figures of a GPU" in text
    for name in rows:
        assert f"{name} " in text, "a contender is hidden"
    assert values["about"]["versions"]["torch"] in text


def test_only_the_chosen_contenders_run_and_unknown_ones_are_refused(gpu, tmp_path):
    from click.testing import CliRunner

    line = ["--dry-run", "--only", "resnet18", "--batches", "1,2", "--size", "64", "--seconds", "0"]
    where = tmp_path / "gpu.json"
    chosen = "onnxruntime-cuda fp16, torch.compile fp16"
    ran = CliRunner().invoke(gpu.main, [*line, "--contenders", chosen, "--json", str(where)])
    assert ran.exit_code == 0, ran.output
    rows = json.loads(where.read_text())["rows"]
    assert [row["contender"] for row in rows] == ["torch.compile fp16", "onnxruntime-cuda fp16"] * 2
    assert all("needs an NVIDIA GPU" in row["cannot_run"] for row in rows)
    ran = CliRunner().invoke(gpu.main, [*line, "--contenders", "tensorflow"])
    assert ran.exit_code == 2
    assert "tensorflow: unknown; choose from torch eager fp32" in " ".join(ran.output.split())


class Engine:
    """What a contender makes: it warns, and does next to nothing."""

    notes = ("no CUDA graphs: none here",)

    def __init__(self):
        warnings.warn("running\neagerly", UserWarning, stacklevel=1)

    def infer(self, faces):
        time.sleep(1e-3)

    def close(self):
        pass


@pytest.fixture
def small(gpu):
    module, card = new_detector("resnet18", "layer1", input_size=64)
    return gpu.Subject("small", Detector(module.eval(), card), (1, 2))


@pytest.fixture
def no_limits(limits):
    return limits.Limits(1.0, {}, {})


def text_of(gpu, limits, rows):
    about = {"device": "", "gpu_driver_clock_power": "", "date": "", "versions": {}, "dry_run": 0}
    return gpu.markdown(about, limits, rows)


def test_when_the_time_is_over_no_further_contender_starts(gpu, small, no_limits):
    """Not even within a batch: building for one can take longer than all others together."""
    makers = dict.fromkeys(("torch fp32", "torch fp16", "tensorrt int8"), Engine)
    answers = iter([True, True, *[False] * 4])
    rows = [
        row
        for batch in small.batches
        for row in gpu.rows_of(
            small, batch, "cpu", 0.0, no_limits, (), lambda: next(answers), makers
        )
    ]
    assert [row["cannot_run"] for row in rows] == [None, None, *[gpu.LEFT_OUT] * 4]
    told = f"- tensorrt int8 (small batch 1, small batch 2): {gpu.LEFT_OUT}"
    assert told in text_of(gpu, no_limits, rows).splitlines()


def test_contenders_of_pytorch_need_no_export(gpu, small):
    def fail(detector):
        raise ModuleNotFoundError("No module named 'onnxsim'")

    unexported = replace(small, export=fail)
    makers = gpu.contenders(unexported, None, "cpu")
    faces = np.zeros((1, 64, 64, 3), np.uint8)
    assert gpu.started(makers["torch eager fp32"], faces).reason is None
    with pytest.raises(ModuleNotFoundError):
        _ = unexported.model


def test_what_a_contender_warns_of_is_told(gpu, small, no_limits):
    """Libraries warn when they do something else than was asked for."""
    makers = {"torch.compile fp16": Engine, "onnxruntime-cuda fp16": lambda: 1 / 0}
    rows = gpu.rows_of(small, 1, "cpu", 0.0, no_limits, makers=makers)
    assert rows[0]["notes"] == ["running eagerly", "no CUDA graphs: none here"]
    assert rows[1]["cannot_run"] == "ZeroDivisionError: division by zero"
    lines = text_of(gpu, no_limits, rows).splitlines()
    assert "- torch.compile fp16 (small batch 1): running eagerly" in lines
    assert "- torch.compile fp16 (small batch 1): no CUDA graphs: none here" in lines
    assert "- onnxruntime-cuda fp16 (small batch 1): ZeroDivisionError: division by zero" in lines


def test_a_contender_that_fails_in_the_measurement_takes_no_other_with_it(gpu, small, no_limits):
    class Failing(Engine):
        runs = 0

        def infer(self, faces):
            self.runs += 1
            if self.runs > 3:
                raise MemoryError("no memory\nleft")

    makers = {"torch fp32": Engine, "tensorrt fp16": Failing, "tensorrt int8": Engine}
    rows = gpu.rows_of(small, 1, "cpu", 0.0, no_limits, makers=makers)
    assert [row["cannot_run"] for row in rows] == [None, "MemoryError: no memory left", None]
    assert ["per_face_p50_ms" in row for row in rows] == [True, False, True]


class Squares(torch.nn.Module):
    def forward(self, faces):
        return faces.float().square().sum((1, 2, 3)), faces.float()


def faces_of(batch, device="cpu"):
    return torch.arange(batch * 12, dtype=torch.uint8, device=device).reshape(batch, 2, 2, 3)


def test_each_batch_size_is_compiled_for_itself_or_fails(gpu):
    """More batches than PyTorch compiles of one function before it runs it eagerly."""
    compiled_for = []

    def backend(graph, examples, mode):
        assert mode == "max-autotune-no-cudagraphs"
        compiled_for.append([tuple(x.shape) for x in examples if isinstance(x, torch.Tensor)])
        return graph.forward

    batches = range(1, torch._dynamo.config.recompile_limit + 5)
    for batch in batches:
        run = gpu.compiled(Squares(), backend)
        for _ in range(2):
            torch.testing.assert_close(run(faces_of(batch)), Squares()(faces_of(batch)))
    # Whole numbers: a dimension that had become dynamic would be a symbol.
    assert compiled_for == [[(batch, 2, 2, 3)] for batch in batches]
    run = gpu.compiled(Squares(), backend)
    with pytest.raises(Exception, match=r"(?i)recompile"):
        list(map(run, map(faces_of, batches)))


@pytest.mark.gpu
def test_contenders_of_pytorch_agree_on_a_gpu(gpu):
    """The compiled and the captured one too, at two batch sizes one behind the other."""
    if not torch.cuda.is_available():
        pytest.skip(f"PyTorch {torch.__version__} sees no NVIDIA GPU")
    for batch in (1, 3):
        faces = faces_of(batch).numpy()
        wanted = Squares()(faces_of(batch))
        for run in (gpu.compiled(Squares().cuda()), gpu.captured(Squares().cuda(), faces)):
            engine = gpu.TorchVariant(run, "cuda")
            for _ in range(2):
                found = engine.infer(faces)
                torch.testing.assert_close(torch.from_numpy(found.score), wanted[0])
                torch.testing.assert_close(torch.from_numpy(found.patch_map), wanted[1])


@pytest.mark.gpu
def test_limits_of_a_gpu_are_measured(limits):
    if not torch.cuda.is_available():
        pytest.skip(f"PyTorch {torch.__version__} sees no NVIDIA GPU")
    found = limits.limits("cuda")
    assert 1 < found.gigabytes_per_second < 20_000
    assert set(found.tera_operations_per_second) | set(found.not_measured) == set(limits.BYTES)
    rates = found.tera_operations_per_second
    assert 0.1 < rates["fp32"] < rates["fp16"] < 10_000


def test_operations_are_those_of_the_convolutions(limits):
    from lpx.models.checkpoint import Detector

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
            self.depthwise = torch.nn.Conv2d(8, 8, 3, padding=1, groups=8)

        def forward(self, x):
            return self.depthwise(self.stem(x))

    card = type("Card", (), {"input_size": 16})()
    stem, depthwise = limits.costs(Detector(Net(), card))
    assert stem == limits.Cost(216, 3 * 256 + 8 * 64, 2 * 64 * 8 * 27)
    assert depthwise == limits.Cost(72, 2 * 8 * 64, 2 * 64 * 8 * 9)


def test_floors_are_the_larger_of_memory_and_arithmetic(limits):
    device = limits.Limits(1.0, {"fp16": 1.0}, {})  # 1e9 bytes/s, 1e12 operations/s
    slow_memory = limits.Cost(weights=1_000_000, values=0, operations=1)
    slow_arithmetic = limits.Cost(weights=0, values=0, operations=5_000_000_000)
    whole, single = limits.floors_ms([slow_memory, slow_arithmetic], 2, "fp16", device, 0)
    assert whole == pytest.approx(10.0)  # 2 faces x 5e9 operations; memory alone would be 2 ms
    assert single == pytest.approx(2.0 + 10.0)
    assert limits.floors_ms([slow_memory], 1, "int8", device, 0) == (None, None)


def test_a_reason_is_one_line_with_the_kind_of_error(limits):
    assert limits.words(RuntimeError("no\n  kernel")) == "RuntimeError: no kernel"
