"""`benchmarks/gpu_wheels.sh` over a folder of made-up wheels, in place of a package index."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import gpu_wheels  # noqa: E402


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of every package that is wanted, of the locked version; h5py's is the largest."""
    folder = tmp_path_factory.mktemp("index")
    versions = gpu_wheels.locked("3.12")
    for name in " ".join(gpu_wheels.NEEDED.values()).split():
        module, version = name.replace("-", "_"), versions[name]
        about = f"{module}-{version}.dist-info"
        with zipfile.ZipFile(folder / f"{module}-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{module}/__init__.py", f"NAME = '{name}'\n")
            for unused in gpu_wheels.UNUSED.get(name, ()):
                wheel.writestr(f"{unused}large.bin", os.urandom(300_000))
            if name == "h5py":
                wheel.writestr("h5py/library.so", os.urandom(200_000))
            wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{about}/RECORD", "")
    return folder


def wheels(index: Path, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", "benchmarks/gpu_wheels.sh", "--downloaded", str(index), "--folder", str(folder), *flags]
    environment = {**os.environ, "PYTHON": sys.executable}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_all_of_the_locked_versions_without_what_nothing_imports(index: Path, tmp_path: Path) -> None:
    done = wheels(index, tmp_path / "wheels")
    assert done.returncode == 0, done.stderr
    versions, names = gpu_wheels.locked("3.12"), " ".join(gpu_wheels.NEEDED.values()).split()
    got = sorted(file.name for file in (tmp_path / "wheels").iterdir())
    assert got == sorted(f"{name.replace('-', '_')}-{versions[name]}-py3-none-any.whl" for name in names)
    assert sum(file.stat().st_size for file in (tmp_path / "wheels").iterdir()) < 300_000
    with zipfile.ZipFile(next((tmp_path / "wheels").glob("dm_control-*"))) as wheel:
        assert "dm_control/__init__.py" in wheel.namelist()
        assert not [name for name in wheel.namelist() if name.startswith("dm_control/locomotion/")]


def test_what_is_there_is_left_out_and_what_does_not_fit_is_named(index: Path, tmp_path: Path) -> None:
    have = tmp_path / "pip_list.txt"
    have.write_text("MuJoCo==3.17.0\ntorch @ file:///somewhere\nPyYAML==6.0\n")
    done = wheels(index, tmp_path / "wheels", "--have", str(have), "--limit_mib", "0.1")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("left out: h5py 3.16.0 (0.2 MiB, over the limit): training")
    names = {file.name.split("-")[0] for file in (tmp_path / "wheels").iterdir()}
    assert names.isdisjoint({"mujoco", "pyyaml", "h5py"})
    assert {"tyro", "dm_env", "mink"} <= names
    assert sum(file.stat().st_size for file in (tmp_path / "wheels").iterdir()) <= 0.1 * 2**20
