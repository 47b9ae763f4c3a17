"""Policy server: inference for robots on other machines."""

from __future__ import annotations

import secrets

from aloha_kit.config.match_checkpoint import renames, TrainingSetup
from aloha_kit.core import WallClock
from aloha_kit.core.cli import LOG
from aloha_kit.deploy.agent import local
from aloha_kit.deploy.args import ServeArgs
from aloha_kit.loop import LatencyReport, sigterm_interrupts
from aloha_kit.policies.find import find_checkpoint
from aloha_kit.remote import PolicyServer, ServedPolicy


def serve(args: ServeArgs) -> None:
    """Load the network and serve it until interrupted; then print how long inference took.

    Raises:
        ConfigError: no checkpoint, a damaged one, an unusable device, or an engine that is missing or wrong.
        RemoteError: the address cannot be served on.
    """
    path = find_checkpoint(args.ckpt)
    setup = TrainingSetup(
        dict.fromkeys(args.cameras or (), args.image_size or (480, 640)),
        args.rate_hz,
        sizes_from="--image_size" if args.image_size else "the default",
        named=args.cameras is not None,
        cautious=True,
    )
    source = local(path, setup, args.inference_settings, renames(args.rename))
    source.warm_up()
    token = args.token or secrets.token_urlsafe(16)
    latency = LatencyReport(source.contract.rate_hz, clock=WallClock())
    about = {**source.about, "checkpoint": source.name, "trained_on": source.trained_on}
    served = ServedPolicy(
        source.timed(latency.beside),
        source.contract,
        source.chunk_size,
        about,
        source.n_obs_steps,
        source.n_action_steps,
    )
    server = PolicyServer(served, args.host, args.port, token, log=LOG.info)
    if not args.token:
        print(f"token: {token}")
    print(f"serving {source.name} on {server.host}:{server.port}", flush=True)
    with sigterm_interrupts():
        try:
            server.serve_forever()
        finally:
            server.close()
            for stage, row in latency.report()["stages"].items():
                times = f"p50 {row['p50']:.1f} ms, p99 {row['p99']:.1f} ms"
                print(f"{stage.removeprefix('async ')}: {row['count']} times, {times}")
