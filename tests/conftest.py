"""What every test needs of the process it runs in."""

from __future__ import annotations

import os
import signal

import pytest

from aloha_kit.core import own_code

pytest.register_assert_rewrite("aloha_kit.testing")


def pytest_configure() -> None:
    """A shell that runs us in the background, or nohup, has us and whatever we start ignore signals that tests send."""
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Converted models go to a folder of this session, not to the user's."""
    os.environ["ALOHA_KIT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def no_plug_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """No package counts as a user's own code because an earlier test of this process has loaded a plug-in from it."""
    monkeypatch.setattr(own_code, "_PACKAGES", set())
