"""Ctrl-C waits while a process is started, and the process never receives it; a training is asked to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from aloha_kit.core.interrupt import interrupts_put_off, sigterm_interrupts, stop_requests

BLOCKED = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"


def put_off(send: Callable[[], None], reached: list[str]) -> None:
    with interrupts_put_off():
        send()
        reached.append("the end")


def test_an_interrupt_waits_until_the_end() -> None:
    reached: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        put_off(lambda: signal.raise_signal(signal.SIGINT), reached)
    assert reached == ["the end"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_and_sighup_wait_where_they_interrupt(number: signal.Signals) -> None:
    reached: list[str] = []
    with sigterm_interrupts(), pytest.raises(KeyboardInterrupt, match=number.name):
        put_off(lambda: signal.raise_signal(number), reached)
    assert reached == ["the end"]
    assert signal.getsignal(number) == signal.SIG_DFL


def test_requests_that_waited_are_all_passed_on() -> None:
    def twice() -> None:
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)

    reached: list[str] = []
    with stop_requests() as stop:
        with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
            put_off(twice, reached)
        assert (stop(), reached) == ("SIGTERM", ["the end"])


def test_an_ignored_interrupt_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts_put_off():
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_interrupt_that_another_thread_takes_waits_too() -> None:
    """A library's thread does not block signals; Python runs the handler in the main thread all the same."""
    release, reached = threading.Event(), []
    taker = threading.Thread(target=release.wait)  # started before the mask is set
    taker.start()
    collected, tell = os.pipe()
    os.set_blocking(tell, False)
    before = signal.set_wakeup_fd(tell)

    def send() -> None:
        signal.pthread_kill(taker.ident or 0, signal.SIGINT)
        os.read(collected, 1)  # until it has arrived there

    try:
        with pytest.raises(KeyboardInterrupt):
            put_off(send, reached)
    finally:
        signal.set_wakeup_fd(before)
        release.set()
        taker.join()
        os.close(collected)
        os.close(tell)
    assert reached == ["the end"]


def test_what_was_before_is_put_back_and_a_child_is_spared() -> None:
    handler = signal.getsignal(signal.SIGINT)
    with interrupts_put_off():
        child = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "True"
    assert signal.getsignal(signal.SIGINT) is handler
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_a_child_ends_by_sigterm() -> None:
    with interrupts_put_off():
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    child.terminate()
    assert child.wait(30) == -signal.SIGTERM


def test_elsewhere_than_in_the_main_thread_it_changes_nothing() -> None:
    masks = []

    def look() -> None:
        with interrupts_put_off():
            masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, []))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert signal.SIGINT not in masks[0]


def test_a_closed_terminal_sends_two_signals_and_nohup_not_at_all() -> None:
    with stop_requests() as stop:
        for _ in range(2):
            signal.raise_signal(signal.SIGHUP)
        assert stop() == "SIGHUP"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop() == ""
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_signal_interrupts() -> None:
    with stop_requests() as stop:
        assert not stop()
        signal.raise_signal(signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_launchers_echo_of_a_signal_is_no_second_one() -> None:
    with stop_requests(second_interrupts=False) as stop:
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
        assert stop()
