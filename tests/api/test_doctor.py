import json
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest

from lpx.api import doctor
from lpx.api.doctor import Finding, Target, examine, targets
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


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch):
    """Pretend that just these distributions are installed."""

    def use(versions: dict[str, str], modules: tuple[str, ...] = (), cuda: bool = False) -> None:
        found = {MODULES.get(name, name) for name in versions} | set(modules)

        def version(name: str) -> str:
            if name not in versions:
                raise PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(doctor.metadata, "version", version)
        monkeypatch.setattr(
            doctor.metadata,
            "requires",
            lambda name: ["torch>=2.8", "onnx>=1.18", 'tensorrt>=8.6; extra == "tensorrt"'],
        )
        monkeypatch.setattr(doctor, "_importable", found.__contains__)
        monkeypatch.setattr(doctor, "compiled", object)
        providers = ["CUDAExecutionProvider"] * cuda + [
            "AzureExecutionProvider",
            "CPUExecutionProvider",
        ]
        runtime = SimpleNamespace(get_available_providers=lambda: providers)
        loaded = {"onnxruntime": runtime, "tensorrt": SimpleNamespace(__version__="10.3.0")}
        monkeypatch.setattr(doctor.importlib, "import_module", loaded.__getitem__)

    return use


def row(machine: Machine, name: str) -> Finding:
    return next(finding for finding in examine(machine) if finding.name == name)


def test_a_plain_machine(install) -> None:
    install(CORE)
    findings = examine(PC)
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
    usable = targets(PC, findings)
    assert usable["torch"] == usable["onnxruntime"] == Target(build=True, run=True)
    assert usable["tensorrt"] == Target(
        build=False, run=False, reason="no TensorRT, no NVIDIA GPU, no CUDA bindings"
    )


def test_installed_without_a_compiler(install, monkeypatch) -> None:
    install(CORE)
    assert row(PC, "C kernel").status == "ok"
    monkeypatch.setattr(doctor, "compiled", lambda: None)
    assert row(PC, "C kernel").status == "missing"
    assert "install a C compiler" in row(PC, "C kernel").advice
    assert targets(PC, examine(PC))["onnxruntime"] == Target(build=True, run=True)


def test_nothing_installed_raises_nothing(install) -> None:
    install({})
    usable = targets(PC, examine(PC))
    assert not any(target.build or target.run for target in usable.values())
    assert row(PC, "onnxsim").advice == "pip install onnxsim"


def test_tensorrt_rtx_builds_without_a_gpu_and_runs_on_rtx_gpus_only(install) -> None:
    install(CORE | {"tensorrt-rtx-cu13-bindings": "1.7.1.116", "cuda-bindings": "13.0.1"})
    assert targets(PC, examine(PC))["tensorrt-rtx"] == Target(True, False, "no NVIDIA GPU")
    assert targets(L4, examine(L4))["tensorrt-rtx"] == Target(True, True)
    assert targets(H200, examine(H200))["tensorrt-rtx"] == Target(
        build=True, run=False, reason="NVIDIA H200 is not an RTX GPU"
    )


def test_the_lean_runtime_is_a_row_where_it_is(install) -> None:
    install(CORE | {"tensorrt-lean-cu13-bindings": "11.4.0.106"}, ("tensorrt_lean_bindings",))
    finding = row(L4, "TensorRT lean runtime")
    assert (finding.status, finding.found) == ("ok", "11.4.0.106")
    assert "version-compatible" in finding.enables
    assert row(L4, "TensorRT").status == "missing"
    assert not targets(L4, examine(L4))["tensorrt"].build
    install(CORE)
    assert "TensorRT lean runtime" not in [finding.name for finding in examine(L4)]


def test_the_rtx_provider_builds_without_a_gpu_and_runs_on_those_it_serves(install) -> None:
    install(CORE)
    target = "onnxruntime-tensorrt-rtx"
    assert targets(L4, examine(L4))[target] == Target(False, False, "no RTX provider")
    install(CORE | {"onnxruntime-ep-nv-tensorrt-rtx-cu13": "0.5.0"})
    assert targets(PC, examine(PC))[target] == Target(True, False, "no NVIDIA GPU")
    assert targets(L4, examine(L4))[target] == Target(True, True)
    assert targets(H200, examine(H200))[target] == Target(
        build=True, run=False, reason="NVIDIA H200 is not served"
    )


def test_providers_of_onnxruntime_are_targets_where_it_has_them(install) -> None:
    install(CORE)
    assert targets(L4, examine(L4))["onnxruntime-cuda"] == Target(
        build=False, run=False, reason="onnxruntime has no CUDA provider"
    )
    assert targets(PC, examine(PC))["onnxruntime-tensorrt"] == Target(
        build=False,
        run=False,
        reason="onnxruntime has no Tensorrt provider, no TensorRT, no NVIDIA GPU",
    )
    found = Finding("onnxruntime", "ok", "1.22.0 (Tensorrt, CUDA, CPU)", "")
    gpu = Finding("NVIDIA GPU", "ok", "L4", "")
    usable = targets(L4, (found, gpu))
    assert usable["onnxruntime-cuda"] == Target(True, True)
    assert usable["onnxruntime-tensorrt"] == Target(False, False, "no TensorRT")
    with_tensorrt = targets(L4, (found, gpu, Finding("TensorRT", "ok", "10.13.0", "")))
    assert with_tensorrt["onnxruntime-tensorrt"] == Target(True, True)


def test_tensorrt_needs_cuda_bindings_to_run(install) -> None:
    install(CORE | {"tensorrt": "10.13.0"})
    assert targets(L4, examine(L4))["tensorrt"] == Target(True, False, "no CUDA bindings")
    install(CORE | {"tensorrt": "10.13.0", "pycuda": "2025.1"})
    assert targets(L4, examine(L4))["tensorrt"] == Target(True, True)
    assert row(L4, "CUDA bindings").found == "pycuda 2025.1"


def test_cuda_bindings_fit_the_driver(install) -> None:
    install(CORE)
    assert row(PC, "CUDA bindings").advice == "pip install cuda-python"
    assert row(L4, "CUDA bindings").advice == 'pip install "cuda-python<13"'
    install(CORE | {"cuda-bindings": "13.0.1"})
    assert row(PC, "CUDA bindings").status == "ok"
    assert "driver 580" in row(L4, "CUDA bindings").advice


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
def test_cuda_bindings_fit_the_jetpack(install, l4t, driver, package) -> None:
    board = jetson(l4t=l4t)
    board = replace(board, gpus=(replace(ORIN.gpus[0], driver_version=driver),))
    install(CORE)
    assert row(board, "CUDA bindings").advice == f"pip install {package}"
    install(CORE | {"cuda-bindings": "13.0.1"})
    finding = row(board, "CUDA bindings")
    if package == "cuda-python":
        assert (finding.status, finding.advice) == ("ok", "")
    else:
        assert finding.status == "warning"
        assert finding.advice.endswith(f"pip install {package}")
        assert "comes with JetPack" in finding.advice
        assert "or later" not in finding.advice, "a Jetson's driver cannot be replaced"


def test_cuda_python_before_its_modules_moved_is_found(install) -> None:
    install(CORE | {"cuda-python": "11.8.7"}, modules=("cuda.cudart",))
    finding = row(jetson(l4t="35.6.4"), "CUDA bindings")
    assert (finding.status, finding.found) == ("ok", "cuda-python 11.8.7")


def test_jetson_environment_that_hides_tensorrt(install) -> None:
    install(CORE)
    hidden = replace(ORIN, system_tensorrt="/usr/lib/python3.10/dist-packages")
    finding = row(hidden, "TensorRT")
    assert finding.status == "missing"
    assert "this virtual environment does not see" in finding.advice
    assert "python3.10 -m venv --system-site-packages" in finding.advice
    assert "this Python" in row(replace(hidden, python_isolated=False), "TensorRT").advice
    assert "apt install python3-libnvinfer" in row(ORIN, "TensorRT").advice


def test_tensorrt_without_metadata_tells_its_version(install) -> None:
    install(CORE, modules=("tensorrt",))
    assert row(ORIN, "TensorRT") == Finding(
        "TensorRT", "ok", "10.3.0", "tensorrt engines, for this GPU model"
    )


def test_broken_onnxruntime_is_a_row(install, monkeypatch: pytest.MonkeyPatch) -> None:
    install(CORE)

    def broken(name: str) -> None:
        raise ImportError("libcudart.so.12: cannot open shared object file")

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    finding = row(PC, "onnxruntime")
    assert (finding.status, finding.found) == ("missing", "1.22.0")
    assert finding.advice.startswith("does not import: libcudart.so.12")


def test_onnxruntime_on_a_gpu(install) -> None:
    install(CORE)
    assert "onnxruntime-gpu" in row(L4, "onnxruntime").advice
    assert row(ORIN, "onnxruntime").advice == ""
    install(CORE | {"onnxruntime-gpu": "1.22.0"}, cuda=True)
    both = row(L4, "onnxruntime")
    assert (both.status, both.found) == ("warning", "1.22.0 (CUDA, CPU)")
    assert "uninstall both" in both.advice


def test_too_old_and_cpu_only_packages_are_warned_of(install) -> None:
    install(CORE | {"torch": "2.7.1+cpu", "tensorrt": "8.5.2.2"})
    assert row(PC, "torch").advice == 'lpx needs 2.8 or later: pip install "torch>=2.8"'
    assert row(L4, "TensorRT").status == "warning"
    install(CORE | {"torch": "2.10.0+cpu"})
    assert row(PC, "torch").status == "ok"
    assert row(L4, "torch").status == "warning"


def test_jetson_rows(install) -> None:
    install(CORE)
    assert row(ORIN, "JetPack").found == "6.2, L4T 36.4.3"
    assert row(ORIN, "clocks").status == "ok"
    assert row(ORIN, "NVIDIA GPU").found == (
        "Orin (nvgpu), compute capability 8.7, memory shared with the CPU, driver 540.4.0"
    )
    old = Jetson("Jetson AGX Orin", "35.4.1", "5.1.2", "unknown (nvpmodel not found)", None)
    boxed = replace(ORIN, jetson=old, in_container=True)
    rows = {finding.name: finding for finding in examine(boxed)}
    assert "trtexec" in rows["JetPack"].advice
    assert "trtexec" in rows["TensorRT"].advice
    assert rows["power mode"].status == rows["clocks"].status == "warning"
    assert "jetson_clocks" in rows["clocks"].advice
    assert rows["power rails"].status == rows["thermal zones"].status == "missing"


def test_jetson_rows_of_power(install) -> None:
    install(CORE)
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
def test_advice_on_each_board(install, tmp_path, record, advice) -> None:
    install(CORE)
    tree = json.loads((RECORDS / f"{record}.json").read_text())
    for path, text in tree["files"].items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    answers = {"nvidia-smi": ""} | tree["commands"]
    machine = read_machine(tmp_path, lambda command: answers[command[0]])
    rows = {finding.name: finding for finding in examine(machine)}
    for name, text in advice.items():
        assert text in rows[name].advice, name
        assert bool(text) == bool(rows[name].advice), name


def test_power_mode_is_compared_with_the_boards_own(install) -> None:
    install(CORE)
    xavier = {"MODE_15W_6CORE": 2, "MODE_20W_6CORE": 8}
    fastest = jetson(power_mode="MODE_20W_6CORE", power_modes=xavier)
    assert row(fastest, "power mode").advice == ""
    slower = jetson(power_mode="MODE_15W_6CORE", power_modes=xavier)
    assert "(MODE_20W_6CORE): sudo nvpmodel -m 8" in row(slower, "power mode").advice
    assert row(jetson(power_mode="MAXN"), "power mode").advice == ""
    assert row(jetson(power_mode="15W"), "power mode").advice.startswith("perhaps not the fastest")


def test_power_rails_of_a_board_without_an_input(install) -> None:
    install(CORE)
    rails = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO")
    finding = row(jetson(rails=rails, board_power=rails[:3]), "power rails")
    assert finding.found == "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0 (and 1 part of it)"
    assert finding.enables.endswith("those rails of the module, without the carrier board")


@pytest.mark.parametrize(
    ("jetpack", "status"),
    [("4.x", "warning"), ("5.1.7 or later", "warning"), ("6.x", "ok"), ("7.2.1 or later", "ok")],
)
def test_jetpack_that_is_too_old(install, jetpack, status) -> None:
    install(CORE)
    assert row(jetson(jetpack=jetpack), "JetPack").status == status


def test_a_folder_of_the_same_name_is_no_package(tmp_path, monkeypatch) -> None:
    (tmp_path / "not_really_tensorrt").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not doctor._importable("not_really_tensorrt")
    assert not doctor._importable("not_really_cuda.bindings")
    assert doctor._importable("json")


def test_no_framework_is_imported() -> None:
    code = (
        "import sys; from lpx.api.doctor import examine; "
        "from lpx.machine.machine import read_machine; examine(read_machine()); "
        "print({'torch', 'onnx', 'cv2', 'ray', 'lightning'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
