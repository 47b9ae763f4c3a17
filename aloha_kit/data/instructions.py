"""Instructions of the tasks in a data set, and the vectors that a policy reads in their place. numpy only, but for the
optional text encoder."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.core import ConfigError, ContractError, did_you_mean, EpisodeError
from aloha_kit.core.errors import reason
from aloha_kit.core.lang import Message

Vector = npt.NDArray[np.float32]

TABLE = "table"
"""Name in place of a text encoder's: each instruction has an entry of its own, so that a linear layer of the vectors is
a table of trained embeddings."""


@dataclass(frozen=True, eq=False)
class Instructions:
    """Instructions and their vectors, which a checkpoint keeps: deployment needs neither data nor encoder for them.

    Attributes:
        encoder: `TABLE`, or the name or folder of a sentence-transformers model.
        vectors: {instruction: (W,)}, of mean square 1.
    """

    encoder: str
    vectors: Mapping[str, Vector]

    def __post_init__(self) -> None:
        if not self.vectors or len({vector.shape for vector in self.vectors.values()}) > 1:
            raise ContractError("instructions need vectors of one size, at least one")

    @classmethod
    def of(cls, texts: Iterable[str], encoder: str) -> Instructions:
        """Vectors of the instructions that occur in `texts`.

        Raises:
            ConfigError: the encoder is not installed, or its weights are not on this machine.
        """
        known = sorted(set(texts))
        rows = np.eye(len(known)) if encoder == TABLE else [_encoded(encoder, text) for text in known]
        return cls(encoder, dict(zip(known, map(_scaled, rows), strict=True)))

    @classmethod
    def of_episodes(cls, where: Sequence[str], texts: Sequence[str], encoder: str) -> Instructions:
        """Vectors of the instructions of episodes.

        Args:
            where: the episodes' files, for messages.
            texts: their instructions, empty where one has none.

        Raises:
            EpisodeError: an episode without an instruction; names the first and their number.
            ConfigError: as `of`.
        """
        missing = [place for place, text in zip(where, texts, strict=True) if not text]
        if missing:
            raise EpisodeError(
                "{count} of {episodes} episodes have no instruction, which the policy reads; the first is "
                '{missing}. Set it with `episode label --instruction "…"`, or leave text_encoder out',
                count=len(missing),
                episodes=len(where),
                missing=missing[0],
            )
        return cls.of(texts, encoder)

    @property
    def width(self) -> int:
        """W, the size of the vectors."""
        return len(next(iter(self.vectors.values())))

    def vector(self, text: str) -> Vector:
        """(W,) of an instruction; of one that is not kept here, what the encoder makes of it.

        Raises:
            ContractError: the policy has a table, and the instruction is not in it; lists those that are.
            ConfigError: as `of`.
        """
        if text in self.vectors:
            return self.vectors[text]
        if self.encoder == TABLE:
            known = did_you_mean(text, self.vectors)
            raise ContractError(
                "the policy (text_encoder {table}) was not trained on the instruction '{text}'. {known}",
                table=TABLE,
                text=text,
                known=known,
            )
        return _scaled(_encoded(self.encoder, text))

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON, from which `from_json` restores every bit."""
        return {"encoder": self.encoder, "vectors": {text: row.tolist() for text, row in self.vectors.items()}}

    @classmethod
    def from_json(cls, raw: Any) -> Instructions:
        """Inverse of `to_json`.

        Raises:
            ContractError, KeyError, TypeError, ValueError: the values are no instructions.
        """
        vectors = {text: np.array(row, np.float32) for text, row in raw["vectors"].items()}
        if any(row.ndim != 1 or not np.isfinite(row).all() for row in vectors.values()):
            raise ValueError(Message("the vector of an instruction is not a list of finite numbers"))
        return cls(str(raw["encoder"]), vectors)


def _scaled(row: npt.ArrayLike) -> Vector:
    """With a mean square of 1, so that a linear layer gives values of one size whatever the encoder and its width."""
    values = np.asarray(row, np.float64)
    return np.asarray(values / np.sqrt(np.mean(np.square(values))), np.float32)


@functools.lru_cache(maxsize=1024)
def _encoded(encoder: str, text: str) -> Vector:
    """Sentence embedding, one text at a time: in a batch, its padding would change the last bits."""
    values: Vector = np.asarray(_model(encoder).encode([text], show_progress_bar=False)[0], np.float32)
    return values


@functools.cache
def _model(name: str) -> Any:
    """A sentence-transformers model that is on this machine; of a plain transformers model, the mean of its tokens."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ConfigError(
            "text_encoder {name} needs sentence-transformers ({error}): pip install 'aloha_kit[language]'; "
            "text_encoder {table} needs nothing",
            name=name,
            error=error,
            table=TABLE,
        ) from error
    try:
        return SentenceTransformer(name, device="cpu", local_files_only=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            "text_encoder {name} is no model on this machine ({error}). Give the folder of a "
            "sentence-transformers model, or its name once it was downloaded; text_encoder {table} needs none",
            name=name,
            error=reason(error),
            table=TABLE,
        ) from error
