"""Exceptions of the user's own code (plug-ins), as errors of one line that name the class, the file and the line."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from types import FrameType

from aloha_kit.core.errors import AlohaKitError, ConfigError, reason
from aloha_kit.core.lang import error_text

_PACKAGES: set[str] = set()  # top-level packages of the plug-ins that were loaded


def register(module: str) -> None:
    """Count the top-level package of `module` as the user's own code, unless it is this package."""
    if (top := module.partition(".")[0]) != "aloha_kit":
        _PACKAGES.add(top)


def own_code_error(error: BaseException, name: str = "") -> ConfigError | None:
    """The error to raise for an exception that passed through the user's own code; None for any other exception.

    Args:
        name: what was called; by default the class and its method.
    """
    text = _described(error, name)
    return ConfigError("{text}; --log_level debug shows the traceback", text=text) if text else None


def described(error: BaseException) -> str:
    """Any exception in one line: an `AlohaKitError` as it is, one of the user's own code with its place."""
    if isinstance(error, AlohaKitError):
        return error_text(error)
    return _described(error) or f"{type(error).__name__}: {error}"


def _described(error: BaseException, name: str = "") -> str:
    """Class, exception, file and line of the user's own code; empty where the exception did not pass through it."""
    frames = [
        (frame, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] in _PACKAGES
    ]
    if not frames:
        return ""
    innermost, line = frames[-1]
    methods = [frame for frame, _ in frames if "self" in frame.f_locals]
    name = name or _name(methods[-1] if methods else innermost)
    return f"{name} raised {type(error).__name__}: {reason(error)} ({innermost.f_code.co_filename}:{line})"


def _name(frame: FrameType) -> str:
    """`module:Class.method` of a frame, or `module:function`."""
    if "self" not in frame.f_locals:
        return f"{frame.f_globals['__name__']}:{frame.f_code.co_name}"
    kind = type(frame.f_locals["self"])
    return f"{kind.__module__}:{kind.__qualname__}.{frame.f_code.co_name}"


@dataclass(frozen=True)
class WorkerFailure:
    """Error that ends a worker process, for the pipe to its parent: one line, and the traceback.

    Raise the parent's error `from failure.cause()`, so that `--log_level debug` shows the traceback.
    """

    text: str
    trace: str

    @classmethod
    def of(cls, error: BaseException) -> WorkerFailure:
        """The failure that `error` is."""
        return cls(described(error), "".join(traceback.format_exception(error)).rstrip())

    def cause(self) -> Exception:
        """An exception whose text is the traceback in the worker process."""
        return Exception(f"in a worker process:\n{self.trace}")
