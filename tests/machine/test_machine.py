import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lpx.machine import jetson as jetson_module
from lpx.machine import machine as module
from lpx.machine.machine import Gpu, Machine, has_vnni, read_machine

RECORDS = Path(__file__).parents[1] / "fixtures" / "machines"


def runner(answers: dict[str, str]) -> Callable[[Sequence[str]], str]:
    def run(command: Sequence[str]) -> str:
        if command[0] not in answers:
            raise FileNotFoundError(command[0])
        return answers[command[0]]

    return run


def plant(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def read(root: Path, record: str, **changed: str) -> Machine:
    tree = json.loads((RECORDS / f"{record}.json").read_text())
    plant(root, tree["files"] | changed)
    return read_machine(root, runner(tree["commands"]))


def test_orin_nano(tmp_path: Path) -> None:
    machine = read(tmp_path, "orin_nano")
    assert machine.os == "Ubuntu 22.04.5 LTS"
    assert (machine.cpu, machine.cores, machine.memory_mib) == ("Cortex-A78AE", 6, 7619)
    assert machine.gpus == (Gpu("Orin (nvgpu)", "8.7", None, "540.4.0"),)
    assert machine.system_tensorrt == "/usr/lib/python3.10/dist-packages"
    assert not machine.in_container
    assert machine.jetson
    assert machine.jetson.board.endswith("Developer Kit Super")
    assert (machine.jetson.l4t, machine.jetson.jetpack) == ("36.4.3", "6.2")
    assert (machine.jetson.power_mode, machine.jetson.clocks_locked) == ("15W", False)


def test_agx_orin_of_jetpack_5_has_a_gpu_without_nvidia_smi(tmp_path: Path) -> None:
    machine = read(tmp_path, "agx_orin")
    assert machine.gpus == (Gpu("Orin (integrated)", "8.7", None, None),)
    assert machine.jetson
    assert (machine.jetson.jetpack, machine.jetson.power_mode) == ("5.1.2", "MAXN")
    assert machine.jetson.clocks_locked is True


def test_thor_is_not_locked_while_one_of_its_gpu_clocks_is_free(tmp_path: Path) -> None:
    machine = read(tmp_path, "thor")
    assert machine.cpu == "Neoverse-V3AE"
    assert machine.gpus[0].compute_capability == "11.0"
    assert machine.jetson
    assert (machine.jetson.l4t, machine.jetson.jetpack) == ("38.4", "7.1")
    assert machine.jetson.clocks_locked is False


def test_container_says_what_it_hides(tmp_path: Path) -> None:
    machine = read(tmp_path, "container")
    assert machine.in_container
    assert machine.gpus == ()
    assert "--runtime nvidia" in machine.no_gpu_reason
    assert machine.jetson
    assert machine.jetson.board == "unknown (the container hides the device tree)"
    assert machine.jetson.jetpack == "6.1"
    assert machine.jetson.power_mode == "unknown (nvpmodel not found, the container hides it)"
    assert machine.jetson.clocks_locked is None


@pytest.mark.parametrize(
    ("release", "revision", "jetpack"),
    [
        (35, "6.3", "5.1.5"),
        (35, "6.4", "5.1.6"),
        (35, "6.5", "5.1.7"),
        (36, "4.0", "6.1"),
        (36, "4.2", "6.1"),
        (36, "5.2", "6.2.3"),
        (38, "2.2", "7.0"),
        (39, "2.1", "7.2.1"),
    ],
)
def test_listed_release(tmp_path: Path, release: int, revision: str, jetpack: str) -> None:
    assert jetpack_of(tmp_path, release, revision) == jetpack


@pytest.mark.parametrize(
    ("release", "revision", "jetpack"),
    [
        (36, "9.1", "6.2.3 or later"),
        (39, "10.0", "7.2.1 or later"),
        (35, "6.10", "5.1.7 or later"),
        (36, "4.5", "6.2.1"),
        (36, "5.1", "6.x"),
        (36, "0.0", "6.x"),
        (39, "0", "7.x"),
        (32, "7.6", "4.x"),
        (40, "1.0", "unknown (L4T 40.1)"),
        (37, "1", "unknown (L4T 37.1)"),
        (36, "4.3.", "6.2"),
        (36, "", "unknown"),
    ],
)
def test_unlisted_release_is_told_by_its_neighbours(
    tmp_path: Path, release: int, revision: str, jetpack: str
) -> None:
    assert jetpack_of(tmp_path, release, revision) == jetpack


def jetpack_of(root: Path, release: int, revision: str) -> str:
    text = f"# R{release} (release), REVISION: {revision}, GCID: 1\n"
    jetson = read(root, "orin_nano", **{"etc/nv_tegra_release": text}).jetson
    assert jetson
    return jetson.jetpack


@pytest.mark.parametrize(
    ("record", "gpu"),
    [
        ("xavier_nx", Gpu("Xavier (integrated)", "7.2", None, None)),
        ("agx_orin_jetpack6", Gpu("Orin (nvgpu)", "8.7", None, None)),
        ("thor", Gpu("NVIDIA Thor", "11.0", None, "580.00")),
    ],
)
def test_integrated_gpu(tmp_path: Path, record: str, gpu: Gpu) -> None:
    assert read(tmp_path, record).gpus == (gpu,)


def test_board_of_another_maker_is_told_by_its_chip(tmp_path: Path) -> None:
    model = {"proc/device-tree/model": "Carrier Model 7\0"}
    machine = read(tmp_path, "xavier_nx", **model)
    assert machine.jetson
    assert machine.jetson.board == "Carrier Model 7"
    assert machine.gpus == (Gpu("Xavier (integrated)", "7.2", None, None),)


def test_xavier_nx(tmp_path: Path) -> None:
    machine = read(tmp_path, "xavier_nx")
    assert (machine.cpu, machine.cores) == ("Carmel", 6)
    assert machine.jetson
    assert (machine.jetson.l4t, machine.jetson.jetpack) == ("35.6.4", "5.1.6")
    assert machine.jetson.clocks_locked is False
    assert machine.jetson.thermal_zones == ("CPU-therm", "GPU-therm", "AUX-therm", "PMIC-Die")


def test_locked_gpu_with_unreadable_cpus_is_unknown(tmp_path: Path) -> None:
    node = "sys/class/devfreq/17000000.gpu"
    plant(tmp_path, {f"{node}/min_freq": "1\n", f"{node}/max_freq": "1\n"})
    assert jetson_module._clocks_locked(tmp_path) is None


def test_workstation_with_two_gpus(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            "proc/cpuinfo": "processor : 0\nmodel name : AMD EPYC 9354\nprocessor : 1\n",
            "proc/1/cgroup": "0::/kubepods/pod1\n",
        },
    )
    listing = "NVIDIA L4, 8.9, 23034, 550.54.15\nNVIDIA A100-SXM4-40GB, 8.0, 40960, 550.54.15\n"
    machine = read_machine(tmp_path, runner({"nvidia-smi": listing}))
    assert [gpu.memory_mib for gpu in machine.gpus] == [23034, 40960]
    assert (machine.cpu, machine.cores) == ("AMD EPYC 9354", 2)
    assert machine.memory_mib is None
    assert machine.jetson is None
    assert machine.no_gpu_reason == ""
    assert machine.in_container


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FileNotFoundError(), "nvidia-smi not found"),
        (PermissionError("denied"), "nvidia-smi: denied"),
        (subprocess.TimeoutExpired("nvidia-smi", 10), "nvidia-smi did not finish in 10 s"),
        (
            subprocess.CalledProcessError(9, "nvidia-smi", "NVIDIA-SMI has failed\nmore", ""),
            "NVIDIA-SMI has failed",
        ),
        (subprocess.CalledProcessError(9, "nvidia-smi"), "nvidia-smi failed"),
    ],
)
def test_reason_for_no_gpu(tmp_path: Path, error: Exception, reason: str) -> None:
    def run(command: Sequence[str]) -> str:
        raise error

    machine = read_machine(tmp_path, run)
    assert (machine.gpus, machine.no_gpu_reason) == ((), reason)


def test_nvidia_smi_that_lists_nothing(tmp_path: Path) -> None:
    machine = read_machine(tmp_path, runner({"nvidia-smi": "No devices were found\n"}))
    assert machine.no_gpu_reason == "nvidia-smi lists none: No devices were found"


def test_an_empty_tree_raises_nothing(tmp_path: Path) -> None:
    machine = read_machine(tmp_path, runner({}))
    assert machine.os
    assert (machine.cpu, machine.memory_mib, machine.jetson) == ("unknown", None, None)


@pytest.mark.parametrize(("shares", "isolated"), [("true", False), ("false", True)])
def test_virtual_environment(tmp_path: Path, shares: str, isolated: bool) -> None:
    plant(tmp_path, {"pyvenv.cfg": f"home = /usr\ninclude-system-site-packages = {shares}\n"})
    assert module._isolated(tmp_path, Path("/usr")) is isolated
    assert module._isolated(tmp_path, tmp_path) is False


def test_this_machine_is_read() -> None:
    machine = read_machine()
    assert machine.cores >= 1
    assert machine.gpus or machine.no_gpu_reason


@pytest.mark.parametrize(
    ("cpuinfo", "vnni"),
    [
        ("flags\t\t: fpu avx2 avx512_vnni\n", True),
        ("flags\t\t: fpu avx2 avx_vnni\n", True),
        ("flags\t\t: fpu avx2\n", False),
        # Of 16-bit integers: ONNX Runtime has no kernels with it.
        ("flags\t\t: fpu avx2 avx512f avx512_4vnniw\n", False),
        ("Features\t: fp asimd asimddp\n", None),
        ("", None),
    ],
)
def test_integer_dot_products_are_read_from_the_flags(tmp_path, cpuinfo, vnni):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(cpuinfo)
    assert has_vnni(tmp_path) is vnni
