"""Disk space of lpx and what it needs."""

from importlib import metadata
from pathlib import Path

import pytest

from lpx.machine.installed import installed_size

SIZES = {"torch": 3_000_000, "numpy": 2_000_000, "needed-by-torch": 1_000_000, "pytest": 9_000_000}
REQUIRES = {
    "lpx": [
        "NumPy>=1.24",
        "not-installed; python_version < '3'",
        'torch>=2.8; extra == "export"',
        'lpx[export]; extra == "train"',
        'pytest>=8; extra == "dev"',
    ],
    "torch": ["numpy", "Needed.By_Torch>=1", 'pytest; extra == "test"'],
    "needed-by-torch": ["torch"],
}


@pytest.fixture
def find(tmp_path: Path):
    """Packages of one file each, beside each other."""
    for name in ("lpx", *SIZES):
        info = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        lines = [f"Requires-Dist: {text}" for text in REQUIRES.get(name, [])]
        (info / "METADATA").write_text("\n".join([f"Name: {name}", "Version: 1.0", *lines, ""]))
        (info / "RECORD").write_text(f"{name}.bin,,\n{name}.pyc,,\n")
        (tmp_path / f"{name}.bin").write_bytes(b"\0" * SIZES.get(name, 0))

    def find(name: str) -> metadata.Distribution:
        found = list(metadata.distributions(name=name, path=[str(tmp_path)]))
        if not found:
            raise metadata.PackageNotFoundError(name)
        return found[0]

    return find


def test_each_package_counts_once_and_extras_apart(find) -> None:
    size = installed_size(find)
    assert size is not None
    packages = dict(size.packages_mb)
    own = packages.pop("lpx")
    assert packages == {"torch": 3, "numpy": 2, "needed-by-torch": 1}
    assert size.core_mb == pytest.approx(own + 2)
    assert size.total_mb == pytest.approx(own + 6)
    assert list(size.packages_mb.values()) == sorted(size.packages_mb.values(), reverse=True)


def test_without_metadata_of_lpx_nothing_is_claimed() -> None:
    def find(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    assert installed_size(find) is None


def test_packages_that_do_not_list_their_files_count_as_nothing(find, tmp_path: Path) -> None:
    (tmp_path / "numpy-1.0.dist-info/RECORD").unlink()
    size = installed_size(find)
    assert size is not None
    assert size.packages_mb["numpy"] == 0
