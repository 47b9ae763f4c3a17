"""An arm of seven joints and a gripper, and one without a gripper, as a user's own module gives them."""

from dataclasses import replace

from aloha_kit.core import ArmModel, GripperRange

_STROKE = GripperRange(0.0, 0.08)

ARM = ArmModel(
    "seven",
    lower=(-2.8, -1.7, -2.8, -3.0, -2.8, 0.0, -2.8),
    upper=(2.8, 1.7, 2.8, 0.0, 2.8, 3.7, 2.8),
    finger=_STROKE,
    gripper=_STROKE,
    finger_limits=(0.0, 0.08),
    velocity=2.0,
    gripper_limits=(-0.02, 0.10),
    start=(0.0, -0.5, 0.0, -2.0, 0.0, 1.5, 0.7),
    rest=(0.0, -1.6, 0.0, -2.9, 0.0, 1.2, 0.0),
    joints=tuple(f"joint{i}" for i in range(1, 8)),
)
BARE = replace(ARM, name="seven_bare", grippers=())
