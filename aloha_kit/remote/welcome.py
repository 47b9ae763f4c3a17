"""Welcome message: a server's description of its policy, checked by the robot."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from aloha_kit.core import Contract, ContractError
from aloha_kit.remote.messages import quoted, RemoteError

WELCOME_BYTES = 1 << 20
_MOST_ACTIONS = 10_000  # of a chunk: minutes
_MOST_STEPS = 100  # of observation
_MOST_NAMES, _MOST_PIXELS, _MOST_HZ = 1024, 16384, 10_000.0
RUNS_ON = ("engine", "device", "torch")  # keys of `about`: how a server runs the policy, not which one it is
_OVERHEAD = 16384  # bytes of a message's keys, and of a failure's reason


@dataclass(frozen=True)
class Welcome:
    """A served policy: its contract, the rows of a chunk, plain values for reports, the steps of observation that it
    reads, the actions of a chunk that it is meant to execute (None is all) and the weight of its temporal ensembling
    (None is none)."""

    contract: Contract
    chunk_size: int
    about: dict[str, Any]
    n_obs_steps: int = 1
    n_action_steps: int | None = None
    ensemble_weight: float | None = None

    @property
    def reads_instruction(self) -> bool:
        """Whether the policy reads the task's instruction."""
        policy = self.about.get("policy")
        return isinstance(policy, dict) and bool(policy.get("text_encoder"))

    @classmethod
    def read(cls, message: dict[str, Any], where: str) -> Welcome:
        """The welcome in a message.

        Raises:
            RemoteError: something is missing, or not of its type or of a size that a policy can have; names it.
        """
        contract, chunk_size, about = (message.get(key) for key in ("contract", "chunk_size", "about"))
        if type(chunk_size) is not int or not 1 <= chunk_size <= _MOST_ACTIONS:
            raise RemoteError(
                "{where} states chunks of {chunk_size} actions", where=where, chunk_size=quoted(repr(chunk_size))
            )
        n_obs_steps = message.get("n_obs_steps", 1)
        if type(n_obs_steps) is not int or not 1 <= n_obs_steps <= _MOST_STEPS:
            raise RemoteError(
                "{where} states that its policy reads {n_obs_steps} observations",
                where=where,
                n_obs_steps=quoted(repr(n_obs_steps)),
            )
        n_action_steps = message.get("n_action_steps")  # which older servers do not send
        if n_action_steps is not None and (type(n_action_steps) is not int or not 1 <= n_action_steps <= _MOST_ACTIONS):
            raise RemoteError(
                "{where} states that its policy executes {n_action_steps} actions of a chunk",
                where=where,
                n_action_steps=quoted(repr(n_action_steps)),
            )
        weight = message.get("ensemble_weight")  # likewise
        if weight is not None and not (isinstance(weight, int | float) and math.isfinite(weight)):
            raise RemoteError(
                "{where} states a weight of temporal ensembling of {weight}", where=where, weight=quoted(repr(weight))
            )
        if not isinstance(about, dict):
            raise RemoteError(
                "{where} describes its policy by a {type}, not a map", where=where, type=type(about).__name__
            )
        if not _is_plain(about):
            raise RemoteError("{where} describes its policy by more than plain values", where=where)
        if wrong := [key for key in ("checkpoint", "trained_on") if not isinstance(about.get(key, ""), str | None)]:
            raise RemoteError(
                "{where} gives its {key} as a {type}, not a text",
                where=where,
                key=wrong[0],
                type=type(about[wrong[0]]).__name__,
            )
        if not isinstance(contract, str):
            raise RemoteError(
                "{where} gives its contract as a {type}, not a text", where=where, type=type(contract).__name__
            )
        try:
            read = Contract.from_json(contract)
        except ContractError as error:
            raise RemoteError("{where}: {error}", where=where, error=quoted(error, 400)) from error
        if why := _impossible(read):
            raise RemoteError(
                "{where} has a contract that no policy can have: {why}", where=where, why=quoted(why, 400)
            )
        return cls(read, chunk_size, about, n_obs_steps, n_action_steps, weight)

    def same_policy(self, other: Welcome) -> bool:
        """Whether both describe one policy: everything but the server's device, engine and precision.

        A server that starts again may measure another engine as the fastest; each agrees with eager fp32 within its
        tolerance, or the server would not have started.
        """
        mine, theirs = (
            replace(each, about={key: value for key, value in each.about.items() if key not in RUNS_ON})
            for each in (self, other)
        )
        return mine == theirs


def largest_answer(welcome: Welcome) -> int:
    """Bytes that a chunk's message, or a failure's, has at most."""
    return 4 * welcome.chunk_size * len(welcome.contract.action_names) + _OVERHEAD


def _is_plain(value: Any) -> bool:
    """Whether JSON can hold it; messages are not nested deep."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return isinstance(value, str | int | float | None)


def _impossible(contract: Contract) -> str:
    """Reason that the contract is too large; empty where it is not."""
    for feature in contract.features:
        if len(feature.entries) > _MOST_NAMES:
            return f"{len(feature.entries)} entries of {feature.name}; at most {_MOST_NAMES}"
    if len(contract.cameras) > _MOST_NAMES:
        return f"{len(contract.cameras)} cameras; at most {_MOST_NAMES}"
    if not (contract.state_names and contract.action_names):
        return "no state or no action"
    for name, size in contract.cameras.items():
        if max(size) > _MOST_PIXELS:
            return f"camera {name!r} has {size} pixels; at most {_MOST_PIXELS}"
    return f"a rate of {contract.rate_hz:g} Hz" if contract.rate_hz > _MOST_HZ else ""
