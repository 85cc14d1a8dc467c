import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from lpx.api.doctor import INSTALLATION, Finding, Installation, Target, examine, targets
from lpx.machine.jetson import Jetson
from lpx.machine.machine import Gpu, Machine, read_machine
from tests.support.machines import PC

RECORDS = Path(__file__).parents[1] / "fixtures" / "machines"

L4 = replace(PC, gpus=(Gpu("NVIDIA L4", "8.9", 23034, "550.54.15"),), no_gpu_reason="")
H200 = replace(PC, gpus=(Gpu("NVIDIA H200", "9.0", 143771, "570.86"),), no_gpu_reason="")
ORIN = replace(
    PC,
    architecture="aarch64",
    python="3.10.12",
    gpus=(Gpu("Orin (nvgpu)", "8.7", None, "540.4.0"),),
    no_gpu_reason="",
    jetson=Jetson("NVIDIA Jetson Orin Nano", "36.4.3", "6.2", "15W", clocks_locked=True),
)
CORE = {
    "torch": "2.8.0",
    "onnx": "1.19.0",
    "onnxsim": "0.4.36",
    "onnxruntime": "1.22.0",
    "opencv-python-headless": "4.12.0.88",
}
MODULES = {
    "onnxruntime-gpu": "onnxruntime",
    "opencv-python-headless": "cv2",
    "tensorrt-rtx-cu13-bindings": "tensorrt_rtx_bindings",
    "onnxruntime-ep-nv-tensorrt-rtx-cu13": "onnxruntime_ep_nv_tensorrt_rtx",
    "cuda-bindings": "cuda.bindings.driver",
}


class Installed(Installation):
    """An environment with just these packages.

    Args:
        versions: Versions of distributions, by name.
        modules: Modules besides those of the distributions.
        cuda: ONNX Runtime has the CUDA provider.
        kernel: lpx was installed with a C compiler.
    """

    def __init__(
        self,
        versions: dict[str, str],
        modules: tuple[str, ...] = (),
        *,
        cuda: bool = False,
        kernel: bool = True,
    ) -> None:
        self.versions, self.kernel = versions, kernel
        self.modules = {MODULES.get(name, name) for name in versions} | set(modules)
        providers = ["CUDAExecutionProvider"] * cuda
        providers += ["AzureExecutionProvider", "CPUExecutionProvider"]
        self.loaded = {
            "onnxruntime": SimpleNamespace(get_available_providers=lambda: providers),
            "tensorrt": SimpleNamespace(__version__="10.3.0"),
        }

    def version(self, distribution: str) -> str:
        return self.versions.get(distribution, "")

    def requirements(self) -> list[str]:
        return ["torch>=2.8", "onnx>=1.18", 'tensorrt>=8.6; extra == "tensorrt"']

    def importable(self, module: str) -> bool:
        return module in self.modules

    def load(self, module: str) -> object:
        return self.loaded[module]

    def has_kernel(self) -> bool:
        return self.kernel


PLAIN = Installed(CORE)
WITH_CUDA_13 = Installed(CORE | {"cuda-bindings": "13.0.1"})


def row(machine: Machine, name: str, packages: Installed = PLAIN) -> Finding:
    return next(finding for finding in examine(machine, packages) if finding.name == name)


def usable(machine: Machine, packages: Installed = PLAIN) -> dict[str, Target]:
    return targets(machine, examine(machine, packages))


def test_a_plain_machine() -> None:
    findings = examine(PC, PLAIN)
    assert [finding.name for finding in findings if finding.status == "missing"] == [
        *(
            "NVIDIA GPU",
            "TensorRT",
            "TensorRT-RTX",
            "RTX provider",
            "CUDA bindings",
            "lightning",
            "ray",
        ),
    ]
    assert row(PC, "onnxruntime").found == "1.22.0 (CPU)"
    assert row(PC, "TensorRT-RTX").advice == 'pip install "lpx[rtx]"'
    assert row(PC, "NVIDIA GPU").advice == "nvidia-smi not found"
    results = targets(PC, findings)
    assert results["torch"] == results["onnxruntime"] == Target(build=True, run=True)
    assert results["tensorrt"] == Target(
        build=False, run=False, reason="no TensorRT, no NVIDIA GPU, no CUDA bindings"
    )


def test_installed_without_a_compiler() -> None:
    assert row(PC, "C kernel").status == "ok"
    slow = Installed(CORE, kernel=False)
    assert row(PC, "C kernel", slow).status == "missing"
    assert "install a C compiler" in row(PC, "C kernel", slow).advice
    assert usable(PC, slow)["onnxruntime"] == Target(build=True, run=True)


def test_an_empty_environment_raises_nothing() -> None:
    empty = Installed({})
    assert not any(target.build or target.run for target in usable(PC, empty).values())
    assert row(PC, "onnxsim", empty).advice == 'pip install "lpx[export]"'
    assert row(PC, "onnx", empty).advice == "pip install onnx"


def test_tensorrt_rtx_builds_without_a_gpu_and_runs_on_rtx_gpus_only() -> None:
    rtx = Installed(CORE | {"tensorrt-rtx-cu13-bindings": "1.7.1.116", "cuda-bindings": "13.0.1"})
    assert usable(PC, rtx)["tensorrt-rtx"] == Target(True, False, "no NVIDIA GPU")
    assert usable(L4, rtx)["tensorrt-rtx"] == Target(True, True)
    assert usable(H200, rtx)["tensorrt-rtx"] == Target(
        build=True, run=False, reason="NVIDIA H200 is not an RTX GPU"
    )


def test_the_lean_runtime_has_a_row_only_if_it_is_installed() -> None:
    version = {"tensorrt-lean-cu13-bindings": "11.4.0.106"}
    lean = Installed(CORE | version, ("tensorrt_lean_bindings",))
    finding = row(L4, "TensorRT lean runtime", lean)
    assert (finding.status, finding.found) == ("ok", "11.4.0.106")
    assert "version-compatible" in finding.enables
    assert row(L4, "TensorRT", lean).status == "missing"
    assert not usable(L4, lean)["tensorrt"].build
    assert "TensorRT lean runtime" not in [finding.name for finding in examine(L4, PLAIN)]


def test_the_rtx_provider_builds_without_a_gpu_and_runs_on_those_it_serves() -> None:
    target = "onnxruntime-tensorrt-rtx"
    assert usable(L4)[target] == Target(False, False, "no RTX provider")
    rtx = Installed(CORE | {"onnxruntime-ep-nv-tensorrt-rtx-cu13": "0.5.0"})
    assert usable(PC, rtx)[target] == Target(True, False, "no NVIDIA GPU")
    assert usable(L4, rtx)[target] == Target(True, True)
    assert usable(H200, rtx)[target] == Target(
        build=True, run=False, reason="NVIDIA H200 is not served"
    )


def test_targets_need_their_provider_of_onnxruntime() -> None:
    assert usable(L4)["onnxruntime-cuda"] == Target(
        build=False, run=False, reason="onnxruntime has no CUDA provider"
    )
    assert usable(PC)["onnxruntime-tensorrt"] == Target(
        build=False,
        run=False,
        reason="onnxruntime has no Tensorrt provider, no TensorRT, no NVIDIA GPU",
    )
    runtime = Finding("onnxruntime", "ok", "1.22.0 (Tensorrt, CUDA, CPU)", "")
    gpu = Finding("NVIDIA GPU", "ok", "L4", "")
    results = targets(L4, (runtime, gpu))
    assert results["onnxruntime-cuda"] == Target(True, True)
    assert results["onnxruntime-tensorrt"] == Target(False, False, "no TensorRT")
    with_tensorrt = targets(L4, (runtime, gpu, Finding("TensorRT", "ok", "10.13.0", "")))
    assert with_tensorrt["onnxruntime-tensorrt"] == Target(True, True)


def test_tensorrt_needs_cuda_bindings_to_run() -> None:
    without = Installed(CORE | {"tensorrt": "10.13.0"})
    assert usable(L4, without)["tensorrt"] == Target(True, False, "no CUDA bindings")
    both = Installed(CORE | {"tensorrt": "10.13.0", "pycuda": "2025.1"})
    assert usable(L4, both)["tensorrt"] == Target(True, True)
    assert row(L4, "CUDA bindings", both).found == "pycuda 2025.1"


def test_cuda_bindings_fit_the_driver() -> None:
    assert row(PC, "CUDA bindings").advice == "pip install cuda-python"
    assert row(L4, "CUDA bindings").advice == 'pip install "cuda-python<13"'
    assert row(PC, "CUDA bindings", WITH_CUDA_13).status == "ok"
    assert "driver 580" in row(L4, "CUDA bindings", WITH_CUDA_13).advice


def jetson(**changed):
    return replace(ORIN, jetson=replace(ORIN.jetson, **changed))


@pytest.mark.parametrize(
    ("l4t", "driver", "package"),
    [
        ("36.4.3", "540.4.0", '"cuda-python<13"'),
        ("36.3", None, '"cuda-python<13"'),
        ("36.9.1", None, '"cuda-python<13"'),
        ("35.6.4", None, '"cuda-python<12"'),
        ("38.4", "580.00", "cuda-python"),
        ("39.2.1", None, "cuda-python"),
        ("unknown (no /etc/nv_tegra_release)", None, '"cuda-python<13"'),
        ("unknown (no /etc/nv_tegra_release)", "580.00", "cuda-python"),
    ],
)
def test_cuda_bindings_fit_the_jetpack(l4t, driver, package) -> None:
    board = jetson(l4t=l4t)
    board = replace(board, gpus=(replace(ORIN.gpus[0], driver_version=driver),))
    assert row(board, "CUDA bindings").advice == f"pip install {package}"
    finding = row(board, "CUDA bindings", WITH_CUDA_13)
    if package == "cuda-python":
        assert (finding.status, finding.advice) == ("ok", "")
    else:
        assert finding.status == "warning"
        assert finding.advice.endswith(f"pip install {package}")
        assert "comes with JetPack" in finding.advice
        assert "or later" not in finding.advice, "a Jetson's driver cannot be replaced"


def test_cuda_python_before_its_modules_moved_is_found() -> None:
    old = Installed(CORE | {"cuda-python": "11.8.7"}, modules=("cuda.cudart",))
    finding = row(jetson(l4t="35.6.4"), "CUDA bindings", old)
    assert (finding.status, finding.found) == ("ok", "cuda-python 11.8.7")


def test_jetson_environment_that_hides_tensorrt() -> None:
    hidden = replace(ORIN, system_tensorrt="/usr/lib/python3.10/dist-packages")
    finding = row(hidden, "TensorRT")
    assert finding.status == "missing"
    assert "this virtual environment does not see" in finding.advice
    assert "python3.10 -m venv --system-site-packages" in finding.advice
    assert "this Python" in row(replace(hidden, python_isolated=False), "TensorRT").advice
    assert "apt install python3-libnvinfer" in row(ORIN, "TensorRT").advice


def test_version_of_tensorrt_without_metadata_comes_from_the_module() -> None:
    assert row(ORIN, "TensorRT", Installed(CORE, modules=("tensorrt",))) == Finding(
        "TensorRT", "ok", "10.3.0", "tensorrt engines, for this GPU model"
    )


def test_broken_onnxruntime_is_reported_as_missing() -> None:
    class Broken(Installed):
        def load(self, module: str) -> object:
            raise ImportError("libcudart.so.12: cannot open shared object file")

    finding = row(PC, "onnxruntime", Broken(CORE))
    assert (finding.status, finding.found) == ("missing", "1.22.0")
    assert finding.advice.startswith("does not import: libcudart.so.12")


def test_onnxruntime_on_a_gpu() -> None:
    assert "onnxruntime-gpu" in row(L4, "onnxruntime").advice
    assert row(ORIN, "onnxruntime").advice == ""
    both = row(L4, "onnxruntime", Installed(CORE | {"onnxruntime-gpu": "1.22.0"}, cuda=True))
    assert (both.status, both.found) == ("warning", "1.22.0 (CUDA, CPU)")
    assert "uninstall both" in both.advice


def test_old_and_cpu_only_packages_have_a_warning() -> None:
    old = Installed(CORE | {"torch": "2.7.1+cpu", "tensorrt": "8.5.2.2"})
    assert row(PC, "torch", old).advice == 'lpx needs 2.8 or later: pip install "torch>=2.8"'
    assert row(L4, "TensorRT", old).status == "warning"
    cpu_only = Installed(CORE | {"torch": "2.10.0+cpu"})
    assert row(PC, "torch", cpu_only).status == "ok"
    assert row(L4, "torch", cpu_only).status == "warning"


def test_jetson_rows() -> None:
    assert row(ORIN, "JetPack").found == "6.2, L4T 36.4.3"
    assert row(ORIN, "clocks").status == "ok"
    assert row(ORIN, "NVIDIA GPU").found == (
        "Orin (nvgpu), compute capability 8.7, memory shared with the CPU, driver 540.4.0"
    )
    old = Jetson("Jetson AGX Orin", "35.4.1", "5.1.2", "unknown (nvpmodel not found)", None)
    boxed = replace(ORIN, jetson=old, in_container=True)
    rows = {finding.name: finding for finding in examine(boxed, PLAIN)}
    assert "trtexec" in rows["JetPack"].advice
    assert "trtexec" in rows["TensorRT"].advice
    assert rows["power mode"].status == rows["clocks"].status == "warning"
    assert "jetson_clocks" in rows["clocks"].advice
    assert rows["power rails"].status == rows["thermal zones"].status == "missing"


def test_jetson_rows_of_power() -> None:
    assert "nvpmodel -m" in row(ORIN, "power mode").advice, "15W is not the fastest mode"
    measured = replace(
        ORIN.jetson,
        power_mode="MAXN_SUPER",
        rails=("VDD_IN", "VDD_SOC", "VDD_CPU_GPU_CV"),
        board_power=("VDD_IN",),
        thermal_zones=("cpu-thermal", "gpu-thermal"),
    )
    board = replace(ORIN, jetson=measured)
    assert row(board, "power mode").advice == ""
    assert row(board, "power rails").found == "VDD_IN (and 2 parts of it)"
    assert row(board, "power rails").enables.endswith("the whole module, without the carrier board")
    assert row(board, "thermal zones").found == "cpu-thermal, gpu-thermal"
    boxed = replace(ORIN, jetson=replace(measured, rails=(), no_rails_reason="mount /sys"))
    assert (row(boxed, "power rails").status, row(boxed, "power rails").advice) == (
        "missing",
        "mount /sys",
    )


@pytest.mark.parametrize(
    ("record", "advice"),
    [
        (
            "orin_nano",
            {
                "JetPack": "",
                "power mode": "(MAXN_SUPER): sudo nvpmodel -m 2",
                "clocks": "sudo jetson_clocks",
                "power rails": "",
                "TensorRT": "python3.10 -m venv --system-site-packages",
                "CUDA bindings": 'pip install "cuda-python<13"',
            },
        ),
        (
            "agx_orin_jetpack6",
            {
                "JetPack": "",
                "power mode": "(MAXN): sudo nvpmodel -m 0",
                "clocks": "sudo jetson_clocks",
                "TensorRT": "python3.10 -m venv --system-site-packages",
                "CUDA bindings": 'pip install "cuda-python<13"',
            },
        ),
        (
            "xavier_nx",
            {
                "JetPack": "trtexec",
                "power mode": "",
                "clocks": "sudo jetson_clocks",
                "TensorRT": "trtexec",
                "CUDA bindings": 'pip install "cuda-python<12"',
            },
        ),
        (
            "thor",
            {
                "JetPack": "",
                "power mode": "(MAXN): sudo nvpmodel -m 0",
                "TensorRT": "python3-libnvinfer",
                "CUDA bindings": "pip install cuda-python",
            },
        ),
        ("agx_orin", {"JetPack": "trtexec", "power mode": "", "clocks": ""}),
    ],
)
def test_advice_on_each_board(tmp_path, record, advice) -> None:
    tree = json.loads((RECORDS / f"{record}.json").read_text())
    for path, text in tree["files"].items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    answers = {"nvidia-smi": ""} | tree["commands"]
    machine = read_machine(tmp_path, lambda command: answers[command[0]])
    rows = {finding.name: finding for finding in examine(machine, PLAIN)}
    for name, text in advice.items():
        assert text in rows[name].advice, name
        assert bool(text) == bool(rows[name].advice), name


def test_power_mode_is_compared_with_the_boards_own() -> None:
    xavier = {"MODE_15W_6CORE": 2, "MODE_20W_6CORE": 8}
    fastest = jetson(power_mode="MODE_20W_6CORE", power_modes=xavier)
    assert row(fastest, "power mode").advice == ""
    slower = jetson(power_mode="MODE_15W_6CORE", power_modes=xavier)
    assert "(MODE_20W_6CORE): sudo nvpmodel -m 8" in row(slower, "power mode").advice
    assert row(jetson(power_mode="MAXN"), "power mode").advice == ""
    assert row(jetson(power_mode="15W"), "power mode").advice.startswith("perhaps not the fastest")


def test_power_rails_of_a_board_without_an_input() -> None:
    rails = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO")
    finding = row(jetson(rails=rails, board_power=rails[:3]), "power rails")
    assert finding.found == "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0 (and 1 part of it)"
    assert finding.enables.endswith("those rails of the module, without the carrier board")


@pytest.mark.parametrize(
    ("jetpack", "status"),
    [("4.x", "warning"), ("5.1.7 or later", "warning"), ("6.x", "ok"), ("7.2.1 or later", "ok")],
)
def test_jetpack_that_is_too_old(jetpack, status) -> None:
    assert row(jetson(jetpack=jetpack), "JetPack").status == status


def test_a_folder_does_not_count_as_a_package(tmp_path, monkeypatch) -> None:
    (tmp_path / "not_really_tensorrt").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not INSTALLATION.importable("not_really_tensorrt")
    assert not INSTALLATION.importable("not_really_cuda.bindings")
    assert INSTALLATION.importable("json")


def test_no_framework_is_imported() -> None:
    code = (
        "import sys; from lpx.api.doctor import examine; "
        "from lpx.machine.machine import read_machine; examine(read_machine()); "
        "print({'torch', 'onnx', 'cv2', 'ray', 'lightning'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
