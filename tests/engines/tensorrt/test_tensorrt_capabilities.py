"""The capability record of every release claimed, read from that release's own names."""

from __future__ import annotations

import pytest
from tensorrt_fakes import FakeLibrary
from tensorrt_surfaces import RELEASES

from lpx.engines.tensorrt.capabilities import capabilities_of, known_bad, parse_version

HOLDS = {
    # has it: 8.6.1, 10.3.0, 10.7.0, 10.13.3.9, 10.16.1.11, 11.4.0.106, RTX 1.7.1.116
    "strongly_typed_only": "000 0011",
    "strongly_typed_flag": "011 1111",
    "explicit_batch_flag": "111 1100",
    "fp16_flag": "111 1100",
    "int8_flag": "111 1100",
    "calibrators": "111 1100",
    "dla": "111 0000",
    "debug_tensors": "011 1111",
    "progress_monitor": "011 1111",
    "timing_cache": "111 1110",
    "error_on_timing_cache_miss": "011 1110",
    "version_compatible": "111 1110",
    "hardware_compatibility": "111 1110",
    "set_compute_capability": "000 0001",
    "parser_node_name": "011 1111",
    "builtin_cuda_graphs": "000 0001",
}
DIALECTS = ["weakly-typed", *["strongly-typed"] * 6]
DLA_DIALECTS = [*["calibration-cache"] * 3, *[None] * 4]


def flavour_of(release: str) -> str:
    return "tensorrt-rtx" if "rtx" in release else "tensorrt"


@pytest.mark.parametrize("index", range(len(RELEASES)))
def test_each_release_has_its_capabilities(index: int) -> None:
    release = RELEASES[index]
    found = capabilities_of(FakeLibrary(release), flavour_of(release))
    expected = {name: marks.replace(" ", "")[index] == "1" for name, marks in HOLDS.items()}
    assert {name: getattr(found, name) for name in HOLDS} == expected
    assert found.dialect == DIALECTS[index]
    assert found.dla_dialect == DLA_DIALECTS[index]


def test_dla_is_back_in_11_4_1() -> None:
    library = FakeLibrary("tensorrt-11.4.0.106")
    library.__version__ = "11.4.1.3"
    assert capabilities_of(library, "tensorrt").dla_dialect == "dla-explicit"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("10.13.3.9", (10, 13, 3, 9)),
        ("8.6.2-1+cuda12.2", (8, 6, 2)),
        ("10.0.0b6", (10, 0, 0)),
        ("", ()),
    ],
)
def test_versions_are_read(text: str, version: tuple[int, ...]) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ((10, 2, 0, 19), "exporter"),
        ((10, 3, 0), "JetPack 6.2"),
        ((10, 4, 0, 26), "vision transformers"),
        ((10, 13, 3, 9), "Thor"),
        ((10, 16, 2, 10), "DQ output type"),
        ((11, 2, 1), "miscompile"),
    ],
)
def test_known_bad_releases_are_known(version: tuple[int, ...], reason: str) -> None:
    assert reason in (known_bad(version) or "")


@pytest.mark.parametrize("version", [(8, 6, 1), (10, 13, 3, 8), (10, 16, 1, 11), (11, 4, 0), ()])
def test_other_releases_are_not(version: tuple[int, ...]) -> None:
    assert known_bad(version) is None
