"""Each lock file pins everything that setup.py requires, within its bounds, on every supported Python."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCKS = {
    "requirements.lock": ("all", "test"),
    "requirements-robosuite.lock": ("robosuite", "train", "view", "remote", "zarr", "test"),
}
"""{lock file: extras that it pins}."""


def requested(extras: tuple[str, ...]) -> list[Requirement]:
    """The requirements of `pip install aloha_kit[EXTRAS]`."""
    given: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(setuptools, "setup", lambda **arguments: given.update(arguments))
        runpy.run_path(str(ROOT / "setup.py"))
    lines = [*given["install_requires"], *(line for extra in extras for line in given["extras_require"][extra])]
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_every_requirement_is_pinned_within_its_bounds(lock: str, python: str) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    pinned = {}
    for line in (ROOT / lock).read_text().splitlines():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            (pin,) = requirement.specifier
            assert pin.operator == "==", line
            pinned[canonicalize_name(requirement.name)] = pin.version
    for requirement in requested(LOCKS[lock]):
        if requirement.marker is not None and not requirement.marker.evaluate(environment):
            continue
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{name} is not in {lock}: make lock"
        assert pinned[name] in requirement.specifier, f"{name} {pinned[name]} is not {requirement.specifier}: make lock"


@pytest.mark.parametrize("lock", LOCKS)
def test_nothing_in_it_comes_from_elsewhere(lock: str) -> None:
    assert "://" not in (ROOT / lock).read_text()
