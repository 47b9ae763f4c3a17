"""Errors that state what was given, what was expected and what exists."""

from __future__ import annotations

import difflib
import re
import reprlib
import shlex
from collections.abc import Iterable

from aloha_kit.core.lang import Count, error_text, Message

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 16


class AlohaKitError(Exception):
    """Base of every error that a user can act on; applications print it without a traceback.

    Args:
        text: as of a `Message`, which it becomes: English here, and in the operator's language where it is shown.
        fields: of the text.
    """

    def __init__(self, text: str, /, **fields: object) -> None:
        super().__init__(text if isinstance(text, Message) else Message(text, **fields))


class ConfigError(AlohaKitError):
    """A setting, a name or a path that cannot be used."""


class UsageError(ConfigError):
    """A flag that does not exist, or a value that it does not take; ends a command with status 2."""


class ContractError(AlohaKitError):
    """Data, checkpoint and rig do not describe the same embodiment."""


class EpisodeError(AlohaKitError):
    """An episode file that is missing, damaged or not in a known layout."""


class StreamError(AlohaKitError):
    """A sensor stream that is silent, frozen or out of its skew bound."""


class ReadingError(StreamError):
    """Sample without a value: the bus lost a reading, an image arrived incomplete. The next one may be valid."""


class SafetyError(AlohaKitError):
    """A command or an observation that must not reach the arms."""


class StopEpisode(Exception):  # noqa: N818 - a request, not a failure
    """Raised by a policy to end the episode in good order; the message is the reason."""


class HoldStill(Exception):  # noqa: N818 - a request, not a failure
    """Raised by a policy that has no action for the present step; the message is the reason.

    The safety guard repeats the last command. For how long is the policy's to decide.
    """


def shown(value: object) -> str:
    """Value for a message, cut where it is long, without memory addresses.

    >>> shown(shown)
    '<function shown>'
    """
    return without_addresses(_SHORT.repr(value))


def without_addresses(text: str) -> str:
    """`text` without the memory addresses in Python's descriptions of objects."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def reason(error: BaseException) -> str:
    """Message of a library's exception in one line of at most 300 characters; its type where it has none."""
    given = error_text(error)
    if isinstance(given, Message):
        return given
    text = " ".join(without_addresses(given).split())
    return text[:300] or type(error).__name__


def command(*words: object) -> str:
    """A command of this package as it can be typed, its words quoted for a shell.

    >>> command("episode", "recover", Path("my data"))
    "python -m aloha_kit.episode recover 'my data'"
    """
    return f"python -m aloha_kit.{shlex.join(str(word) for word in words)}"


def plural(number: int, thing: str) -> Message:
    """`1 episode`, `2 episodes`."""
    return Count(number, thing)


def did_you_mean(given: str, known: Iterable[str]) -> Message:
    """A sentence that names the closest known word and lists the rest.

    >>> did_you_mean("chunk_sise", ["chunk_size", "lr"])
    "Did you mean 'chunk_size'? Known: chunk_size, lr."
    """
    names, given = sorted(known), given[:100]
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    listed = Message("Known: {names}.", names=", ".join(names) or Message("(none)"))
    return Message("Did you mean '{name}'? {known}", name=close[0], known=listed) if close else listed
