"""An environment of one's own, outside the package: through every command, with no other file touched."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch._dynamo  # noqa: F401 - before any OpenGL context: the commands run in this process

from aloha_kit.config import CameraConfig, load, RigConfig, TaskConfig
from aloha_kit.config.rig import ArmConfig, BaseConfig, SensorConfig
from aloha_kit.core import ConfigError
from aloha_kit.envs import connect, is_robot
from aloha_kit.testing.environments import check_environment
from tests.envs.point_world import PointEnv
from tests.tiny import write_policy

RIG = "name: point\nkind: point_world:PointEnv\ncameras:\n  top: {height: 24, width: 32}\n"
TASK = (
    "name: reach\ninstruction: Bring the white point to the red goal.\nrig: point.yaml\n"
    "episode_len: 60\nrate_hz: 20\ncameras: [top]\ndataset_dir: data\n"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: the environment, its rig, a task and a policy."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copy(Path(__file__).with_name("point_world.py"), folder)
    for name, text in (("point", RIG), ("reach", TASK)):
        (folder / f"{name}.yaml").write_text(text)
    write_policy(folder / "small.yaml", chunk_size=5)
    return folder


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Run a command in that folder; its module is found there."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return lambda command, flags: importlib.import_module(f"aloha_kit.{command}.__main__").main(flags.split())


def test_it_records_trains_evaluates_deploys_and_replays(
    place: Path, here: Callable[[str, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    here("record", "--task reach.yaml --num_episodes 4 --workers 1")
    files = sorted((place / "data").glob("*.hdf5"))
    assert len(files) == 4
    with h5py.File(files[0]) as episode:
        assert (bool(episode.attrs["success"]), bool(episode.attrs["sim"])) == (True, True)
        assert episode["action"].shape == (60, 2)
        assert episode["observations/qpos"].shape == (61, 2)
    steps = "--num_steps 4 --batch_size 4 --val_every 2 --val_batches 1 --eval_every 4 --eval_rollouts 1"
    here("train", f"--task reach.yaml --policy small.yaml --ckpt_dir run --device cpu {steps}")
    here("eval", "--task reach.yaml --ckpt run --num_rollouts 2 --workers 1 --output eval --device cpu")
    report = json.loads((place / "eval" / "eval.json").read_text())
    assert '"seed": 100001' in json.dumps(report)
    here("deploy", "--task reach.yaml --ckpt run --num_rollouts 1 --output deployed --device cpu")
    assert (place / "deployed" / "episode_0.mp4").exists()
    report = json.loads((place / "deployed" / "deploy.json").read_text())
    assert report["rollouts"][0]["success"] in (True, False)
    for file in (files[0], place / "deployed" / "episode_0.hdf5"):
        capsys.readouterr()
        here("replay", f"{file} --execute --task reach.yaml --output replayed")
        text = capsys.readouterr().out
        assert "DISAGREE" not in text
        assert "(agree)" in text


def test_where_nothing_measures_success_no_rate_is_reported(
    place: Path, here: Callable[[str, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "unjudged.py").write_text(
        "import point_world\n\n\nclass Unjudged(point_world.PointEnv):\n    max_reward = 0.0\n\n"
        "    def step(self, action):\n        step = super().step(action)\n"
        "        return step if step.first() else step._replace(reward=0.0)\n"
    )
    (place / "unjudged.yaml").write_text(RIG.replace("point_world:PointEnv", "unjudged:Unjudged"))
    (place / "watch.yaml").write_text(TASK.replace("point.yaml", "unjudged.yaml").replace("name: reach", "name: watch"))
    rig, task = load(RigConfig, "rigs", place / "unjudged.yaml"), load(TaskConfig, "tasks", place / "watch.yaml")
    check_environment(lambda: connect(replace(task, episode_len=6), rig), episode_len=6)
    with pytest.raises(SystemExit) as ended:
        here("eval", "--task watch.yaml --ckpt run --num_rollouts 2 --workers 1 --output watched --device cpu")
    assert "nothing measures success in task 'watch' on rig 'point'" in f"{ended.value}{capsys.readouterr().err}"
    here("deploy", "--task watch.yaml --ckpt run --num_rollouts 1 --output seen --device cpu --video 0")
    report = json.loads((place / "seen" / "deploy.json").read_text())
    assert report["rollouts"][0]["success"] is None


def test_it_keeps_the_contract_of_environments() -> None:
    rig = RigConfig("point", "point_world:PointEnv", load(RigConfig, "rigs", "sim").cameras)
    task = TaskConfig("reach", "", episode_len=6, rate_hz=20, image_size=(24, 32))
    check_environment(lambda: PointEnv(task, rig), episode_len=6)


def test_a_wrong_name_is_one_line_of_an_installed_command(place: Path) -> None:
    """Without the current folder on Python's path, as installed commands run."""
    (place / "wrong.yaml").write_text(RIG.replace("PointEnv", "PiontEnv"))
    code = "import sys; sys.path.remove(''); from aloha_kit.record.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *["--task", "reach.yaml", "--rig", "wrong.yaml"]],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(
        "error: wrong.yaml: kind: 'point_world:PiontEnv' of the environments: module point_world has no 'PiontEnv'. "
        "Did you mean 'PointEnv'? Known: PointEnv, Straight."  # not what it imports
    ), done.stderr
    assert done.stderr.count("\n") == 1


ARMS = "followers:\n  left: {driver: joint_state, model: piper, state_topic: /state}\n"


def test_an_own_simulation_that_lists_its_arms_is_no_robot(
    place: Path, here: Callable[[str, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "armed.yaml").write_text(RIG + ARMS)
    (place / "armed_reach.yaml").write_text(TASK.replace("point.yaml", "armed.yaml").replace("dir: data", "dir: armed"))
    here("record", "--task armed_reach.yaml --num_episodes 1 --workers 1")  # by the expert, not by an operator
    assert [file.name for file in (place / "armed").glob("*.hdf5")] == ["episode_0.hdf5"]
    quick = "--task armed_reach.yaml --ckpt run --num_rollouts 1 --device cpu --episode_len 5"
    here("eval", f"{quick} --workers 1 --output armed_eval")
    here("deploy", f"{quick} --output armed_deploy")
    assert (place / "armed_deploy" / "episode_0.mp4").exists()  # of which there is none by default on a robot
    assert "press" not in capsys.readouterr().out  # no operator is expected


def function(task: TaskConfig, rig: RigConfig, *, realtime: bool) -> None:
    """A kind that states nothing."""


class InProcess(PointEnv):
    """A simulation that states it for its objects alone."""

    simulated = property(lambda self: True)


class Robot(PointEnv):
    simulated = False


class Live(PointEnv):
    """A simulated robot with drivers that run in their own time."""

    guarded = operator = None


@pytest.mark.parametrize(
    ("kind", "without_arms", "with_arms"),
    [
        ("sim", False, False),
        ("pusht", False, False),
        ("ros", False, True),
        (f"{__name__}:PointEnv", False, False),
        (f"{__name__}:Robot", True, True),
        (f"{__name__}:Live", True, True),
        (f"{__name__}:function", False, True),
        (f"{__name__}:InProcess", False, True),
    ],
)
def test_what_counts_as_a_robot(kind: str, without_arms: bool, with_arms: bool) -> None:
    rig = RigConfig("point", kind, {})
    assert is_robot(rig) == without_arms
    assert is_robot(replace(rig, followers={"left": ArmConfig(name="puppet_left")})) == with_arms


DRIVEN = """
import point_world


class Driven(point_world.PointEnv):
    '''A robot with drivers of its own, which are not ROS nodes.'''


class BehindRos(Driven):
    needs_ros = True


def broken(task, rig, *, realtime):
    return {}["port"]
"""


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("driven:Driven", "error: rig 'point' of task 'reach' has kind 'driven:Driven', which needs no ROS"),
        ("driven:BehindRos", "1"),  # the status of a NO-GO: the master was contacted
        ("driven:Drivn", "error: driven.yaml: kind: 'driven:Drivn' of the environments: module driven has no 'Drivn'"),
        ("dirven:Driven", "error: driven.yaml: kind: 'dirven:Driven' of the environments: Python finds no module"),
        ("roz", "error: driven.yaml: kind: no 'roz' among the environments. Did you mean 'ros'?"),
    ],
)
def test_the_doctor_resolves_the_kind_of_a_rig_with_followers_before_it_contacts_a_master(
    place: Path,
    here: Callable[[str, str], None],
    kind: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("rospy")
    monkeypatch.setenv("ROS_MASTER_URI", "http://127.0.0.1:9")
    (place / "driven.py").write_text(DRIVEN)
    (place / "driven.yaml").write_text(
        RIG.replace("point_world:PointEnv", kind).replace("width: 32", "width: 32, topic: /top") + ARMS
    )
    with pytest.raises(SystemExit) as ended:
        here("doctor", "--task reach.yaml --rig driven.yaml")
    contacted = "network: no ROS master answers at http://127.0.0.1:9" in capsys.readouterr().out
    assert contacted == (words == "1")
    assert str(ended.value).startswith(words)


def test_an_exception_of_an_own_kind_is_named_with_its_line(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(place))
    (place / "driven.py").write_text(DRIVEN)
    line = DRIVEN.splitlines().index('    return {}["port"]') + 1
    message = (
        rf"'driven:broken' of the environments raised KeyError: 'port' \({place / 'driven.py'}:{line}\); --log_level"
    )
    with pytest.raises(ConfigError, match=message):
        connect(TaskConfig("reach", "", cameras=()), RigConfig("point", "driven:broken", {}))


@pytest.mark.parametrize("key", ["scene", "script"])
def test_a_wrong_scene_or_script_is_named_with_its_file_and_key(place: Path, key: str) -> None:
    file = place / f"wrong_{key}.yaml"
    values = {"name": "a", "instruction": "b", "scene": "insertion", key: "insertin"}
    file.write_text("".join(f"{name}: {value}\n" for name, value in values.items()))
    rig = load(RigConfig, "rigs", "sim")
    with pytest.raises(
        ConfigError, match=rf"^{file}: {key}: no 'insertin' among the {key}s\. Did you mean 'insertion'"
    ):
        connect(load(TaskConfig, "tasks", file), rig)


def nothing(task: TaskConfig, rig: RigConfig, *, realtime: bool) -> None:
    """A callable that gives no environment."""


def without_realtime(task: TaskConfig, rig: RigConfig) -> None:
    """A callable with other arguments than the table's."""


def with_robot(robot: str, *, realtime: bool) -> None:
    """Another one."""


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("simm", r"no 'simm' among the environments\. Did you mean 'sim'\? Known: lift, .*, pusht, reach, ros, sim\."),
        (f"{__name__}:nothing", r"of the environments must give an aloha_kit\.core\.Environment, gave None$"),
        (f"{__name__}:without_realtime", r"called with \(task, rig, realtime=…\), but takes \(task.*'realtime'$"),
        (
            f"{__name__}:with_robot",
            r"called with \(task, rig, realtime=…\), but takes \(robot.*too many posi",
        ),
        ("ros", "rig 'point' lists no followers; a rig behind ROS needs at least one"),
    ],
)
def test_a_kind_that_gives_no_environment_is_refused(kind: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        connect(TaskConfig("reach", "", cameras=()), RigConfig("point", kind, {}))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"sensors": {"wrist": SensorConfig("/wrist", "geometry_msgs/WrenchStamped")}}, "no sensors"),
        ({"base": BaseConfig(), "followers": {"left": ArmConfig(name="puppet_left")}}, "no base, followers"),
    ],
)
def test_a_simulation_in_this_process_refuses_what_it_would_ignore(given: dict[str, Any], words: str) -> None:
    rig = replace(load(RigConfig, "rigs", "sim"), **given)
    with pytest.raises(ConfigError, match=f"rig 'sim' has kind 'sim', a simulation in this process, which has {words}"):
        connect(load(TaskConfig, "tasks", "sim_transfer_cube"), rig)


def test_cameras_behind_ros_need_a_topic() -> None:
    rig = RigConfig("mine", "ros", {"cam_high": CameraConfig()}, followers={"left": ArmConfig(name="puppet_left")})
    with pytest.raises(ConfigError, match="cameras of rig 'mine' behind ROS need a topic; without one: cam_high"):
        connect(TaskConfig("reach", ""), replace(rig, cameras={**rig.cameras, "top": CameraConfig(topic="/top")}))


FAULTY = """
import point_world


class Faulty(point_world.PointEnv):
    def step(self, action):
        if self._step == 3:
            self.read()
        return super().step(action)

    def read(self):
        raise OSError("the camera does not answer")
"""


@pytest.mark.parametrize(
    "command", ["record --num_episodes 1", "deploy --num_rollouts 1 --video 0", "eval --num_rollouts 1"]
)
def test_an_exception_of_an_own_environment_ends_a_command_with_its_line(
    place: Path, here: Callable[[str, str], None], command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "faulty.py").write_text(FAULTY)
    (place / "faulty.yaml").write_text(RIG.replace("point_world:PointEnv", "faulty:Faulty"))
    (place / "broken.yaml").write_text(TASK.replace("point.yaml", "faulty.yaml").replace("dir: data", "dir: broken"))
    name, flags = command.split(" ", 1)
    policy = "" if name == "record" else f"--ckpt run --device cpu --output broken_{name}"
    workers = "" if name == "deploy" else "--workers 1"
    with pytest.raises(SystemExit) as ended:
        here(name, f"--task broken.yaml {flags} {policy} {workers} --log_level debug")
    line = FAULTY.splitlines().index('        raise OSError("the camera does not answer")') + 1
    raised = f"faulty:Faulty.read raised OSError: the camera does not answer ({place}/faulty.py:{line})"
    assert str(ended.value).startswith("error: ")
    assert raised in str(ended.value)
    assert "\n" not in str(ended.value)
    log = capsys.readouterr().err  # of a worker process too
    assert "Traceback (most recent call last):" in log
    assert "in read\n" in log
    episodes = list((place / ("broken" if name == "record" else f"broken_{name}")).glob("**/episode_0.hdf5"))
    assert len(episodes) == (name != "eval")
    for file in episodes:
        with h5py.File(file) as episode:
            assert episode["action"].shape == (3, 2)
