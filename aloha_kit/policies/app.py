"""Commands that describe and export checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from aloha_kit.core import ConfigError
from aloha_kit.policies import lerobot_export, onnx_export, reference_export
from aloha_kit.policies.args import Export, Format, Info
from aloha_kit.policies.find import load_network, locate
from aloha_kit.policies.network import ChunkNetwork

EXPORTERS: dict[Format, Callable[[ChunkNetwork, Path, Sequence[str]], list[str]]] = {
    "published": reference_export.export,
    "lerobot": lerobot_export.export,
    "onnx": onnx_export.export,
}
"""What writes each format; it returns what is printed."""


def run(args: Info | Export) -> None:
    """Run one subcommand.

    Raises:
        ConfigError: no checkpoint, a damaged one, or one that cannot be exported.
    """
    layout, source = locate(args.ckpt)
    if isinstance(args, Info):
        print("\n".join(layout.describe(source)))
        return
    if args.format == layout.NAME:
        raise ConfigError("{source} is a {format} checkpoint already", source=source, format=args.format)
    network = load_network(source, device="cpu")
    print("\n".join(EXPORTERS[args.format](network, args.output, args.cameras)))
