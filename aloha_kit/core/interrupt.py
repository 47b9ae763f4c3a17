"""Interrupts: SIGTERM and SIGHUP end a command as Ctrl-C does, or ask a training to save and stop; Ctrl-C waits while a
process is started."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from aloha_kit.core.lang import tr

LOG = logging.getLogger(__name__)


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Inside, SIGTERM raises `KeyboardInterrupt("SIGTERM")`; the handler before is put back afterwards.

    A process is stopped by SIGTERM when a machine shuts down, a service is restarted or roslaunch
    ends, and by SIGHUP when its terminal goes (a lost ssh connection): by default Python dies there at
    once, arms torqued and the episode open. One that is ignored (nohup) stays ignored. Signals reach
    the main thread only, so elsewhere this changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(signum).name)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    before = {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stop_requests(*, second_interrupts: bool = True) -> Iterator[Callable[[], str]]:
    """Turn the first SIGINT, SIGTERM or SIGHUP (a closed ssh connection) into a request to stop after this step.

    Yields a function that returns the signal's name, empty before one came. A second signal raises `KeyboardInterrupt`
    if `second_interrupts`; not under a launcher, which passes on signals that its processes have received already and
    ends those that do not stop. An ignored SIGHUP (nohup) stays ignored.
    """
    received: list[str] = []

    def request(signum: int, frame: FrameType | None) -> None:
        name = signal.Signals(signum).name
        if received:
            # the shell of a closed terminal passes on the terminal's SIGHUP
            if second_interrupts and signum != signal.SIGHUP:
                raise KeyboardInterrupt(name)
            return
        received.append(name)
        with contextlib.suppress(RuntimeError):  # the signal came in the middle of another line
            LOG.info(tr("{signal}: saving after this step", signal=name))

    def stop() -> str:
        return received[0] if received else ""

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, request) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def interrupts_put_off() -> Iterator[None]:
    """Inside, Ctrl-C waits, and so do SIGTERM and SIGHUP where they interrupt; the first one interrupts at the end.

    Ignored signals stay ignored. A process started inside never gets Ctrl-C, not even while it imports: the parent
    decides. It inherits the mask; the handlers are for a signal that another thread of this process takes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    late: list[int] = []
    waiting = False
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    before = {number: handler for number, handler in handlers.items() if callable(handler)}

    def receive(signum: int, frame: FrameType | None) -> None:
        if waiting:
            late.append(signum)
        else:  # one of two signals came while the handlers are exchanged
            before[signal.Signals(signum)](signum, frame)

    for number in before:
        signal.signal(number, receive)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    try:
        waiting = True
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # not SIGTERM: a child has to end by it
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # one that waited is received now
        waiting = False
        for number, handler in before.items():
            signal.signal(number, handler)
    for signum in late:  # the first one interrupts, unless its handler only notes it
        before[signal.Signals(signum)](signum, None)


def signal_of(interrupt: KeyboardInterrupt) -> signal.Signals:
    """Which signal an interruption came from: the one that its text names, SIGINT (Ctrl-C) otherwise."""
    return signal.Signals.__members__.get(str(interrupt), signal.SIGINT)


def status_of(interrupt: KeyboardInterrupt) -> int:
    """Exit status of an interrupted command, as shells have it: 130 (Ctrl-C), 143 (SIGTERM), 129 (SIGHUP)."""
    return 128 + signal_of(interrupt)
