"""`python -m aloha_kit.policies info RUN`, `… export RUN FOLDER`: look at checkpoints, and write published ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from aloha_kit.startup import quick_interrupts

with quick_interrupts():
    import tyro
    from tyro.conf import arg, Positional

    from aloha_kit.core.cli import command_line


@dataclass(frozen=True)
class Info:
    """Say what a checkpoint is: its family, sizes, cameras and rate, as far as it tells them."""

    ckpt: Positional[Path]
    """A run (its best checkpoint is taken), a checkpoint folder, or a published policy_best.ckpt."""

    def run(self) -> None:
        from aloha_kit.policies.describe import describe  # torch
        from aloha_kit.policies.find import find_checkpoint

        print("\n".join(describe(find_checkpoint(self.ckpt))))


@dataclass(frozen=True)
class Export:
    """Write policy_best.ckpt and dataset_stats.pkl of a checkpoint, for the published ACT's imitate_episodes.py.

    Only what its classes can express; anything else is refused, naming what differs.
    """

    ckpt: Positional[Path]
    """A run (its best checkpoint is taken) or a checkpoint folder."""
    folder: Positional[Path]
    """Where the two files go; made if missing, nothing in it is replaced."""
    cameras: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = ()
    """Order of the cameras in the script's camera_names; by name when not given."""

    def run(self) -> None:
        from aloha_kit.core import ConfigError
        from aloha_kit.policies.find import find_checkpoint, load_network
        from aloha_kit.policies.reference_export import save_reference, script_settings

        source = find_checkpoint(self.ckpt)
        if source.is_file():
            raise ConfigError(f"{source} is a published checkpoint already")
        network = load_network(source, device="cpu")
        save_reference(network, self.folder, self.cameras or None)
        print(self.folder / "policy_best.ckpt")
        print("\n".join(script_settings(network, self.cameras or None)))


def main(argv: Sequence[str] | None = None) -> None:
    """Run one subcommand."""
    with command_line():
        command: Info | Export = tyro.cli(
            Info | Export,
            args=argv,
            prog="python -m aloha_kit.policies",
            description="Look at checkpoints, and write them for the published ACT.",
            use_underscores=True,
            config=(tyro.conf.OmitSubcommandPrefixes,),
        )
        command.run()


if __name__ == "__main__":
    main()
