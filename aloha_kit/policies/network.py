"""Base of every policy network: raw units in, raw units out, losses by name."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn, Tensor

from aloha_kit.config.policies import PolicyConfig
from aloha_kit.core import Contract, ContractError, Feature
from aloha_kit.core.features import DEPTH, IMAGE
from aloha_kit.core.lang import Message
from aloha_kit.data.batch import Batch
from aloha_kit.data.stats import Statistics
from aloha_kit.policies.action_errors import action_errors, error_columns, Mean
from aloha_kit.policies.backbone import ImageEncoder
from aloha_kit.policies.generator import BatchGenerator
from aloha_kit.policies.instruction_embedding import InstructionEmbedding
from aloha_kit.policies.normalise import Normaliser

Predict = Callable[[Batch, BatchGenerator | None], Tensor]
"""`ChunkNetwork.predict`, or an engine's replacement for it."""


class ChunkNetwork(nn.Module, abc.ABC):
    """Predicts a chunk of K actions from the last `n_obs_steps` observations.

    It carries all that is needed to use it: configuration, contract and statistics.

    Attributes:
        config: the family's configuration.
        contract: names and sizes of what is read and predicted, without what the network does not read.
        stats: the data's statistics.
        assumed: what a published checkpoint lacks and was taken from elsewhere; None where it lacks nothing.
        samples: whether `predict` draws random numbers; of the class, or of the network by its configuration.
        loss_columns: names of the parts that `losses` gives; the first is the error of the actions.
        goal: of inference, where one is read, see `policies.goal`.
        language: embedding of instructions, where they are read; `build` sets it.
        instruction: of inference, the vector of an instruction, see `policies.language`.
        selects: which of `validation_columns` chooses the checkpoint `best`.
    """

    samples: bool = False
    loss_columns: tuple[str, ...] = ()
    selects: ClassVar[str] = "val_loss"
    config: PolicyConfig
    vision: ImageEncoder | None
    assumed: Mapping[str, Any] | None = None
    goal: Mapping[str, npt.NDArray[Any]] | None = None
    language: InstructionEmbedding | None
    instruction: npt.NDArray[np.float32] | None = None

    def __init__(self, config: PolicyConfig, contract: Contract, stats: Statistics) -> None:
        super().__init__()
        self.config = config
        self.contract = narrow(contract, config)
        self.stats = stats
        steps = config.window
        self._vectors = [feature for feature in self.contract.inputs if feature.role not in (IMAGE, DEPTH)]
        sizes = {feature.name: feature.shape[0] for feature in self._vectors}
        self.action_dim = len(contract.action_names)
        self.state_dim = steps * sizes["qpos"]
        others = sum(size for name, size in sizes.items() if name != "qpos")
        self.environment_dim = steps * (others + config.reads_instruction * config.instruction_dim)
        keys = {"qpos": sizes["qpos"], "action": self.action_dim, **sizes}
        for key, size in keys.items():
            if stats[key].size != size:
                raise ContractError(
                    "statistics of '{key}' have {count} entries, the contract has {size}",
                    key=key,
                    count=stats[key].size,
                    size=size,
                )
        self.normaliser = Normaliser(config, stats, tuple(keys))
        self.language = None
        self.vision = None
        if config.use_images:
            self.vision = ImageEncoder(config, self.contract.cameras, self.contract.depth_cameras)

    @property
    def chunk_size(self) -> int:
        """K, the actions that `predict` gives."""
        return self.config.chunk_size

    @property
    @abc.abstractmethod
    def head(self) -> nn.Module:
        """The layer that gives the normalised actions; it keeps fp32 where the rest of an inference is narrower."""

    @property
    def validation_columns(self) -> tuple[str, ...]:
        """Names of the metrics that `validation` gives."""
        return "val_loss", *error_columns(self.contract.action_names, self.chunk_size)

    @abc.abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars by name: `loss` is the one to minimise, `loss_columns` are detached parts of it.

        What is random in them is drawn from torch's global generator, which training seeds at each step.

        Args:
            batch: with `actions` (B, K', A) and `is_pad` (B, K'); K' >= K, later rows are ignored.

        Raises:
            ContractError: an entry is missing or its size is not the contract's.
        """

    @abc.abstractmethod
    def predict(self, batch: Batch, generator: BatchGenerator | None = None) -> Tensor:
        """(B, K, A) actions in raw units; `batch` needs no actions.

        Args:
            generator: what a sampling policy draws from, and it draws from nothing else; None is `default_generator`.

        Raises:
            ContractError: an entry is missing or its size is not the contract's.
        """

    def validation(self, batch: Batch, generator: BatchGenerator | None = None) -> dict[str, Mean]:
        """Metrics of a validation batch by name, all of `validation_columns`; lower is better.

        `val_loss` is the training loss; `val_error_GROUP` is the mean absolute error of `predict` in raw units, by
        group of joints, over the chunk and at its first and last action.
        """
        loss = self.losses(batch)["loss"]
        return {
            "val_loss": Mean(loss, len(batch["qpos"])),
            **self.errors(self.predict(batch, generator), batch),
        }

    def errors(self, predicted: Tensor, batch: Batch) -> dict[str, Mean]:
        """Action errors, see `action_errors.action_errors`; `predicted` are (B, K, A) in raw units."""
        rows = slice(0, self.chunk_size)
        return action_errors(predicted, batch["actions"][:, rows], batch["is_pad"][:, rows], self.contract.action_names)

    def generator(self, seeds: Sequence[Sequence[int]]) -> BatchGenerator | None:
        """Random generator of `predict` for rows of these seeds; None where it draws nothing."""
        return BatchGenerator(seeds) if self.samples else None

    def default_generator(self, batch: Batch) -> BatchGenerator:
        """A generator that gives the same draws every time, different ones for each row."""
        return BatchGenerator([(0, row) for row in range(len(batch["qpos"]))])

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of the image backbones, which are often given a learning rate of their own."""
        return iter(()) if self.vision is None else self.vision.backbones.parameters()

    def rename_cameras(self, names: Mapping[str, str]) -> None:
        """Read cameras by a rig's names, {the policy's: the rig's}.

        Raises:
            ContractError: a name that is none of the policy's cameras, or one for two cameras.
        """
        self.contract = self.contract.renamed(names)
        if self.vision is not None:
            self.vision.rename(names)

    def states(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Normalised qpos (B, S) and all other vectors (B, E), the instruction's included; None where there are none.

        Of `n_obs_steps` steps each vector's are side by side, oldest first.
        """
        qpos, *others = self._all_vectors(batch)
        if not others:
            return qpos, None
        return qpos, others[0] if len(others) == 1 else torch.cat(others, dim=-1)

    def step_vectors(self, batch: Batch) -> Tensor:
        """All normalised vectors of each step: (B, n_obs_steps, D), oldest first."""
        vectors = self._all_vectors(batch)
        return torch.cat([vector.reshape(vector.shape[0], self.config.window, -1) for vector in vectors], dim=-1)

    def _all_vectors(self, batch: Batch) -> list[Tensor]:
        """(B, window · D) of qpos, of the other vectors, and of the instruction, repeated for each step."""
        vectors = [self._vector(feature, batch) for feature in self._vectors]
        if self.language is not None:
            vectors.append(self.language(batch).repeat(1, self.config.window))
        return vectors

    def _vector(self, feature: Feature, batch: Batch) -> Tensor:
        values: Mapping[str, Any] = batch
        if feature.name not in values:
            only = " (simulation only)" if feature.privileged else ""
            raise ContractError(
                "this policy reads {name}, and the observation has none{only}", name=feature.name, only=only
            )
        vector, steps = _sized(feature.name, values[feature.name], feature.shape[0]), self.config.window
        if steps > 1 and (vector.ndim != 3 or vector.shape[1] != steps):
            raise ContractError(
                "{name} must have {steps} steps, given shape {shape}",
                name=feature.name,
                steps=steps,
                shape=tuple(vector.shape),
            )
        normalised: Tensor = self.normaliser(feature.name, vector)
        return normalised if steps == 1 else normalised.flatten(1)

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Normalised actions (B, K, A) and `is_pad` (B, K), cut to the chunk; sizes checked."""
        actions = _sized("actions", batch["actions"], self.action_dim)
        if actions.shape[1] < self.chunk_size:
            raise ContractError(
                "actions have {rows} rows, the chunk needs {chunk_size}",
                rows=actions.shape[1],
                chunk_size=self.chunk_size,
            )
        return self.normaliser("action", actions[:, : self.chunk_size]), batch["is_pad"][:, : self.chunk_size]

    def feature_maps(self, batch: Batch) -> list[Tensor]:
        """One (B, channels, h, w) a camera, the channels of all `n_obs_steps` side by side; none without images."""
        if self.vision is None:
            return []
        if self.config.window == 1:
            return self._encoded(batch, lambda image: image)
        if torch.compiler.is_exporting():  # OpenVINO 2026.4 crashes where the graph merges batch and steps
            steps = range(self.config.window)
            each = [self._encoded(batch, lambda image, i=i: image[:, i]) for i in steps]  # type: ignore[misc]
            return [torch.cat(maps, dim=1) for maps in zip(*each, strict=True)]
        together = self._encoded(batch, lambda image: image.flatten(0, 1))
        return [features.reshape(len(batch["qpos"]), -1, *features.shape[2:]) for features in together]

    def _encoded(self, batch: Batch, change: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """Feature maps of the batch's images and depth, changed before."""
        images, depth = (
            {name: change(values) for name, values in group.items()}
            for group in (batch["images"], batch.get("images_depth", {}))
        )
        assert self.vision is not None
        maps: list[Tensor] = self.vision(images, depth)
        return maps


class DeployedErrorNetwork(ChunkNetwork):
    """A network whose `best` is chosen by `val_deployed`, the error of predicted actions, since its loss is not one."""

    selects = "val_deployed"

    @property
    def validation_columns(self) -> tuple[str, ...]:
        loss, *errors = super().validation_columns
        return loss, self.selects, *errors

    def validation(self, batch: Batch, generator: BatchGenerator | None = None) -> dict[str, Mean]:
        """Adds `val_deployed`, the mean absolute error of the normalised chunk that `predict` gives."""
        predicted = self.predict(batch, generator)
        actions, is_pad = self.targets(batch)
        error = (self.normaliser("action", predicted) - actions).abs()
        count = len(actions)
        return {
            "val_loss": Mean(self.losses(batch)["loss"], count),
            self.selects: Mean(masked_mean(error, is_pad, over="valid", valid_rows=batch.get("valid_rows")), count),
            **self.errors(predicted, batch),
        }

    def clean_chunk(self, batch: Batch) -> Tensor:
        """Normalised actions (B, K, A); rows past the episode's end repeat its last action.

        Networks that read the chunk read those rows, so they are neither zeros nor whatever stands in the batch.
        """
        actions, is_pad = self.targets(batch)
        last = (~is_pad).sum(1).clamp(min=1) - 1
        rows = torch.arange(actions.shape[1], device=actions.device).minimum(last.unsqueeze(1))
        return actions.gather(1, rows.unsqueeze(-1).expand_as(actions))


def narrow(contract: Contract, config: PolicyConfig) -> Contract:
    """`contract` without the cameras, the privileged features and the sensors that the network does not read.

    Cameras come sorted by name: networks number them, and a mapping's order does not survive every file.

    Raises:
        ContractError: the network reads cameras, depth, privileged features or a sensor that the contract lacks.
    """
    if config.use_images and not contract.cameras:
        raise ContractError("the policy reads cameras and the data has none; set use_images to false")
    privileged = contract.privileged if config.use_environment_state else ()
    if config.use_environment_state and not privileged:
        raise ContractError(
            "use_environment_state is true and the data has no privileged features (a simulation records them)"
        )
    cameras = dict(sorted(contract.cameras.items())) if config.use_images else {}
    if unread := sorted(set(config.depth_cameras) - cameras.keys()):
        raise ContractError(
            "depth is read beside the image of its camera, and '{unread}' of depth_cameras is no camera that "
            "the policy reads; these are: {cameras}",
            unread=unread[0],
            cameras=", ".join(cameras) or Message("(none)"),
        )
    depth = contract.named_depth(config.depth_cameras)
    return contract.with_cameras(cameras).with_sensors((*privileged, *contract.named_sensors(config.sensors), *depth))


def masked_mean(error: Tensor, is_pad: Tensor, *, over: str, valid_rows: Tensor | None = None) -> Tensor:
    """Mean of (B, K, A) errors over the rows that exist, or over all with padded rows as zero.

    `valid_rows` is that of a piece of a batch (see `Batch`): the mean over equal pieces is then the mean of the whole.
    """
    valid = (~is_pad).unsqueeze(-1).to(error.dtype)
    total = (error * valid).sum()
    if over == "all":
        return total / error.numel()
    count = valid.sum() if valid_rows is None else len(error) * valid_rows
    return total / (count * error.shape[-1]).clamp(min=1)


def _sized(name: str, value: Tensor, size: int) -> Tensor:
    if value.shape[-1] != size:
        raise ContractError(
            "{name} must have {size} entries, given shape {shape}", name=name, size=size, shape=tuple(value.shape)
        )
    return value.to(torch.float32)
