from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import environment

PLAIN = "import lpx"
SESSION = "from lpx.data.detect import open_detector; open_detector()"


@pytest.mark.parametrize("code", [SESSION, f"{PLAIN}; import onnxruntime"])
def test_onnxruntime_tells_nobody_and_leaves_no_number_of_the_machine(tmp_path, code):
    # What marks a test run switches it off too, and would hide that nothing else does.
    marks = ("CI", "ORT_RUNNING_UNIT_TESTS", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    kept = {name: value for name, value in environment().items() if name not in marks}
    subprocess.run(
        [sys.executable, "-c", f"{code}\nimport os; assert os.environ['ORT_DISABLE_TELEMETRY']"],
        env=kept | {"HOME": str(tmp_path)},
        check=True,
    )
    assert not list(tmp_path.rglob("*onnxruntime*"))


def test_whoever_wants_telemetry_keeps_it():
    done = subprocess.run(
        [sys.executable, "-c", "import lpx, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"],
        env=environment() | {"ORT_DISABLE_TELEMETRY": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "0\n"


def test_lpx_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "lpx", "--version"],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("lpx, version ")
