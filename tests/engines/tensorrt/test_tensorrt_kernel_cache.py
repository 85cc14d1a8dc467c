"""What TensorRT for RTX compiles at run time: at once, and kept beside the plan between runs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tensorrt_fakes import SIZE, FakeDriver, FakeGpu, FakeLibrary, Spy, loadable

from lpx.engines.tensorrt.kernel_cache import KernelCache, save_kernels
from lpx.engines.tensorrt.runtime import TensorRTEngine

RTX = "tensorrt-rtx-1.7.1.116"
KERNEL = b"kernel;"


class Kernels:
    """The caches of a fake library: each context of its engines adds a kernel to its own.

    What it writes has a checksum in front, and it takes nothing whose checksum does not fit.
    """

    def __init__(self, release: str = RTX) -> None:
        self.gpu = FakeGpu()
        self.library = loadable(FakeLibrary(release), self.gpu, spans=((1, 1, 1), (8, 8, 8)))
        self.caches: list[bytes] = []
        self.takes = True
        deserialize = vars(self.library)["Runtime"]
        self.library.Runtime = lambda logger: self._runtime(deserialize(logger))

    def _runtime(self, runtime: Any) -> Any:
        real = runtime.deserialize_cuda_engine

        def load(plan: bytes) -> Any:
            engine = real(plan)
            engine._answers["create_runtime_config"] = self._config
            return engine

        runtime._answers["deserialize_cuda_engine"] = load
        return runtime

    def _config(self) -> Spy:
        return Spy(
            "IRuntimeConfig",
            self.library,
            create_runtime_cache=self._cache,
            set_runtime_cache=self._set,
        )

    def _cache(self) -> Spy:
        index = len(self.caches)
        self.caches.append(b"")
        return Spy(
            "IRuntimeCache",
            self.library,
            deserialize=lambda blob: self._fill(index, blob),
            serialize=lambda: sealed(self.caches[index]),
        )

    def _fill(self, index: int, blob: bytes) -> bool:
        data = bytes(blob)[32:]
        if sealed(data) != blob:
            return False
        self.caches[index] = data
        return True

    def _set(self, cache: Spy) -> bool:
        if self.takes and len(self.caches[-1]) < 2 * len(KERNEL):
            self.caches[-1] += KERNEL
        return self.takes

    def load(self, path: Path | None) -> TensorRTEngine:
        return TensorRTEngine(
            b"plan", self.library.opened, driver=FakeDriver(self.gpu), kernel_cache=path
        )


def sealed(data: bytes) -> bytes:
    return hashlib.sha256(data).digest() + data


@pytest.fixture
def kernels() -> Kernels:
    return Kernels()


def test_kernels_of_a_shape_are_compiled_before_it_runs(kernels: Kernels) -> None:
    kernels.load(None).close()
    strategies = kernels.library.named(
        "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy ="
    )
    assert [call[1].name for call in strategies] == ["EAGER", "EAGER"]
    assert not kernels.library.named("IRuntimeConfig.create_runtime_cache")


def test_kernels_are_kept_beside_the_plan(kernels: Kernels, tmp_path: Path) -> None:
    path = tmp_path / "kernels.cache"
    engine = kernels.load(path)
    assert len(kernels.caches) == 1, "the contexts share one"
    assert not path.exists()
    engine.close()
    engine.close()
    assert path.read_bytes() == sealed(2 * KERNEL)
    written = path.stat().st_mtime_ns
    with kernels.load(path) as engine:
        assert kernels.caches[1] == 2 * KERNEL
        assert engine.notes == []
    assert path.stat().st_mtime_ns == written, "it did not grow"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "data", [b"not a cache", sealed(b"kernel")[:-1]], ids=["another file", "cut off"]
)
def test_a_cache_of_another_machine_is_made_again(
    kernels: Kernels, tmp_path: Path, data: bytes
) -> None:
    path = tmp_path / "kernels.cache"
    path.write_bytes(data)
    with kernels.load(path) as engine:
        (note,) = engine.notes
        assert note.startswith("kernels.cache belongs to another GPU, driver or release")
    assert path.read_bytes() == sealed(2 * KERNEL)


def test_a_cache_that_cannot_be_read_or_written_stops_nothing(
    kernels: Kernels, tmp_path: Path
) -> None:
    path = tmp_path / "kernels.cache"
    path.mkdir()
    engine = kernels.load(path)
    assert len(engine.notes) == 1
    assert "cannot be read" in engine.notes[0]
    engine.infer(np.zeros((1, SIZE, SIZE, 3), np.uint8))
    engine.close()
    assert "were not kept in" in engine.notes[-1]
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_to_elsewhere_is_not_followed(kernels: Kernels, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(sealed(KERNEL))
    folder = tmp_path / "engine"
    folder.mkdir()
    (folder / "kernels.cache").symlink_to(tmp_path / "elsewhere")
    with kernels.load(folder / "kernels.cache") as engine:
        assert "cannot be read" in engine.notes[0]
        assert not kernels.library.named("IRuntimeCache.deserialize")
    assert (tmp_path / "elsewhere").read_bytes() == sealed(KERNEL)


def test_a_library_that_takes_no_cache_is_noted(kernels: Kernels, tmp_path: Path) -> None:
    kernels.takes = False
    with kernels.load(tmp_path / "kernels.cache") as engine:
        assert engine.notes[0] == (
            "TensorRT for RTX refused the cache: kernels are compiled in each run"
        )


def test_tensorrt_itself_keeps_no_kernels(tmp_path: Path) -> None:
    Kernels("tensorrt-10.13.3.9").load(tmp_path / "kernels.cache").close()
    assert list(tmp_path.iterdir()) == []


def test_a_gpu_that_is_lost_before_kernels_are_kept_does_not_keep_the_engine_open(
    tmp_path: Path,
) -> None:
    def fail() -> bytes:
        raise RuntimeError("CUDA error 719: unspecified launch failure")

    kernels = KernelCache(tmp_path / "kernels", made=SimpleNamespace(serialize=fail))
    save_kernels(kernels)
    assert kernels.notes == [
        "compiled kernels were not kept: CUDA error 719: unspecified launch failure"
    ]
    assert kernels.made is None
