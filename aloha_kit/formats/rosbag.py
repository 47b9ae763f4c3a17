"""ROS bags as a source: each bag is one episode, recorded anew from its messages as the recorder would live."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Sequence
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

from aloha_kit.config import load, RigConfig, TaskConfig
from aloha_kit.core import ConfigError, ContractError, EpisodeError, Policy, SafetyError, StreamError
from aloha_kit.core.lang import Message, shown
from aloha_kit.core.source import EpisodeSource
from aloha_kit.formats import BAGS, bags_in, ReadOptions
from aloha_kit.formats.bag_file import Bag
from aloha_kit.formats.bag_replay import BagReplay, CommandedTargets, read_commands
from aloha_kit.loop import run_episode
from aloha_kit.storage import Episode, EpisodeWriter
from aloha_kit.storage.paths import identity_of
from aloha_kit.sync.arm_readers import arm_description, ArmReader
from aloha_kit.sync.topics import rig_topics, Topic


class RosbagSource(EpisodeSource):
    """ROS 1 bags, rosbag2 folders (sqlite3 or MCAP) and MCAP files of sessions on a rig; a bag is an episode.

    An episode is recorded into a temporary file when it is opened, with the soft sync, the bounds and the contract of
    the live recorder; the bag's times of arrival are its clock. Actions are the leaders' joints behind the guard
    where their topics are in the bag, else what was commanded.

    Raises:
        ConfigError: no `rig` or `task` among the options, or one that is not found.
        EpisodeError: no bag at a place.
    """

    advice = "leave it out with --skip_damaged"

    def __init__(self, places: Sequence[str | Path], options: ReadOptions) -> None:
        options.refuse("rosbag", "jpeg_order", "rename")
        if options.contract is not None and not options.rig:
            raise ConfigError("episodes of format rosbag are read without --contract: give --task")
        task = options.task or options.default_task
        if not task:
            raise ConfigError(
                "a bag does not record rate, cameras and instruction: give --task, and --rig where it is not the task's"
            )
        self._task = load(TaskConfig, "tasks", task)
        self._rig = load(RigConfig, "rigs", options.rig or self._task.rig)
        if not self._rig.followers:
            raise ConfigError("rig '{name}' lists no followers; bags are read of a rig behind ROS", name=self._rig.name)
        bags = [bag for place in places for bag in bags_in(Path(place))]
        if not bags:
            raise EpisodeError(
                "no bag in {places}; expected {bags} or folders of rosbag2",
                places=", ".join(map(str, places)),
                bags=", ".join(BAGS),
            )
        self.bags, self.place = bags[: options.first], bags[0].parent
        self._recorded: _Recording | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.bags)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_recorded": None, "_lock": None}  # a temporary folder belongs to one process

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= {**state, "_lock": threading.Lock()}

    def name(self, number: int) -> str:
        return f"episode_{number}.hdf5"

    def identity(self, number: int) -> str:
        path = self.bags[number]
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        return " ".join(identity_of(file) for file in files)

    def open(self, number: int) -> RecordedBag:
        return RecordedBag(self, number)

    def recording(self, number: int) -> _Recording:
        """The file of an episode; the one that was recorded last is kept, so that it is not recorded twice in a row."""
        with self._lock:  # training reads in several threads
            last, self._recorded = self._recorded, None
            if last is None or (last.number, last.process) != (number, os.getpid()):
                last = _Recording(number)
                self._record(number, last.folder)
            self._recorded = last
            return last

    def _record(self, number: int, folder: Path) -> None:
        path, task, rig = self.bags[number], self._task, self._rig
        with Bag(path) as bag:
            followers = _readers(rig, leaders=False)
            leaders, topics = self._leaders(bag), self._topics(bag)
            try:
                env = BagReplay(bag, task, rig, topics, followers=followers, leaders=leaders)
            except (StreamError, ContractError) as error:
                raise EpisodeError("{path}: {error}", path=path, error=shown(error)) from error
            policy = env.recorded_actions() if leaders else self._commanded(bag, env, followers)
            writer = EpisodeWriter(
                folder,
                contract=env.contract,
                task=task.name,
                rig=rig.name,
                sim=False,
                instruction=task.instruction,
                index=number,
                describe={"bag": path.name},
            )
            try:
                outcome = run_episode(env, policy, [_Described(writer, env), writer])
            except (StreamError, ContractError, SafetyError) as error:
                after = f"{env.seconds:.2f} s after its first message"
                raise EpisodeError("{path}: {after}: {error}", path=path, after=after, error=shown(error)) from error
            if not outcome.steps:
                raise EpisodeError(
                    "{path}: it ends before the second step at {rate_hz:g} Hz", path=path, rate_hz=task.rate_hz
                )

    def _leaders(self, bag: Bag) -> dict[str, ArmReader]:
        """Readers of the leaders where all of them are in the bag, else none."""
        readers = _readers(self._rig, leaders=True)
        topics = [arm_description(arm).state_topic for arm in self._rig.leaders.values()]
        return readers if topics and all(topic in bag.topics for topic in topics) else {}

    def _topics(self, bag: Bag) -> dict[str, Topic]:
        """Topics of the streams {stream: topic}; raises EpisodeError where one is missing or of another type."""
        leaders = bool(self._leaders(bag))
        topics = dict(rig_topics(self._rig, self._task.cameras, leaders=leaders))
        there = ", ".join(sorted(bag.topics)) or Message("(none)")
        if missing := [f"{topic.name} ({stream})" for stream, topic in topics.items() if topic.name not in bag.topics]:
            raise EpisodeError(
                "{path} has no messages on {missing}; its topics: {there}",
                path=bag.path,
                missing=", ".join(missing),
                there=there,
            )
        for topic in topics.values():
            if bag.topics[topic.name] != topic.type:
                given = bag.topics[topic.name]
                raise EpisodeError(
                    "{path}: {name} has messages of {given}, expected {type}",
                    path=bag.path,
                    name=topic.name,
                    given=given,
                    type=topic.type,
                )
        return topics

    def _commanded(self, bag: Bag, env: BagReplay, followers: dict[str, ArmReader]) -> Policy:
        """Policy of the commanded targets; the episode begins when every arm was commanded."""
        rig = self._rig
        try:
            commands = read_commands(bag, rig, followers)
        except StreamError as error:
            raise EpisodeError("{path}: {error}", path=bag.path, error=shown(error)) from error
        if commands is None:
            states = [arm_description(arm).state_topic for arm in rig.leaders.values()]
            sent = [topic for arm in rig.followers.values() for topic in arm_description(arm).command_topics[:2]]
            wanted = " nor ".join(", ".join(topics) for topics in (states, sent) if topics)
            there = ", ".join(sorted(bag.topics))
            raise EpisodeError(
                "{path} has no actions: neither {wanted} have messages; its topics: {there}",
                path=bag.path,
                wanted=wanted,
                there=there,
            )
        arms_commands, base = commands
        policy = CommandedTargets(arms_commands, base, rig.base is not None, env, round(1e9 / self._task.rate_hz))
        env.begin_at(policy.begin_ns)
        return policy


class RecordedBag(Episode):
    """A bag's episode, read from a temporary file; `origin` is the bag. Another process records a file of its own."""

    def __init__(self, source: RosbagSource, number: int) -> None:
        self.origin = str(source.bags[number])
        self._source, self._recording = source, source.recording(number)
        super().__init__(self._recording.file)

    def __reduce__(self) -> tuple[type[Episode], tuple[Any, ...]]:
        return RecordedBag, (self._source, self._recording.number)

    def _open(self) -> None:
        if self._recording.process != os.getpid():  # this one was forked
            self._recording = self._source.recording(self._recording.number)
            self.path = self._recording.file
        super()._open()


class _Recording:
    """Temporary folder with the file of an episode, removed with the last reference to it in the process that made it.

    Attributes:
        number: of the episode.
        process: that made it.
    """

    def __init__(self, number: int) -> None:
        self.number, self.process = number, os.getpid()
        self.folder = Path(tempfile.mkdtemp(prefix="aloha_kit_bag_"))
        # weakref.finalize does not run at the end of a forked worker, and would run in one whose parent made the folder
        Finalize(self, shutil.rmtree, (self.folder,), {"ignore_errors": True}, exitpriority=0)

    @property
    def file(self) -> Path:
        (file,) = self.folder.glob("*.hdf5")
        return file


class _Described:
    """Observer that adds the streams' description, known once they have begun, to the episode."""

    def __init__(self, writer: EpisodeWriter, env: BagReplay) -> None:
        self._writer, self._env = writer, env

    def on_reset(self, timestep: Any) -> None:
        """Nothing is known yet."""

    def on_step(self, action: Any, timestep: Any) -> None:
        """Nothing is known yet."""

    def on_end(self, outcome: Any) -> None:
        self._writer.notes.update(self._env.describe())


def _readers(rig: RigConfig, *, leaders: bool) -> dict[str, ArmReader]:
    """Readers of a rig's arms, by name."""
    descriptions = {name: arm_description(arm) for name, arm in (rig.leaders if leaders else rig.followers).items()}
    return {name: each.reader(each.model()) for name, each in descriptions.items()}
