"""Training, from flags on: what can be checked without torch is checked before torch is loaded."""

from __future__ import annotations

from aloha_kit.config.policies import PolicyConfig
from aloha_kit.train.args import TrainArgs
from aloha_kit.train.launch import launched
from aloha_kit.train.plan import make_plan, reserved


def run(args: TrainArgs[PolicyConfig]) -> None:
    """Train, as one of the processes of a launch or as the only one.

    Raises:
        AlohaKitError: see `make_plan` and `train`.
        KeyboardInterrupt: the signal that ended the training early, after everything was saved.
    """
    launch = launched()
    with launch.rank0_only():
        plan = make_plan(args, launch)
    with reserved(plan):
        from aloha_kit.train.training import train

        train(plan)
