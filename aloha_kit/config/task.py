"""Task configuration."""

from __future__ import annotations

from dataclasses import dataclass, field

from aloha_kit.config.load import file_field
from aloha_kit.config.rig import RigConfig
from aloha_kit.core.lang import Message
from aloha_kit.core.value_checks import at_least, positive


@dataclass(frozen=True)
class TaskConfig:
    """A task: its name, instruction, episode length and cameras."""

    name: str  # in messages and in the names of folders
    instruction: str  # what to do, in words; recorded in every episode
    rig: str = "sim"  # a name in configs/rigs, or a path
    scene: str = ""  # the simulated scene, needed on a simulated rig: a name, or my_package.module:Name
    script: str = ""  # scripted expert in simulation, in place of the scene's own: a name or path as for `scene`
    episode_len: int = 500  # actions in an episode; observations are one more
    rate_hz: float = 50.0  # control rate; on a robot that of its cameras, or images repeat
    cameras: tuple[str, ...] = ("top",)  # of the rig, in the order in which a policy reads them
    depth_cameras: tuple[str, ...] = ()  # those of them whose depth a simulation renders; a robot's rig names its own
    image_size: tuple[int, int] | None = None  # (height, width) in place of the rig's, simulation only
    action_space: str | None = None  # joints, ee or ee_delta, of a simulation that has a choice; else what it has
    dataset_dir: str = "data/{task}"  # where episodes are recorded to and read from; {task} is the name
    randomise: dict[str, float] = field(default_factory=dict)  # amounts by name, see aloha_kit.sim
    file: str = file_field()

    def __post_init__(self) -> None:
        at_least(1, episode_len=self.episode_len)
        positive(rate_hz=self.rate_hz)
        if len(set(self.cameras)) < len(self.cameras):
            raise ValueError(Message("each camera can be named once, given {cameras}", cameras=", ".join(self.cameras)))
        if len(set(self.depth_cameras)) < len(self.depth_cameras):
            raise ValueError(
                Message(
                    "depth_cameras names a camera twice: {depth_cameras}", depth_cameras=", ".join(self.depth_cameras)
                )
            )
        if unknown := [name for name in self.depth_cameras if name not in self.cameras]:
            raise ValueError(
                Message(
                    "depth_cameras names '{unknown}', which is none of the cameras: {cameras}",
                    unknown=unknown[0],
                    cameras=", ".join(self.cameras) or Message("(none)"),
                )
            )

    def camera_sizes(self, rig: RigConfig) -> dict[str, tuple[int, int]]:
        """{camera: (height, width)} of the task's cameras: `image_size`, or else the rig's own size."""
        return {name: self.image_size or (rig.cameras[name].height, rig.cameras[name].width) for name in self.cameras}
