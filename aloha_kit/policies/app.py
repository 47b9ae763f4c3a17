"""Commands that describe and export checkpoints."""

from __future__ import annotations

from aloha_kit.core import ConfigError
from aloha_kit.policies.args import Export, Info
from aloha_kit.policies.describe import describe
from aloha_kit.policies.find import find_checkpoint, load_network
from aloha_kit.policies.reference_export import save_reference, script_settings


def run(args: Info | Export) -> None:
    """Run one subcommand.

    Raises:
        ConfigError: no checkpoint, a damaged one, or one that cannot be exported.
    """
    source = find_checkpoint(args.ckpt)
    if isinstance(args, Info):
        print("\n".join(describe(source)))
        return
    if source.is_file():
        raise ConfigError(f"{source} is a published checkpoint already")
    network = load_network(source, device="cpu")
    save_reference(network, args.folder, args.cameras or None)
    print(args.folder / "policy_best.ckpt")
    print("\n".join(script_settings(network, args.cameras or None)))
