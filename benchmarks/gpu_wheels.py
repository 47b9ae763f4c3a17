"""What a bare GPU machine lacks, as wheels in one folder that travels there: see `gpu_wheels.sh`."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks" / "wheels"
MIB = 2**20

THERE = "torch torchvision triton numpy scipy opencv pillow matplotlib"
"""What the machine has: a torch that was built for its GPU, and what is too large to travel."""

NEEDED = {  # in the order of their worth
    "training": "dm-env dm-tree absl-py attrs wrapt h5py pyyaml dacite tyro docstring-parser typeguard"
    " typing-extensions tqdm einops safetensors tensorboard protobuf grpcio markdown werkzeug markupsafe"
    " packaging setuptools",
    "simulation": "mujoco glfw pyopengl etils dm-control lxml pyparsing requests urllib3 idna certifi"
    " charset-normalizer mink daqp qpsolvers gym-aloha pyquaternion",
    "diffusion": "diffusers huggingface-hub filelock fsspec importlib-metadata zipp regex",
    "Push-T": "gym-pusht gymnasium farama-notifications cloudpickle pymunk cffi pycparser pygame shapely",
}
UNUSED = {  # folders of wheels that nothing here imports
    "dm-control": ("dm_control/locomotion/", "dm_control/suite/", "dm_control/blender/", "dm_control/manipulation/"),
    "mujoco": ("mujoco/experimental/",),
    "diffusers": ("diffusers/pipelines/", "diffusers/modular_pipelines/", "diffusers/commands/"),
    "pygame": ("pygame/docs/", "pygame/examples/", "pygame/tests/"),
}
PLATFORMS = (*(f"manylinux_2_{n}" for n in (28, 27, 26, 24, 17, 12, 5)), "manylinux2014", "manylinux1")  # each by name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default="3.12", help="of the GPU machine")
    parser.add_argument(
        "--have", type=Path, help="there: python3 -m pip list --format=freeze > FILE; what it names is left out"
    )
    parser.add_argument("--limit_mib", type=float, default=60.0, help="what does not fit is named and left out")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--downloaded", type=Path, help="a folder of wheels to take; nothing is downloaded")
    args = parser.parse_args()
    have = set()
    if args.have is not None:
        have = {
            canonicalize_name(line.split("==")[0].split(" @ ")[0]) for line in args.have.read_text().split("\n") if line
        }
    versions = locked(args.python)
    args.folder.mkdir(parents=True, exist_ok=True)
    for old in args.folder.glob("*.whl"):
        old.unlink()
    wanted = {name: purpose for purpose, names in NEEDED.items() for name in names.split() if name not in have}
    total, missing = 0, [f"{name} (not in requirements.lock): {wanted[name]}" for name in wanted.keys() - versions]
    with tempfile.TemporaryDirectory() as scratch:
        pins = [f"{name}=={versions[name]}" for name in wanted if name in versions]
        if args.downloaded is None:
            download(pins, args.python, Path(scratch))
        folder = args.downloaded or Path(scratch)
        wheels = {str(canonicalize_name(wheel.name.split("-")[0])): wheel for wheel in folder.glob("*.whl")}
        for name in (name for name in wanted if name in versions):
            if name not in wheels:
                missing.append(f"{name} {versions[name]} (no wheel): {wanted[name]}")
                continue
            target = args.folder / wheels[name].name
            size = trim(wheels[name], target, UNUSED.get(name, ()))
            if total + size > args.limit_mib * MIB:
                target.unlink()
                missing.append(f"{name} {versions[name]} ({size / MIB:.1f} MiB, over the limit): {wanted[name]}")
                continue
            total += size
            print(f"{size / MIB:6.2f} MiB  {target.name}", flush=True)
    print(f"{total / MIB:6.2f} MiB in {args.folder}, for Python {args.python}; expected there: {THERE}")
    for line in missing:
        print(f"left out: {line}", file=sys.stderr)
    sys.exit(1 if missing else 0)


def locked(python: str) -> dict[str, str]:
    """{name: version} of requirements.lock on Linux with this Python."""
    environment = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    versions: dict[str, str] = {}
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            versions[canonicalize_name(requirement.name)] = str(requirement.specifier).removeprefix("==")
    return versions


def download(pins: Sequence[str], python: str, folder: Path) -> None:
    """Put the wheels of packages for Linux on x86-64 into `folder`, without those that have none."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    command += ["--implementation", "cp", "--python-version", python]
    command += [word for tag in PLATFORMS for word in ("--platform", f"{tag}_x86_64")]
    if subprocess.run([*command, *pins], capture_output=True, check=False).returncode:  # one that is missing stops all
        for pin in pins:
            subprocess.run([*command, pin], capture_output=True, check=False)


def trim(wheel: Path, target: Path, unused: Iterable[str]) -> int:
    """Copy a wheel without some of its folders; returns the size in bytes. It is unpacked there, not installed by pip,
    so that its list of files need not agree."""
    unused = tuple(unused)
    with zipfile.ZipFile(wheel) as given, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as kept:
        for entry in given.infolist():
            if not entry.filename.startswith(unused or ("\0",)):
                kept.writestr(entry, given.read(entry), zipfile.ZIP_DEFLATED, 9)
    return target.stat().st_size


if __name__ == "__main__":
    main()
