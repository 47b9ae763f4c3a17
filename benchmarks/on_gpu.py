"""Everything that only a GPU shows, in the order of its worth, within a time limit: see `on_gpu.sh`.

Needs only Python itself; every step is a command of its own, with its own time limit. A step that fails or takes too
long is written down, and the next one starts. The result file is written anew after every step.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
RESULT = HERE / "results" / "gpu.md"
LEAST_S = 15.0
"""A step is not begun with less time left."""

DEVICE = """
import json, sys, torch
device = torch.device(sys.argv[1])
torch.zeros(1, device=device)
about = {"torch": torch.__version__, "CUDA": torch.version.cuda}
if device.type == "cuda":
    properties = torch.cuda.get_device_properties(device)
    about |= {"name": properties.name, "memory_gib": round(properties.total_memory / 2**30)}
print(json.dumps(about))
"""


@dataclass(frozen=True)
class Step:
    """A command, and how long it may take. `table`: what it prints belongs into the result."""

    name: str
    command: tuple[str, ...]
    limit_s: float
    table: bool = False


@dataclass(frozen=True)
class Result:
    """What became of a step: in words, after how many seconds, and what it printed."""

    step: Step
    outcome: str
    seconds: float
    printed: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="of all steps together")
    parser.add_argument("--output", type=Path, default=RESULT, help="the result, a Markdown file")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu only to try the script")
    parser.add_argument("--tiny", action="store_true", help="small networks and images, to try the script")
    parser.add_argument("--reproduce_folder", type=Path, help="of the last step; demonstrations in it are used")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="only steps with one of these words in their names")
    parser.add_argument("--dry-run", "--dry_run", action="store_true", help="print the plan, run nothing")
    args = parser.parse_args()
    if args.device == "cpu" and args.output == RESULT and not args.dry_run:
        parser.error(f"{RESULT.name} holds figures of a GPU only: name another file with --output")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # which ends the present step first
    with tempfile.TemporaryDirectory(prefix="aloha_kit_gpu_") as scratch:
        steps = plan(args.device, Path(scratch), tiny=args.tiny, reproduce_folder=args.reproduce_folder)
        if args.only:
            steps = [step for step in steps if any(word in step.name for word in args.only)]
        if args.dry_run:
            for step in steps:
                print(f"== {step.name}, at most {step.limit_s:.0f} s\n$ {shown(step)}")
            print(f"All together at most {args.minutes:g} min, on {args.device}; result in {args.output}")
            return
        args.output.parent.mkdir(parents=True, exist_ok=True)
        title = heading(args.device)
        deadline = time.monotonic() + 60 * args.minutes
        results: list[Result] = []
        if args.tiny:  # a trial, on a machine that may be busy
            steps = [replace(step, limit_s=4 * step.limit_s) for step in steps]
        for step in steps:
            print(f"\n== {step.name}\n$ {shown(step)}", flush=True)
            results.append(run(step, min(step.limit_s, deadline - time.monotonic())))
            print(f"{results[-1].printed}\n{results[-1].outcome}, {results[-1].seconds:.0f} s", flush=True)
            args.output.write_text(document(title, results, steps[len(results) :]), encoding="utf-8")
    print(f"\n{args.output}")


def plan(device: str, scratch: Path, *, tiny: bool, reproduce_folder: Path | None) -> list[Step]:
    """All steps in their order. `scratch` is a folder for what they make."""
    python, on = sys.executable, ("--device", device)
    episodes, small = scratch / "smoke_episodes", ("--policy", "act_cpu")
    size = ("48", "64") if tiny else ("480", "640")
    frames = scratch / f"episodes_{'x'.join(size)}"
    peer = ("--rebuilt",) if tiny or not _lerobot_is_here() else ()

    def script(name: str, *flags: str) -> tuple[str, ...]:
        return python, str(HERE / name), *flags

    def training(name: str, *flags: str, limit_s: float = 45) -> Step:
        run = str(scratch / name.split(": ")[1].replace(" ", "_"))
        values = ["--dataset_dir", str(episodes), "--ckpt_dir", run, "--num_steps", "4" if tiny else "20"]
        values += ["--batch_size", "2", "--no_augment", "--no_preflight", "--val_every", "4", "--val_batches", "1"]
        return Step(name, (python, "-m", "aloha_kit.train", *small, *values, *on, *flags), limit_s)

    sizes = script("gpu_episodes.py", str(episodes), "--size", "48", "64", "--episodes", "2", "--steps", "60")
    steps = [
        Step("smoke: episodes", sizes, 30),
        training("smoke: training"),
        training("smoke: bf16 and frames in device memory", "--amp", "bf16", "--cache", "device"),
        *([training("smoke: fp16", "--amp", "fp16")] if device == "cuda" else []),
        *([training("smoke: compiled", "--compile", limit_s=90)] if device == "cuda" else []),
    ]
    if device == "cuda":
        graph = script(
            "inference_latency_ours.py", "4", "5", device, "--size", "48", "64", *small, "--engine", "compile"
        )
        steps.append(Step("smoke: inference as a CUDA graph", graph, 90))
    few = (*small, "--threads", "1") if tiny else ()
    latency = ("--cameras", "1" if tiny else "4", "--size", *size, "--turns", "1", *peer, *on, *few)
    latency += ("--inferences", "2" if tiny else "300")
    step_flags = ("--sizes", "x".join(size), "--batch", "2" if tiny else "32", "--turns", "1", "--fewer", *peer, *on)
    step_flags += (*few, "--steps", "1" if tiny else "20", *(() if tiny else ("--compile",)))
    steps += [
        Step("latency of one inference", script("inference_latency.py", *latency), 150, table=True),
        Step("training step", script("train_step.py", *step_flags), 200, table=True),
    ]
    cameras, length = ("1", "30") if tiny else ("3", "200")
    made = script("gpu_episodes.py", str(frames), "--size", *size, "--cameras", cameras, "--episodes", "2")
    end = ("--rebuilt", "--dataset_dir", str(frames), "--batch", "2" if tiny else "32", *on, *few)
    end += ("--steps", *(("1", "2") if tiny else ("20", "80")), *(() if tiny else ("--compile",)))
    end += ("--workers", "1") if tiny else ()
    folder = reproduce_folder or scratch / "reproduce"
    preset = str(_tiny_preset(scratch)) if tiny else _fast_preset()
    again = ("-m", "aloha_kit.reproduce", "transfer_cube", "--preset", preset, "--output", str(folder), *on)
    again += ("--num_rollouts", "2" if tiny else "200", *(() if device == "cuda" else ("--force",)))
    return [
        *steps,
        Step("training end to end: episodes", (*made, "--steps", length), 40),
        Step("training end to end", script("train_end_to_end.py", *end), 110, table=True),
        Step("reproduce transfer_cube", (python, *again), 540, table=True),
    ]


def _lerobot_is_here() -> bool:
    sys.path.insert(0, str(HERE))
    import peers

    return peers.installed("lerobot")


def _fast_preset() -> str:
    """`fast`, or where the pretrained weights are not on this machine `fast_from_scratch`."""
    hub = Path(os.environ.get("TORCH_HOME", Path.home() / ".cache" / "torch")) / "hub" / "checkpoints"
    return "fast" if any(hub.glob("resnet18-*.pth")) else "fast_from_scratch"


def _tiny_preset(scratch: Path) -> Path:
    """A reproduction of seconds, as JSON, which is YAML."""
    train = {"policy": "act_cpu", "num_steps": 2, "batch_size": 2, "val_every": 2, "augment": False, "threads": 1}
    record = {"num_episodes": 2, "image_size": [16, 24]}
    file = scratch / "tiny.yaml"
    values = {"device": "cpu", "target": {"success": 0.5}, "record": record, "train": {**train, "val_fraction": 0.5}}
    file.write_text(json.dumps(values), encoding="utf-8")
    return file


def run(step: Step, limit_s: float) -> Result:
    """Run a step's command; after its time it is ended (SIGTERM, and SIGKILL 10 s later) with all that it started."""
    if limit_s < min(LEAST_S, step.limit_s):
        return Result(step, "not run: no time left", 0.0)
    began = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as out, tempfile.TemporaryFile("w+", encoding="utf-8") as err:
        try:
            process = subprocess.Popen(step.command, cwd=ROOT, stdout=out, stderr=err, start_new_session=True)
        except OSError as error:
            return Result(step, f"failed: {error}", 0.0)
        outcome = "ok"
        try:
            status = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            status = end(process)
            outcome = f"over its limit of {limit_s:.0f} s"
        except BaseException:
            end(process)
            raise
        out.seek(0)
        err.seek(0)
        printed = out.read().strip()
        if status and outcome == "ok":
            messages = err.read().strip().splitlines()
            outcome = f"failed with status {status}: {messages[-1] if messages else 'no message'}"
            print("\n".join(messages[-30:]), file=sys.stderr)
    return Result(step, outcome, time.monotonic() - began, printed)


def end(process: subprocess.Popen[bytes], grace_s: float = 10.0) -> int:
    """End a process and its children; returns its status."""
    for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(wait_s)
        except subprocess.TimeoutExpired:
            continue
    return process.wait()


def heading(device: str) -> str:
    """Title and surroundings; ends the program where the device cannot be used."""
    done = subprocess.run([sys.executable, "-c", DEVICE, device], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        sys.exit(f"error: device '{device}' cannot be used: {reason}; --dry-run prints the plan")
    about = json.loads(done.stdout.strip().splitlines()[-1])
    name = f"{about['name']}, {about['memory_gib']} GiB" if device == "cuda" else "no GPU: the script tried on a CPU"
    software = f"Python {platform.python_version()}, torch {about['torch']}, CUDA {about['CUDA']}"
    machine = f"{os.cpu_count()} CPU cores, {platform.machine()}, {software}, commit {commit()}"
    when = datetime.datetime.now().astimezone().isoformat(timespec="minutes")
    return f"# {name}\n\nWritten by `benchmarks/on_gpu.sh` at {when} on {machine}."


def commit() -> str:
    """The checkout's commit, `unknown` where git or its folder is missing."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short=10", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def document(title: str, results: Sequence[Result], ahead: Sequence[Step]) -> str:
    """The result file: what became of every step, then what the measurements printed."""
    lines = [title, "", "| step | outcome | seconds | at most |", "|---|---|---|---|"]
    for result in results:
        outcome = result.outcome.replace("|", "/")
        lines.append(f"| {result.step.name} | {outcome} | {result.seconds:.0f} | {result.step.limit_s:.0f} |")
    lines += [f"| {step.name} | not reached | – | {step.limit_s:.0f} |" for step in ahead]
    for result in (result for result in results if result.step.table):
        lines += ["", f"## {result.step.name}", f"`{shown(result.step)}`", "", result.printed or result.outcome]
    return "\n".join(lines) + "\n"


def shown(step: Step) -> str:
    """The command as one types it in the checkout."""
    words = ["python" if word == sys.executable else word.removeprefix(f"{ROOT}/") for word in step.command]
    return shlex.join(words)


if __name__ == "__main__":
    main()
