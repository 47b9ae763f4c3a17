"""The images cannot be built here, so what they run must be what `make` runs, which is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]


def steps(service: str) -> list[tuple[str, str]]:
    """(instruction, rest) of a service's Dockerfile."""
    build = SERVICES[service]["build"]
    lines = ((ROOT / "docker" / build["context"]).resolve() / build["dockerfile"]).read_text().splitlines()
    return [tuple(line.split(" ", 1)) for line in lines if line and not line.startswith("#")]  # type: ignore[misc]


@pytest.mark.parametrize("service", ["robot", "trainer"])
def test_an_image_is_debian_and_what_make_installs(service: str) -> None:
    run = [rest for instruction, rest in steps(service) if instruction == "RUN"]
    assert ("FROM", "debian:12-slim") in steps(service)
    assert run[-1] == "make install"
    # nothing but what make itself needs comes before
    assert run[:-1] == [
        "apt-get update -q && apt-get install -y -q --no-install-recommends make python3 ca-certificates"
    ]
    assert "install: system $(VENV)/installed" in (ROOT / "Makefile").read_text()


def test_the_robot_has_its_devices_the_network_and_may_take_priority() -> None:
    robot = SERVICES["robot"]
    assert robot["network_mode"] == "host"
    assert "/dev:/dev" in robot["volumes"]
    majors = {rule.split()[1].split(":")[0] for rule in robot["device_cgroup_rules"]}
    assert {"81", "188"} <= majors  # video4linux, USB serial
    assert robot["ulimits"]["rtprio"] == 99
    assert "SYS_NICE" in robot["cap_add"]


def test_what_the_host_keeps_is_where_the_programs_write() -> None:
    for service in SERVICES.values():
        folders = [volume.split(":")[1] for volume in service["volumes"] if volume.startswith("../")]
        assert folders == ["/opt/aloha_kit/data", "/opt/aloha_kit/runs"]
