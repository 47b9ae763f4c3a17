"""Policy server: inference for robots on other machines."""

from __future__ import annotations

import secrets

from aloha_kit.core import WallClock
from aloha_kit.core.cli import LOG
from aloha_kit.deploy.policy_source import PolicySource
from aloha_kit.loop import LatencyReport, sigterm_interrupts
from aloha_kit.remote import PolicyServer, ServedPolicy


def serve(source: PolicySource, host: str, port: int, token: str | None) -> None:
    """Serve a policy until interrupted; then print how long inference took.

    Args:
        token: that robots must send; None for a new one, which is printed.

    Raises:
        RemoteError: the address cannot be served on.
    """
    source.warm_up()
    latency = LatencyReport(source.contract.rate_hz, clock=WallClock())
    about = {**source.about, "checkpoint": source.name, "trained_on": source.trained_on}
    served = ServedPolicy(
        source.timed(latency.beside),
        source.contract,
        source.chunk_size,
        about,
        source.n_obs_steps,
        source.n_action_steps,
        source.ensemble_weight,
    )
    required = token or secrets.token_urlsafe(16)
    server = PolicyServer(served, host, port, required, log=LOG.info)
    if not token:
        print(f"token: {required}")
    print(f"serving {source.name} on {server.host}:{server.port}", flush=True)
    with sigterm_interrupts():
        try:
            server.serve_forever()
        finally:
            server.close()
            for stage, row in latency.report()["stages"].items():
                times = f"p50 {row['p50']:.1f} ms, p99 {row['p99']:.1f} ms"
                print(f"{stage.removeprefix('async ')}: {row['count']} times, {times}")
