"""Deployment report: deploy.json for programs, a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aloha_kit.control.async_inference import AsyncInferencePolicy
from aloha_kit.core import Policy
from aloha_kit.core.errors import command
from aloha_kit.core.files import free_path, write_json
from aloha_kit.core.lang import pad, tr, tr_plural
from aloha_kit.loop import LatencyReport, SafetyGuard
from aloha_kit.loop.rollouts import RolloutResult, summarise
from aloha_kit.storage import list_episodes


@dataclass(frozen=True, kw_only=True)
class DeployedRollout(RolloutResult):
    """One finished rollout and the names of its files; `video` is None where none was written."""

    episode: str
    video: str | None


class DeploymentReport:
    """`deploy.json`, complete after every rollout, and the table at the end, whatever ends the deployment.

    Args:
        folder: of deploy.json; of deploy_1.json, … where there is one, since a report is not replaced.
        about: what was deployed on what.
        policy: what the guard guards; an asynchronous one has a report of its own.
    """

    def __init__(
        self, folder: Path, about: Mapping[str, Any], guard: SafetyGuard, latency: LatencyReport, policy: Policy
    ) -> None:
        self.rollouts: list[DeployedRollout] = []
        self._path = free_path(folder / "deploy.json")
        self._about, self._guard, self._latency, self._policy = about, guard, latency, policy

    def add(self, rollout: DeployedRollout) -> None:
        """One more rollout; one without a step, which an operator ended before it began, is none."""
        if not rollout.steps:
            return
        self.rollouts.append(rollout)
        self._write(ended_by=None)

    @property
    def successes(self) -> str:
        """`success 3/4, 1 not judged`."""
        judged = [r.success for r in self.rollouts if r.success is not None]
        unjudged = len(self.rollouts) - len(judged)
        good = tr("success {good}/{judged}", good=sum(judged), judged=len(judged))
        return tr("{good}, {unjudged} not judged", good=good, unjudged=unjudged) if unjudged else good

    def progress(self, task: str, number: int, total: int) -> str:
        """One line about the rollouts so far."""
        return tr(
            "{task}: rollout {number}/{total}, {successes}",
            task=task,
            number=number,
            total=total,
            successes=self.successes,
        )

    def __enter__(self) -> DeploymentReport:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self.rollouts:
            if kind is not None:
                self._write(ended_by=f"{kind.__name__}: {error}".removesuffix(": "))
            print(f"{table(self.rollouts, self._latency.table(), self._details())}\n\n{self._path}")
        folder = self._path.parent
        ended = kind is not None and issubclass(kind, Exception)  # and not by an interruption
        if (ended and list_episodes(folder)) or any(rollout.success is False for rollout in self.rollouts):
            print(tr("why a rollout failed: {command}", command=command("diagnose", folder)))

    def _write(self, ended_by: str | None) -> None:
        """`ended_by`: the error in whose rollout it ended, which is saved as an episode and counted nowhere."""
        values = {**self._about, **self._details(), "latency": self._latency.report(), **summarise(self.rollouts)}
        write_json(self._path, {**values, "ended_by": ended_by, "rollouts": [asdict(r) for r in self.rollouts]})

    def _details(self) -> dict[str, Any]:
        inference = {"inference": self._policy.report()} if isinstance(self._policy, AsyncInferencePolicy) else {}
        return {"guard": self._guard.report(), **inference}


def table(rollouts: Sequence[RolloutResult], latency: str, details: Mapping[str, Any]) -> str:
    """The result as text.

    Args:
        details: the reports of `guard` and, where it is asynchronous, of `inference`.
    """
    summary = summarise(rollouts)
    lines = ["", tr_plural("{n} rollout", "{n} rollouts", len(rollouts))]
    rates = {"success": tr("success, held to the end"), "success_any_time": tr("success at any time")}
    for key, label in rates.items():
        found = summary[key]
        if found is None:
            lines.append(f"  {pad(label, 26)} {tr('not measured')}")
            continue
        low, high = found["wilson95"]
        lines.append(
            f"  {pad(label, 26)} {found['successes']}/{found['trials']} = {found['rate']:.1%}   "
            + tr("95 % interval {low:.1%} to {high:.1%}", low=low, high=high)
        )
    histogram = summary["max_reward_histogram"]
    if any(rollout.touched is not None for rollout in rollouts):
        mean = summary["mean_max_reward"]
        lines.append("  " + tr("highest reward of a rollout, mean {mean:.3g}", mean=mean))
        lines += [f"    {stage:>3} {'█' * round(30 * n / len(rollouts)):<30} {n}" for stage, n in histogram.items()]
    lines += ["", tr("Latency"), *(f"  {line}" for line in latency.splitlines()), ""]
    if "inference" in details:
        lines.append(_inference(details["inference"]))
    lines.append(_guard(details["guard"]))
    return "\n".join(lines)


def _inference(report: Mapping[str, Any]) -> str:
    held, delay = sum(report["held"].values()), report["delay_steps"]
    line = tr(
        "Asynchronous inference: {inferences} inferences, from observation to chunk {p50:g} steps (p50), {most} at "
        "most; {late} chunks too late, {held} steps held still for want of one",
        inferences=report["inferences"],
        p50=delay["p50"],
        most=delay["max"],
        late=report["late"],
        held=held,
    )
    whys = [tr("held: {why} ({count}x)", why=why, count=count) for why, count in report["held"].items()]
    return "\n  ".join([line, *whys])


def _guard(report: Mapping[str, Any]) -> str:
    lines = [
        tr(
            "Safety guard: {limited} of {commands} commands limited, {held} steps held",
            limited=report["limited"],
            commands=report["commands"],
            held=report["held"],
        )
    ]
    for rule, entries in report["limited_by"].items():
        if entries:
            named = ", ".join(f"{name} {count}" for name, count in list(entries.items())[:5])
            more = len(entries) - 5
            lines.append(
                tr("{rule}: {entries} and {more} more", rule=rule, entries=named, more=more)
                if more > 0
                else f"{rule}: {named}"
            )
    lines += [tr("fault: {fault} ({count}x)", fault=fault, count=count) for fault, count in report["faults"].items()]
    return "\n  ".join(lines)
