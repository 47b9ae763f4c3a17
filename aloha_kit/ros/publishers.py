"""Two nodes that publish one stream: whoever reads an arm's states from both believes that it jumps."""

from __future__ import annotations

import time
from typing import Any

TOGETHER_S = 1.0
"""Two nodes heard in turn within this are both there; a driver that was restarted under another name is heard after
the one before it, but never in turn with it."""


class Publishers:
    """The nodes that a topic's messages come from; told of each message, it finds two that publish at once."""

    def __init__(self) -> None:
        self._heard: dict[str, float] = {}
        self._last = ""
        self._found: tuple[float, str] = (-TOGETHER_S, "")

    def hear(self, name: str) -> None:
        """A message came from the node `name`."""
        now = time.monotonic()
        if name != self._last:
            if now - self._heard.get(name, -TOGETHER_S) < TOGETHER_S:
                self._found = now, " and ".join(sorted((name, self._last)))
            self._last = name
        self._heard[name] = now

    def together(self) -> str:
        """Two nodes that both published in the last `TOGETHER_S`; empty as a rule."""
        when, names = self._found
        return names if time.monotonic() - when < TOGETHER_S else ""


def sender(message: Any) -> str:
    """The node that a ROS message came from; empty for one that came from none."""
    return str((getattr(message, "_connection_header", None) or {}).get("callerid", ""))
