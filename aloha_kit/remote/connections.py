"""Connections of a server: limits on their number, and on what is read before the token was checked.

A connection is unauthenticated ("stranger") until its token was compared, then a client. A new stranger beyond the
limit ends the one that has waited longest, so that idle connections do not block others; clients beyond it are refused.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from dataclasses import dataclass
from typing import Any

STRANGER_BYTES = 4096  # the HTTP request and the first message together
STRANGER_S = 5.0  # for each of the two
_SEND_S = 10.0  # a client that does not read its answers is dropped


@dataclass(frozen=True)
class ConnectionLimits:
    """Largest numbers of simultaneous connections, in all and from one address."""

    strangers: int = 64
    strangers_per_address: int = 16
    clients: int = 32
    clients_per_address: int = 16


class MeteredSocket(socket.socket):
    """A connected socket that reads as ended after `STRANGER_BYTES`, until it is a client's.

    Attributes:
        address: of the other side.
        client: the token was right.
    """

    def __init__(self, connected: socket.socket, address: Any) -> None:
        super().__init__(fileno=connected.detach())
        self.host, self.port = str(address[0]), int(address[1])
        self.client = False
        self._left = STRANGER_BYTES
        seconds, rest = divmod(_SEND_S, 1)  # a send that blocks longer ends with an error
        self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(seconds), int(1e6 * rest)))

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Receive as a socket does; empty once an unauthenticated client has sent what it may."""
        if self.client:
            return super().recv(size, flags)
        data = super().recv(min(size, self._left), flags)
        self._left -= len(data)
        return data

    def end(self) -> None:
        """Shut the connection down, which ends blocked reads and writes of other threads."""
        with contextlib.suppress(OSError):
            self.shutdown(socket.SHUT_RDWR)


class Connections:
    """The connections that there are, oldest first. Safe to use from many threads."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._there: dict[MeteredSocket, None] = {}  # in order of arrival
        self._lock = threading.Lock()

    def add(self, connection: MeteredSocket) -> None:
        """Add a stranger; where there are too many, the one that has waited longest is ended."""
        limits = self._limits
        with self._lock:
            strangers = [each for each in self._there if not each.client]
            neighbours = [each for each in strangers if each.host == connection.host]
            if len(neighbours) >= limits.strangers_per_address:
                strangers = neighbours
            elif len(strangers) < limits.strangers:
                strangers = []
            for oldest in strangers[:1]:
                del self._there[oldest]
                oldest.end()
            self._there[connection] = None

    def promote(self, connection: MeteredSocket) -> bool:
        """Make a stranger a client; False where there are too many clients."""
        limits = self._limits
        with self._lock:
            clients = [each for each in self._there if each.client]
            neighbours = sum(each.host == connection.host for each in clients)
            if len(clients) >= limits.clients or neighbours >= limits.clients_per_address:
                return False
            connection.client = True
            return True

    def remove(self, connection: MeteredSocket) -> None:
        """Remove a connection that has ended."""
        with self._lock:
            self._there.pop(connection, None)

    def end_strangers(self) -> None:
        """End every connection that has not sent the token."""
        with self._lock:
            for connection in [each for each in self._there if not each.client]:
                connection.end()
