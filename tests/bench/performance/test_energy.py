"""Energy on simulated sources whose true energy is known."""

from __future__ import annotations

import json
import math
import threading
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpx.bench.performance.energy import Window, measure_energy, summarise
from lpx.machine.energy_sources import (
    Counters,
    EnergySourceError,
    Rails,
    Unavailable,
    integrate_joules,
    open_source,
)
from lpx.machine.ina3221 import find_rails
from lpx.machine.nvml import Nvml, NvmlError

RECORDS = Path(__file__).parents[2] / "fixtures" / "machines"
FACES = np.zeros((2, 8, 8, 3), np.uint8)
RANGE_UJ = 262_143_328_850


class Board:
    """A sysfs tree of one rail at 5 V, rewritten by a thread; remembers every power it wrote."""

    def __init__(self, root: Path, watts) -> None:
        self.folder = root / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon0"
        self.folder.mkdir(parents=True)
        for name, text in (
            ("in1_label", "VDD_IN"),
            ("in1_input", "5000"),
            ("curr1_input", "0"),
            ("update_interval", "2"),
        ):
            (self.folder / name).write_text(text)
        self.watts, self.written, self.ended = watts, [], threading.Event()
        self.file = (self.folder / "curr1_input").open("r+b", buffering=0)
        self.thread = threading.Thread(target=self.rewrite)

    def rewrite(self) -> None:
        while not self.ended.wait(0.002):
            watts = self.watts(time.monotonic())
            self.file.seek(0)
            self.file.write(b"%7d\n" % round(watts * 1e3 / 5))
            self.written.append((time.monotonic(), watts))

    def __enter__(self):
        self.thread.start()
        time.sleep(0.02)
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()
        self.file.close()

    def joules(self, begin: float, end: float) -> float:
        """What the rail truly showed: each power from its writing to the next."""
        times, watts = np.array(self.written).T
        edges = np.clip(np.append(times, np.inf), begin, end)
        return float((np.diff(edges) * watts).sum())


def test_rails_give_the_energy_of_a_known_curve(tmp_path):
    begin = time.monotonic()

    def watts(now):
        return 10 + 5 * math.sin(2 * math.pi * (now - begin) / 0.7)

    with Board(tmp_path, watts) as board:
        source = open_source("cpu", tmp_path)
        assert source.name == "ina3221: VDD_IN"
        assert source.covers == "the whole module, without the carrier board"
        try:
            for _ in range(2):
                source.start()
                started = time.monotonic()
                time.sleep(1.2)
                ended = time.monotonic()
                found = source.stop()
                assert found == pytest.approx(board.joules(started, ended), rel=0.01)
        finally:
            source.close()
    assert source._sampler.returncode == 0


@pytest.mark.parametrize(
    ("record", "name", "covers", "watts"),
    [
        ("thor", "ina238: VIN", "the whole board, its carrier included", 24.2),
        ("orin_nano", "ina3221: VDD_IN", "the whole module, without the carrier board", 5.153152),
        ("xavier_nx", "ina3221: VDD_IN", "the whole module, without the carrier board", 3.9232),
        (
            "agx_orin_jetpack6",
            "ina3221: VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0",
            "those rails of the module, without the carrier board",
            8.452736,
        ),
    ],
)
def test_power_of_each_board(tmp_path, record, name, covers, watts):
    for path, text in json.loads((RECORDS / f"{record}.json").read_text())["files"].items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    source = open_source("gpu", tmp_path)
    try:
        assert (source.name, source.covers) == (name, covers)
        begin = time.monotonic()
        source.start()
        time.sleep(0.05)
        joules = source.stop()
        assert watts * 0.05 <= joules <= watts * (time.monotonic() - begin)
        assert source._samples(0)[:, 1] == pytest.approx(watts)
    finally:
        source.close()


def test_sum_of_module_rails_and_a_negative_reading(tmp_path):
    """Thor without its INA238: an idle rail reads a little below 0 and is added as it is."""
    folder = tmp_path / "sys/bus/i2c/drivers/ina3221/2-0040/hwmon/hwmon3"
    folder.mkdir(parents=True)
    for channel, (label, mv, ma) in enumerate(
        [("VDD_GPU", 20000, -20), ("VDD_CPU_SOC_MSS", 20000, 350)], start=1
    ):
        (folder / f"in{channel}_label").write_text(label)
        (folder / f"in{channel}_input").write_text(f"{mv}\n")
        (folder / f"curr{channel}_input").write_text(f"{ma}\n")
    source = open_source("gpu", tmp_path)
    try:
        source.start()
        source.stop()
        assert source.name == "ina3221: VDD_GPU + VDD_CPU_SOC_MSS"
        assert source._samples(0)[:, 1] == pytest.approx(6.6)
    finally:
        source.close()


def test_engine_on_a_board_net_of_idle(tmp_path):
    """Idle 4 W, working 16 W: 12 W times the time of a face is net."""
    working = threading.Event()

    class Engine:
        def infer(self, faces):
            working.set()
            time.sleep(0.02)

        def close(self):
            pass

    with Board(tmp_path, lambda _: 16.0 if working.is_set() else 4.0) as board:
        source = Rails(find_rails(tmp_path)[0])
        original = source.stop

        def stop():  # the engine's work ends with its window
            joules = original()
            working.clear()
            time.sleep(0.03)
            return joules

        source.stop = stop
        try:
            found = measure_energy(
                {"a": Engine()},
                {"a": source},
                FACES,
                10,
                windows=3,
                window_seconds=0.5,
                idle_seconds=0.25,
            )["a"]
        finally:
            source.close()
    assert board.written
    assert found.load_w.estimate == pytest.approx(16.0, rel=0.01)
    assert found.idle_w.estimate == pytest.approx(4.0, rel=0.01)
    net, gross = found.net_j_per_face.estimate, found.gross_j_per_face.estimate
    assert net / gross == pytest.approx(12 / 16, rel=0.01)
    assert gross >= 16 * 0.02 / 2
    assert found.gross_mj_per_patch.estimate == pytest.approx(1e3 * gross / 10)


def test_rail_that_vanishes_is_an_error_not_a_zero(tmp_path):
    with Board(tmp_path, lambda _: 4.0) as board:
        source = open_source("gpu", tmp_path)
        try:
            source.start()
            board.ended.set()
            board.thread.join()
            board.file.truncate(0)
            time.sleep(0.05)
            with pytest.raises(EnergySourceError, match="could not be read"):
                source.stop()
            source._sampler.kill()
            source._sampler.wait()
            with pytest.raises(EnergySourceError, match="sampling process ended"):
                source.start()
        finally:
            source.close()


@given(
    st.lists(st.tuples(st.floats(0.001, 2), st.floats(0, 60)), min_size=2, max_size=40),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_trapezoids_are_exact_on_broken_lines_and_add_up(steps, left, right):
    times = np.cumsum([step for step, _ in steps])
    watts = np.array([power for _, power in steps])
    span = times[-1] - times[0]
    begin, end = (times[0] + span * share for share in sorted((left, right)))
    whole = integrate_joules(times, watts, times[0], times[-1])
    parts = [
        integrate_joules(times, watts, a, b)
        for a, b in ((times[0], begin), (begin, end), (end, times[-1]))
    ]
    assert sum(parts) == pytest.approx(whole, rel=1e-9, abs=1e-9)
    assert whole == pytest.approx(float(np.trapezoid(watts, times)), rel=1e-9, abs=1e-12)


class World:
    """Time and a RAPL counter that move only when something happens: exact truth."""

    def __init__(self, root: Path, start_uj: int, range_uj: int = RANGE_UJ) -> None:
        self.now, self.range_uj = 50.0, range_uj
        self.zones = {}
        for zone, name in (
            ("intel-rapl:0", "package-0"),
            ("intel-rapl:0:0", "core"),
            ("intel-rapl:0:1", "dram"),
            ("intel-rapl:1", "psys"),
            ("intel-rapl-mmio:0", "package-0"),
        ):
            folder = root / "sys/class/powercap" / zone
            folder.mkdir(parents=True)
            (folder / "name").write_text(name + "\n")
            (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
            (folder / "energy_uj").write_text(f"{start_uj}\n")
            self.zones[zone] = (folder / "energy_uj", start_uj)

    def spend(self, seconds: float, watts: dict[str, float]) -> None:
        self.now += seconds
        for zone, power in watts.items():
            path, value = self.zones[zone]
            value = (value + round(power * seconds * 1e6)) % (self.range_uj + 1)
            self.zones[zone] = path, value
            path.write_text(f"{value}\n")

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.spend(seconds, {"intel-rapl:0": 5.0, "intel-rapl:0:1": 1.0, "intel-rapl:1": 40.0})


class Worker:
    """An engine of 10 ms a call, at a package power of its own."""

    def __init__(self, world: World, watts: float) -> None:
        self.world, self.watts = world, watts

    def infer(self, faces):
        self.world.spend(
            0.01,
            {"intel-rapl:0": self.watts, "intel-rapl:0:0": self.watts, "intel-rapl:0:1": 2.0},
        )

    def close(self):
        pass


@pytest.mark.parametrize("start_uj", [0, RANGE_UJ - 30_000_000])
def test_rapl_counts_packages_and_memory_across_a_wrap(tmp_path, start_uj):
    world = World(tmp_path, start_uj)
    source = open_source("cpu", tmp_path)
    assert source.name == "rapl: dram + package-0"
    told = []
    found = measure_energy(
        {"a": Worker(world, 20.0), "b": Worker(world, 35.0)},
        {"a": source, "b": source},
        FACES,
        100,
        windows=2,
        window_seconds=1.0,
        idle_seconds=1.0,
        progress=lambda *progress: told.append(progress),
        clock=world,
    )
    for name, watts in (("a", 22.0), ("b", 37.0)):
        result = found[name]
        assert result.idle_w.estimate == pytest.approx(6.0)
        assert result.load_w.estimate == pytest.approx(watts)
        assert result.gross_j_per_face.estimate == pytest.approx(watts * 0.01 / 2)
        assert result.net_j_per_face.estimate == pytest.approx((watts - 6.0) * 0.01 / 2)
        assert result.net_mj_per_patch.estimate == pytest.approx((watts - 6.0) * 10 / 200)
        assert result.faces in (400, 404)  # sums of 0.01 may fall short of 1.0
        json.dumps(asdict(result))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_rapl_of_root_says_how_to_open_it(tmp_path):
    World(tmp_path, 0)

    class Guarded(type(Path())):
        def read_text(self, *arguments, **options):
            if self.name == "energy_uj":
                raise PermissionError(13, "Permission denied")
            return super().read_text(*arguments, **options)

    found = open_source("cpu", Guarded(tmp_path))
    assert isinstance(found, Unavailable)
    assert "root only: sudo chmod a+r" in str(found)


def test_machine_without_rapl(tmp_path):
    found = open_source("cpu", tmp_path)
    assert str(found).startswith("unavailable: no RAPL in /sys/class/powercap")


def test_jetson_that_hides_its_rails_is_not_measured_by_something_else(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3\n")
    assert "mount the host's /sys" in str(open_source("gpu", tmp_path))


class FakeNvml:
    """The driver's library: a counter in mJ."""

    def __init__(self, energies, code=0):
        self.energies, self.code, self.asked = iter(energies), code, []

    def __getattr__(self, name):
        def call(*arguments):
            self.asked.append((name, arguments))
            if name == "nvmlDeviceGetName":
                arguments[1].value = b"NVIDIA L4"
            if name == "nvmlDeviceGetTotalEnergyConsumption":
                if self.code:
                    return self.code
                arguments[1]._obj.value = next(self.energies)
            if name == "nvmlDeviceGetClockInfo":
                arguments[2]._obj.value = 1980
            if name == "nvmlDeviceGetCurrentClocksThrottleReasons":
                arguments[1]._obj.value = 0x1 | 0x4 | 0x40
            return 3 if name == "nvmlDeviceGetTemperature" else 0

        if name == "nvmlErrorString":
            return self.describe
        return call

    class describe:  # noqa: N801 - stands for a C function
        restype = None

        def __new__(cls, code):
            return b"Not Supported"


def test_nvml_counts_millijoules(tmp_path):
    source = open_source("gpu", tmp_path, lambda: Nvml(FakeNvml([0, 5_000, 12_500])))
    assert source.name == "nvml: NVIDIA L4"
    assert "without the host" in source.covers
    source.start()
    assert source.stop() == pytest.approx(7.5)


def test_nvml_without_a_counter_or_a_driver_says_so(tmp_path):
    found = open_source("gpu", tmp_path, lambda: Nvml(FakeNvml([], code=3)))
    assert "NVML: Not Supported" in str(found)

    def absent(name):
        raise OSError(name)

    with pytest.raises(NvmlError, match="no NVIDIA driver"):
        Nvml(load=absent)
    found = open_source("gpu", tmp_path, lambda: Nvml(load=absent))
    assert "no NVIDIA driver" in str(found)


def test_nvml_tells_the_state_and_picks_the_visible_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    library = FakeNvml([])
    gpu = Nvml(library)
    opened = dict(library.asked)["nvmlDeviceGetHandleByIndex_v2"]
    assert opened[0].value == 3
    assert gpu.clock_mhz() == 1980
    assert gpu.temperature_c() is None, "the driver refused"
    assert gpu.throttle_reasons() == ("power cap (software)", "heat (hardware)")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8932f937")
    Nvml(library)
    assert dict(library.asked)["nvmlDeviceGetHandleByUUID"][0] == b"GPU-8932f937"


def test_counter_that_stands_still_is_not_zero_energy(tmp_path):
    world = World(tmp_path, 0)
    still = Counters("still", "", lambda: [7], [0], 1e-3)
    falling = iter(range(9, 0, -1))
    backwards = Counters("back", "", lambda: [next(falling)], [0], 1.0)
    engines = {name: Worker(world, 9.0) for name in ("still", "back", "none")}
    sources = {"still": still, "back": backwards, "none": Unavailable("no rails")}
    found = measure_energy(engines, sources, FACES, 1, windows=1, window_seconds=0.1, clock=world)
    assert "nothing was counted" in str(found["still"])
    assert "went backwards" in str(found["back"])
    assert found["none"] == Unavailable("no rails")


def test_interval_is_students():
    source = Counters("s", "", lambda: [0], [0], 1.0)
    windows = [Window(1.0, joules, 10.0, 5) for joules in (20.0, 22.0, 27.0)]
    found = summarise(windows, source, batch=2, units=4)
    # Faces 10 a window: 2.0, 2.2, 2.7 J; mean 2.3, s = 0.36056; t(2, 0.975) = 4.30265.
    half = 4.30265 * 0.360555 / math.sqrt(3)
    assert found.gross_j_per_face.estimate == pytest.approx(2.3)
    assert found.gross_j_per_face.low == pytest.approx(2.3 - half, rel=1e-4)
    assert found.gross_j_per_face.high == pytest.approx(2.3 + half, rel=1e-4)
    assert found.net_j_per_face.estimate == pytest.approx(1.3)
    single = summarise(windows[:1], source, batch=2, units=4)
    assert (single.gross_j_per_face.low, single.gross_j_per_face.high) == (-math.inf, math.inf)
