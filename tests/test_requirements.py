"""`requirements.lock` pins everything that setup.py asks for, within its bounds, on every supported Python."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def asked() -> list[Requirement]:
    """What `pip install aloha_kit[all,test]` asks for."""
    given: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(setuptools, "setup", lambda **arguments: given.update(arguments))
        runpy.run_path(str(ROOT / "setup.py"))
    extras = given["extras_require"]
    return [Requirement(line) for line in given["install_requires"] + extras["all"] + extras["test"]]


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_every_requirement_is_pinned_within_its_bounds(asked: list[Requirement], python: str) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    pinned = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            (pin,) = requirement.specifier
            assert pin.operator == "==", line
            pinned[canonicalize_name(requirement.name)] = pin.version
    for requirement in asked:
        if requirement.marker is not None and not requirement.marker.evaluate(environment):
            continue
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{name} is not in requirements.lock: make lock"
        assert pinned[name] in requirement.specifier, f"{name} {pinned[name]} is not {requirement.specifier}: make lock"


def test_nothing_in_it_comes_from_elsewhere() -> None:
    assert "://" not in (ROOT / "requirements.lock").read_text()
