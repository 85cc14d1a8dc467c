"""Boards, from recorded trees: rails, thermal zones, conditions, and engines of another board."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from lpx.engines.base import Availability
from lpx.engines.compatibility import differences, refusal
from lpx.engines.targets import Installed, can_run
from lpx.machine.conditions import changes, read_conditions
from lpx.machine.ina3221 import covered, find_rails, total_power
from lpx.machine.jetson import cuda_python, faster_mode, is_jetson, temperatures_c
from lpx.machine.machine import Gpu, Machine, read_machine
from lpx.machine.nvml import Nvml
from tests.support.machines import manifest_for

RECORDS = Path(__file__).parents[1] / "fixtures" / "machines"


def plant(root: Path, record: str, **changed: str) -> Machine:
    """Write the recorded tree below `root`, and read the machine from it."""
    tree = json.loads((RECORDS / f"{record}.json").read_text())
    for name, text in tree["files"].items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    answers = tree["commands"] | changed

    def run(command):
        if command[0] not in answers:
            raise FileNotFoundError(command[0])
        return answers[command[0]]

    return read_machine(root, run)


@pytest.mark.parametrize(
    ("record", "rails", "board_power"),
    [
        ("orin_nano", ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"), ("VDD_IN",)),
        (
            "agx_orin",
            ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"),
            ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
        ),
        (
            "agx_orin_jetpack6",
            ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"),
            ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
        ),
        ("thor", ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0", "VIN"), ("VIN",)),
        ("xavier_nx", ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"), ("VDD_IN",)),
        ("container", (), ()),
    ],
)
def test_rails_of_each_board(tmp_path, record, rails, board_power):
    jetson = plant(tmp_path, record).jetson
    assert jetson.rails == rails
    assert jetson.board_power == board_power
    assert bool(jetson.no_rails_reason) == (not rails)


def test_channels_without_power_are_left_out(tmp_path):
    """Not connected, the sum of shunts, and one whose current cannot be read."""
    plant(tmp_path, "orin_nano")
    monitor = next(tmp_path.glob("sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*"))
    (monitor / "in7_input").write_text("5000\n")
    (monitor / "curr7_input").write_text("9999\n")
    (monitor / "in2_label").write_text("NC\n")
    (monitor / "curr3_input").unlink()
    (monitor / "update_interval").write_text("17\n")
    rails, reason = find_rails(tmp_path)
    assert ([rail.name for rail in rails], reason) == (["VDD_IN"], "")
    assert rails[0].interval_ms == 17
    (monitor / "in1_label").write_text("NC\n")
    assert find_rails(tmp_path) == (
        (),
        "the power monitors show no channel that is connected and readable",
    )


def names(rails):
    return [rail.name for rail in rails]


def test_total_is_the_input_of_the_module_where_measured(tmp_path):
    plant(tmp_path, "orin_nano")
    rails, _ = find_rails(tmp_path)
    assert names(total_power(rails)) == ["VDD_IN"]
    assert total_power(rails[1:]) == rails[1:]


def test_total_of_thor_without_its_input_is_that_of_the_module(tmp_path):
    plant(tmp_path, "thor")
    (label,) = tmp_path.glob("sys/bus/i2c/drivers/ina238/*/hwmon/hwmon*/label")
    label.write_text("\n")
    rails, _ = find_rails(tmp_path)
    assert names(total_power(rails)) == ["VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"]
    assert "without the carrier board" in covered(names(total_power(rails)))


def test_monitor_of_one_channel_without_power_has_voltage_and_current(tmp_path):
    plant(tmp_path, "thor")
    (monitor,) = tmp_path.glob("sys/bus/i2c/drivers/ina238/*/hwmon/hwmon*")
    power = find_rails(tmp_path)[0][-1]
    assert power.files == (monitor / "power1_input",)
    assert power.monitor == "ina238"
    (monitor / "power1_input").unlink()
    assert find_rails(tmp_path)[0][-1].files == (monitor / "in1_input", monitor / "curr1_input")
    (monitor / "curr1_input").unlink()
    assert "VIN" not in names(find_rails(tmp_path)[0])


def test_only_what_was_measured_is_said_to_be_covered():
    assert covered(["VIN"]) == "the whole board, its carrier included"
    assert covered(["VDD_IN"]) == "the whole module, without the carrier board"
    assert covered(["GPU", "CPU"]) == "those rails of the module, without the carrier board"


def test_zone_that_is_switched_off_has_no_temperature(tmp_path):
    jetson = plant(tmp_path, "orin_nano").jetson
    assert jetson.thermal_zones == ("cpu-thermal", "gpu-thermal", "tj-thermal")
    assert temperatures_c(tmp_path)["gpu-thermal"] == 46.875


COMPATIBLE = {"tensorrt": {"version_compatible": True, "hardware_compatible": True}}


def manifest(machine: Machine, target="tensorrt"):
    return manifest_for(target, machine=json.loads(json.dumps(asdict(machine))))


def test_power_mode_goes_into_the_manifest_and_another_one_is_said(tmp_path):
    installed = Installed(tensorrt=lambda flavour: Availability(True, "TensorRT 10.3.0"))
    built = plant(tmp_path, "orin_nano")
    assert manifest(built).machine["jetson"]["power_mode"] == "15W"
    assert differences(manifest(built), built) == ()
    here = plant(tmp_path, "orin_nano", nvpmodel="NV Power Mode: MAXN_SUPER\n2\n")
    (difference,) = differences(manifest(built), here)
    assert "built in power mode 15W, here it is MAXN_SUPER" in difference
    assert "`lpx build --int8 --target tensorrt`" in difference
    usable, reason = can_run(manifest(built), here, installed)
    assert usable, "another power mode is no reason to refuse"
    assert difference in reason
    assert differences(manifest(built, "onnxruntime"), here) == ()


def test_unknown_power_mode_is_not_called_another(tmp_path):
    built = plant(tmp_path, "orin_nano")
    boxed = replace(built.jetson, power_mode="unknown (nvpmodel not found)")
    assert differences(manifest(built), replace(built, jetson=boxed)) == ()


def test_plan_of_another_board_is_refused_with_the_command(tmp_path):
    installed = Installed(tensorrt=lambda flavour: Availability(True, "TensorRT 10.13.3"))
    built = plant(tmp_path / "orin", "orin_nano")
    here = plant(tmp_path / "thor", "thor")
    assert refusal(manifest(built), built) == ""
    usable, reason = can_run(manifest(built), here, installed)
    assert not usable
    assert reason.startswith("built for compute capability 8.7, here is 11.0; build it again here")


@pytest.mark.parametrize(
    ("built", "library", "refused"),
    [
        ("10.3.0", "tensorrt 10.3.0", False),
        ("10.3.0", "tensorrt 10.3.0.26", False),
        ("10.3.0", "tensorrt 10.13.3", True),
        ("10.3.0", "", False),
        ("", "tensorrt 10.13.3", False),
    ],
)
def test_plan_of_another_release_is_refused(tmp_path, built, library, refused):
    machine = plant(tmp_path, "orin_nano")
    plan = replace(manifest(machine), versions={"tensorrt": built} if built else {})
    reason = refusal(plan, machine, library)
    assert bool(reason) == refused
    if refused:
        assert reason.startswith(f"built by TensorRT {built}, here is 10.13.3; build it again here")
        assert refusal(replace(plan, options=COMPATIBLE), machine, library) == ""
    rtx = replace(
        plan, target="tensorrt-rtx", options={"tensorrt": {"compute_capabilities": ["8.7"]}}
    )
    assert refusal(rtx, machine, library) == "", "TensorRT for RTX decides by itself"


def test_hardware_compatible_plan_is_not_refused(tmp_path):
    built, here = plant(tmp_path / "a", "orin_nano"), plant(tmp_path / "b", "thor")
    assert refusal(replace(manifest(built), options=COMPATIBLE), here) == ""


def test_another_gpu_of_the_same_capability_is_said(tmp_path):
    board = plant(tmp_path, "orin_nano")
    h100, h200 = (
        replace(board, jetson=None, gpus=(Gpu(f"NVIDIA {name}", "9.0", 80_000, "580"),))
        for name in ("H100", "H200")
    )
    assert refusal(manifest(h100), h200) == ""
    (difference,) = differences(manifest(h100), h200)
    assert "was built on NVIDIA H100, here it is NVIDIA H200" in difference
    assert differences(manifest(h100), h100) == ()
    assert differences(manifest(h100), replace(h100, gpus=h200.gpus + h100.gpus)) == ()


def test_conditions_of_a_board(tmp_path):
    plant(tmp_path, "orin_nano")
    gpu = tmp_path / "sys/class/devfreq/17000000.gpu/cur_freq"
    gpu.write_text("612000000\n")
    for cpu, clock in enumerate((729600, 1728000)):
        path = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq"
        path.write_text(f"{clock}\n")
    before = read_conditions(tmp_path, lambda command: "NV Power Mode: 15W\n0\n")
    assert before.gpu_mhz == 612.0
    assert before.cpu_mhz == pytest.approx(1228.8)
    assert before.power_mode == "15W"
    assert before.temperatures_c["cpu-thermal"] == pytest.approx(48.218)
    before = replace(before, load_per_core=0.0)
    assert changes(before, before) == ()
    gpu.write_text("306000000\n")
    (tmp_path / "sys/class/thermal/thermal_zone1/temp").write_text("71000\n")
    after = read_conditions(tmp_path, lambda command: "NV Power Mode: 7W\n0\n")
    assert changes(before, replace(after, throttle_reasons=("heat (hardware)",))) == (
        "the GPU's clock changed from 612 to 306 MHz",
        "gpu-thermal warmed from 47 to 71 degrees Celsius",
        "the power mode changed from 15W to 7W",
        "the GPU's clock is reduced: heat (hardware)",
    )
    assert "load 0.9" in changes(replace(before, load_per_core=0.9), before)[0]


class ClocklessNvml:
    """NVML on Orin since JetPack 6: it opens, and does not know the clock."""

    def __init__(self, mhz=None):
        self.mhz = mhz

    def clock_mhz(self):
        return self.mhz

    def temperature_c(self):
        return None

    def throttle_reasons(self):
        return ()


@pytest.mark.parametrize(
    ("record", "mhz"), [("orin_nano", 306.0), ("thor", 1575.0), ("xavier_nx", 114.75)]
)
def test_clock_of_an_integrated_gpu_that_nvml_does_not_know(tmp_path, record, mhz):
    plant(tmp_path, record)
    for nvml in (None, ClocklessNvml(), ClocklessNvml(0.0)):
        assert read_conditions(tmp_path, lambda _: "", nvml).gpu_mhz == mhz
    assert read_conditions(tmp_path, lambda _: "", ClocklessNvml(900.0)).gpu_mhz == 900.0


def test_clock_of_some_other_board_is_not_taken_for_that_of_an_nvidia_gpu(tmp_path):
    clock = tmp_path / "sys/class/devfreq/ff9a0000.gpu/cur_freq"  # a Mali
    clock.parent.mkdir(parents=True)
    clock.write_text("800000000\n")
    assert read_conditions(tmp_path).gpu_mhz is None


def test_library_without_a_function_is_one_that_does_not_say():
    class Partial:
        def __getattr__(self, name):
            if name in ("nvmlDeviceGetClockInfo", "nvmlDeviceGetCurrentClocksThrottleReasons"):
                raise AttributeError(f"undefined symbol: {name}")
            return lambda *arguments: 0

    gpu = Nvml(Partial())
    assert gpu.clock_mhz() is None
    assert gpu.throttle_reasons() == ()
    assert gpu.temperature_c() == 0.0


def test_power_mode_is_read_in_a_container_without_the_boards_release(tmp_path):
    plant(tmp_path, "orin_nano")
    (tmp_path / "etc/nv_tegra_release").unlink()
    assert is_jetson(tmp_path), "by the name of its board"
    found = read_conditions(tmp_path, lambda command: "NV Power Mode: 25W\n1\n")
    assert found.power_mode == "25W"


@pytest.mark.parametrize(
    ("record", "mode", "faster"),
    [
        ("orin_nano", "15W", "MAXN_SUPER"),
        ("orin_nano", "MAXN_SUPER", None),
        ("xavier_nx", "MODE_20W_6CORE", None),
        ("xavier_nx", "MODE_20W_2CORE", None),
        ("xavier_nx", "MODE_15W_6CORE", "MODE_20W_2CORE"),
        ("agx_orin_jetpack6", "MODE_30W", "MAXN"),
        ("thor", "120W", "MAXN"),
        ("agx_orin", "MODE_30W", None),
    ],
)
def test_faster_mode_is_one_that_the_board_has(tmp_path, record, mode, faster):
    board = plant(tmp_path, record, nvpmodel=f"NV Power Mode: {mode}\n0\n").jetson
    assert board.power_mode == mode
    assert faster_mode(board) == faster


@pytest.mark.parametrize(
    ("record", "package"),
    [
        ("agx_orin", '"cuda-python<12"'),
        ("xavier_nx", '"cuda-python<12"'),
        ("orin_nano", '"cuda-python<13"'),
        ("agx_orin_jetpack6", '"cuda-python<13"'),
        ("thor", "cuda-python"),
    ],
)
def test_cuda_python_fits_the_cuda_of_the_jetpack(tmp_path, record, package):
    plant(tmp_path, record)
    assert cuda_python(tmp_path) == package
    assert cuda_python(tmp_path / "elsewhere") == "cuda-python"
    (tmp_path / "etc/nv_tegra_release").unlink()
    assert cuda_python(tmp_path) == '"cuda-python<13"', "an unknown JetPack runs CUDA 12"


def test_conditions_where_nothing_can_be_read(tmp_path):
    found = read_conditions(tmp_path)
    assert (found.cpu_mhz, found.gpu_mhz, found.temperatures_c) == (None, None, {})
    assert (found.throttle_reasons, found.power_mode) == ((), "")
