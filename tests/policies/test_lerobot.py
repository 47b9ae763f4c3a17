"""LeRobot's ACT checkpoints, in and out.

`golden/lerobot_act.json` was made by LeRobot 0.6.1 (`python -m tests.policies.test_lerobot`, which needs it installed):
the files of a checkpoint that it trained for two steps, less its numbers, and the actions that its own classes give on
the weights, statistics and observations of `formula.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file, save_file

from aloha_kit.config.match_checkpoint import AssumedSetup, assumption
from aloha_kit.config.policies import load_policy
from aloha_kit.control.simulated_latency import Execution
from aloha_kit.convert.__main__ import main as convert
from aloha_kit.core import AlohaKitError, Contract, joint_names
from aloha_kit.data.stats import Statistics
from aloha_kit.diagnose.training_statistics import find_training
from aloha_kit.policies import checkpoint, lerobot
from aloha_kit.policies.__main__ import main
from aloha_kit.policies.build import build
from aloha_kit.policies.chunk_policy import ChunkPolicy
from aloha_kit.policies.find import find_checkpoint, load_network, run_folder
from aloha_kit.policies.network import ChunkNetwork
from aloha_kit.testing.policies import batch_of, contract_of, stats_of
from tests.policies.formula import image, waves, weight
from tests.synthetic import write_dataset

GOLDEN = Path(__file__).parent / "golden/lerobot_act.json"
PEER = Path(os.environ.get("ALOHA_KIT_PEERS", Path.home() / ".cache/aloha_kit/peers")) / "lerobot"
needs_lerobot = pytest.mark.skipif(
    not (PEER / "installed").is_file(),
    reason=f"no LeRobot 0.6.1 in {PEER}; `python benchmarks/lerobot_dataset.py` installs it",
)
STEPS = 5
ALOHA = Contract.of(joint_names(), joint_names(), {}, 0.0)
SMALL = {"chunk_size": 6, "hidden_dim": 32, "dim_feedforward": 48}
PRE = "policy_preprocessor_step_3_normalizer_processor.safetensors"


def formula_folder(folder: Path, **changes: Any) -> Path:
    """LeRobot's checkpoint with the formula's numbers; `changes` are of its config.json."""
    content = json.loads(GOLDEN.read_text())
    folder.mkdir(parents=True)
    for name in ("policy_preprocessor", "policy_postprocessor"):
        (folder / f"{name}.json").write_text(json.dumps(content[name]))
    config = content["config"] | changes
    (folder / "config.json").write_text(json.dumps(config))
    names = [(name, tuple(shape)) for name, shape in content["shapes"].items()]
    state = {name: torch.from_numpy(weight(name, shape)) for name, shape in names}
    save_file(state, folder / "model.safetensors")
    stats = {}
    for key in ("observation.state", "action"):
        spread = 0.5 + 0.4 * waves(f"{key}.std", (14,))
        spread[3] = 1e-5  # as of a joint that hardly moved: LeRobot has no floor
        stats |= {f"{key}.mean": waves(f"{key}.mean", (14,)), f"{key}.std": spread}
        stats |= {f"{key}.min": waves(f"{key}.mean", (14,)) - 2, f"{key}.max": waves(f"{key}.mean", (14,)) + 3}
    images = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    for camera in ("top", "left_wrist"):
        stats |= {f"observation.images.{camera}.{k}": np.reshape(v, (3, 1, 1)) for k, v in images.items()}
    tensors = {key: torch.tensor(value, dtype=torch.float32) for key, value in stats.items()}
    for file in (PRE, "policy_postprocessor_step_0_unnormalizer_processor.safetensors"):
        save_file(tensors, folder / file)
    return folder


def observations(cameras: dict[str, tuple[int, int]]) -> list[dict[str, Any]]:
    """Of one episode, as an environment gives them."""
    qpos = waves("qpos", (STEPS, 14)).astype(np.float32)
    qpos[:, 3] = waves("observation.state.mean", (14,))[3]
    images = {name: image(name, (STEPS, *size, 3)) for name, size in cameras.items()}
    return [{"qpos": qpos[t], "images": {k: v[t] for k, v in images.items()}, "stamps": {}} for t in range(STEPS)]


def ours_acts(network: ChunkNetwork, **execution: Any) -> dict[str, npt.NDArray[Any]]:
    """`chunk` and `action`, as `lerobot_acts.py` has them of LeRobot."""
    frames = observations(network.contract.cameras)
    config = network.config
    settings = Execution(**execution).with_default(config.n_action_steps, config.chunk_size, config.ensemble_weight)
    policy = settings.executor(ChunkPolicy(network, "cpu"))
    policy.reset()
    return {
        "chunk": np.stack([ChunkPolicy(network, "cpu").predict_chunk(frame) for frame in frames]),
        "action": np.stack([policy.act(frame) for frame in frames]),
    }


def lerobot_acts(folder: Path, cameras: dict[str, tuple[int, int]], work: Path) -> dict[str, npt.NDArray[Any]]:
    frames = observations(cameras)
    given = {f"observation.images.{k}": np.stack([f["images"][k].transpose(2, 0, 1) for f in frames]) for k in cameras}
    np.savez(work / "given.npz", **{"observation.state": np.stack([f["qpos"] for f in frames])}, **given)
    script = Path(__file__).with_name("lerobot_acts.py")
    run_lerobot("python", str(script), str(folder), str(work / "given.npz"), str(work / "acts.npz"))
    return dict(np.load(work / "acts.npz"))


def run_lerobot(program: str, *arguments: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [str(PEER / "bin" / program), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def assert_close(network: ChunkNetwork, given: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Within 1e-5 of each action's deviation, and of what float32 can hold of one that hardly moves."""
    std = network.stats["action"].std
    for key, values in given.items():
        np.testing.assert_allclose(values / std, np.asarray(wanted[key]) / std, rtol=2e-7, atol=1e-5, err_msg=key)


def load(folder: Path, **setup: Any) -> ChunkNetwork:
    return load_network(find_checkpoint(folder), AssumedSetup({}, named=False, **setup), "cpu")


ENSEMBLED = {"temporal_ensemble_coeff": 0.3, "n_action_steps": 1}
CHANGES: dict[str, dict[str, Any]] = {"queued": {"n_action_steps": 3}, "ensembled": ENSEMBLED}


@pytest.mark.parametrize("name", CHANGES)
def test_it_acts_as_lerobot_does(name: str, tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text())[name]
    network = load(formula_folder(tmp_path / "act", **CHANGES[name]))
    assert_close(network, ours_acts(network), golden)
    if name == "ensembled":  # and not where the number of steps is given
        plain = ours_acts(network, n_action_steps=1)["action"]
        assert np.abs(plain - np.asarray(golden["action"])).max() > 1e-3


@needs_lerobot
@pytest.mark.parametrize("name", CHANGES)
def test_the_golden_actions_are_lerobots(name: str, tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text())[name]
    folder = formula_folder(tmp_path / "act", **CHANGES[name])
    network = load(folder)
    acts = lerobot_acts(folder, network.contract.cameras, tmp_path)
    assert_close(network, acts, golden)


def modes(folder: Path, mode: str) -> Path:
    """The checkpoint with joints and actions normalised in another way."""
    for name in ("policy_preprocessor", "policy_postprocessor"):
        content = json.loads((folder / f"{name}.json").read_text())
        for step in content["steps"]:
            if "norm_map" in step["config"]:
                step["config"]["norm_map"] |= {"STATE": mode, "ACTION": mode}
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@needs_lerobot
@pytest.mark.parametrize("mode", ["MIN_MAX", "IDENTITY"])
def test_other_normalisations_are_lerobots(mode: str, tmp_path: Path) -> None:
    folder = modes(formula_folder(tmp_path / "act"), mode)
    network = load(folder)
    assert_close(network, ours_acts(network), lerobot_acts(folder, network.contract.cameras, tmp_path))


def test_min_max_is_stretched_to_plus_and_minus_one(tmp_path: Path) -> None:
    network = load(modes(formula_folder(tmp_path / "act"), "MIN_MAX"))
    low = torch.from_numpy(waves("observation.state.mean", (14,)).astype(np.float32)) - 2
    torch.testing.assert_close(network.normaliser("qpos", low), torch.full((14,), -1.0), rtol=0, atol=1e-5)
    torch.testing.assert_close(network.normaliser("qpos", low + 5), torch.full((14,), 1.0), rtol=0, atol=1e-5)
    plain = load(modes(formula_folder(tmp_path / "plain"), "IDENTITY"))
    assert torch.equal(plain.normaliser("qpos", low), low)
    assert torch.equal(plain.normaliser.undo("action", low), low)


def test_what_it_lacks_is_given_or_numbered(tmp_path: Path) -> None:
    folder = formula_folder(tmp_path / "act")
    numbered = load(folder, rate_hz=30.0, rate_from="task 'x'")
    assert numbered.contract.state_names == tuple(f"joint_{i}" for i in range(14))
    assert (numbered.contract.units["joints"], numbered.contract.rate_hz) == ("unknown", 30.0)
    assert numbered.assumed is not None
    assert assumption(numbered.assumed) == (
        "assumed, since the checkpoint does not record it: joints joint_0 … joint_13 (numbered, their units unknown),"
        " 30 Hz (task 'x')"
    )
    named = load(folder, joints=ALOHA).contract
    assert named.state_names == joint_names()
    assert named.units == ALOHA.units
    assert named.cameras == {"left_wrist": (48, 64), "top": (64, 96)}
    short = Contract.of(joint_names()[:7], joint_names()[:7], {}, 0.0)
    with pytest.raises(AlohaKitError, match="has 14 values of state and 14 of action, --rig or --contract names 7 and"):
        load(folder, joints=short)
    with pytest.raises(AlohaKitError, match="records its cameras as: top, left_wrist; given --cameras front"):
        load_network(folder, AssumedSetup({"front": (9, 9)}), "cpu")


def test_where_a_checkpoint_lies(tmp_path: Path) -> None:
    step = tmp_path / "run/checkpoints/000002"
    folder = formula_folder(step / "pretrained_model")
    (step.parent / "last").symlink_to("000002")
    assert find_checkpoint(step) == find_checkpoint(folder) == folder
    assert find_checkpoint(tmp_path / "run") == tmp_path / "run/checkpoints/last/pretrained_model"
    assert run_folder(folder) == run_folder(find_checkpoint(tmp_path / "run")) == tmp_path / "run"


def test_the_statistics_are_found_without_torch(tmp_path: Path) -> None:
    folder = formula_folder(tmp_path / "run/checkpoints/last/pretrained_model")
    for place in (folder, tmp_path / "run"):
        stats = find_training("", tmp_path / "episode_0.hdf5", place)
        np.testing.assert_allclose(stats["qpos"].mean, waves("observation.state.mean", (14,)), atol=1e-6)


def damaged(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    file = folder / name
    if name.endswith(".safetensors"):
        save_file(change(load_file(file)), file)
    else:
        file.write_text(json.dumps(change(json.loads(file.read_text()))))


def without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in names}


def more_steps(values: dict[str, Any]) -> dict[str, Any]:
    return values | {"steps": [*values["steps"], {"registry_name": "relative_action_processor", "config": {}}]}


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("config.json", lambda c: c | {"type": "diffusion"}, "reads ACT as it comes: type is diffusion, not act"),
        ("config.json", lambda c: c | {"feedforward_activation": "gelu"}, "feedforward_activation is gelu, not relu"),
        ("config.json", lambda c: c | {"n_vae_encoder_layers": 2}, "n_vae_encoder_layers is 2 and n_encoder_layers 4"),
        ("config.json", lambda c: c | {"dim_model": 64}, "weights and configuration do not belong together"),
        ("config.json", lambda c: c | {"dim_model": 10**9}, "hidden_dim is 1000000000, too much for the weights"),
        ("config.json", lambda c: c | {"vision_backbone": "resnet101"}, "backbone"),
        ("config.json", lambda c: c | {"input_features": {}}, "lacks 'observation.state' among its features"),
        ("config.json", lambda c: c | {"chunk_size": "x"}, "chunk_size cannot be 'x'"),
        ("config.json", lambda c: c | {"temporal_ensemble_coeff": float("nan")}, "ensemble_weight must be finite, giv"),
        ("config.json", lambda c: c | {"input_features": c["input_features"] | {"a": 3}}, "features of an odd shape"),
        ("policy_preprocessor.json", more_steps, "steps that aloha_kit does not read: relative_action_processor"),
        ("policy_preprocessor.json", lambda c: {"steps": [{}]}, "is not LeRobot's, or damaged"),
        (PRE, lambda s: without(s, "observation.images.top.mean"), "top by MEAN_STD of other numbers than Image"),
        (PRE, lambda s: without(s, "observation.state.std"), "of observation.state that MEAN_STD cannot use"),
        (PRE, lambda s: s | {"observation.state.std": torch.full((14,), torch.nan)}, "not all known"),
        ("model.safetensors", lambda s: without(s, "model.action_head.bias"), "lacks action_head.bias"),
        ("model.safetensors", lambda s: s | {"model.extra": torch.zeros(1)}, "has extra which the configuration"),
        ("model.safetensors", lambda s: s | {"model.action_head.bias": torch.full((14,), torch.nan)}, "not finite"),
    ],
)  # fmt: skip
def test_what_is_not_read_or_damaged_is_named(file: str, change: Any, words: str, tmp_path: Path) -> None:
    folder = formula_folder(tmp_path / "act")
    damaged(folder, file, change)
    for read in (load, lerobot.describe):
        with pytest.raises(AlohaKitError, match=words) as caught:
            read(folder)
        assert "\n" not in str(caught.value)


def test_an_older_checkpoint_is_named(tmp_path: Path) -> None:
    folder = formula_folder(tmp_path / "act")
    (folder / "policy_preprocessor.json").unlink()
    with pytest.raises(AlohaKitError, match=r"a LeRobot before 0\.4, .*migrate_policy_normalization writes it anew"):
        load(folder)
    cut = formula_folder(tmp_path / "cut")
    (cut / "model.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(AlohaKitError, match="is damaged or cut short"):
        load(cut)


def test_a_range_of_nothing_is_refused(tmp_path: Path) -> None:
    folder = modes(formula_folder(tmp_path / "act"), "MIN_MAX")
    damaged(folder, PRE, lambda s: s | {"observation.state.max": s["observation.state.min"].clone()})
    with pytest.raises(AlohaKitError, match=r"entry 0 of observation.state never moved, and MIN_MAX divides by its"):
        load(folder)


def test_info_prints_what_it_records(tmp_path: Path, capsys: Any) -> None:
    folder = formula_folder(tmp_path / "act")
    main(["info", str(folder)])
    assert capsys.readouterr().out.splitlines() == [
        f"{folder}: LeRobot's act, a chunk of 8 actions",
        "state: 14 values; action: 14 values",
        "cameras: top 64x96, left_wrist 48x64",
        "joints, units, rate: not recorded; give --rig NAME or --contract FILE, and a task of its rate",
    ]


def run(folder: Path, contract: Contract, name: str = "act", stats: Statistics | None = None, **changes: Any) -> Path:
    """A checkpoint as training leaves it."""
    torch.manual_seed(1)
    config = load_policy(name, **{**SMALL, **changes})
    stats = stats or stats_of(contract)
    network = build(config, contract, stats, pretrained=False)
    checkpoint.save(folder / "checkpoints/best", network, config, stats, contract)
    return folder


TWO = contract_of({"top": (64, 96), "left_wrist": (48, 64)})
KINDS: dict[str, dict[str, Any]] = {
    "recommended": {"camera_embedding": False},
    "published": {"name": "act_reference", "dec_layers": 3},
    "ensembled": {"camera_embedding": False, "ensemble_weight": 0.3, "pre_norm": True, "dec_layers": 2},
    "min_max": {"camera_embedding": False, "normalisation": "min_max_11", "n_action_steps": 2, "nheads": 4},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_way_there_and_back_keeps_weights_and_actions(kind: str, tmp_path: Path, capsys: Any) -> None:
    ours = load_network(run(tmp_path / "run", TWO, **KINDS[kind]) / "checkpoints/best", device="cpu")
    main(["export", str(tmp_path / "run"), str(tmp_path / "out"), "--format", "lerobot"])
    assert capsys.readouterr().out.splitlines()[:2] == [
        str(tmp_path / "out"),
        "cameras: observation.images.left_wrist observation.images.top",
    ]
    golden = json.loads(GOLDEN.read_text())
    written = load_file(tmp_path / "out/model.safetensors")
    assert {k.split("layers.")[0] for k in written} - {"model.encoder.norm.weight"} >= {
        k.split("layers.")[0] for k in golden["shapes"]
    }
    assert set(json.loads((tmp_path / "out/config.json").read_text())) <= set(golden["config"])
    back = load_network(tmp_path / "out", device="cpu")
    assert (back.contract, back.assumed) == (ours.contract, None)
    weights = back.state_dict()
    same = {k for k, v in ours.state_dict().items() if k in weights and torch.equal(v, weights[k])}
    assert same >= {k for k in ours.state_dict() if not k.startswith(("is_pad_head", "decoder.1", "decoder.2"))}
    batch = batch_of(TWO, rows=6)
    with torch.inference_mode():
        wanted = ours.predict(batch)
        torch.testing.assert_close(back.predict(batch), wanted, rtol=0, atol=1e-6)
        if kind != "min_max":  # whose offset is computed on either side
            assert torch.equal(back.normaliser("qpos", batch["qpos"]), ours.normaliser("qpos", batch["qpos"]))
    mine, theirs = (ours_acts(network)["action"] for network in (ours, back))
    np.testing.assert_allclose(theirs, mine, rtol=0, atol=1e-5)


@needs_lerobot
@pytest.mark.parametrize("kind", KINDS)
def test_lerobot_gives_the_actions_of_what_is_exported(kind: str, tmp_path: Path) -> None:
    stats = stats_of(TWO)
    ours = load_network(run(tmp_path / "run", TWO, stats=stats, **KINDS[kind]) / "checkpoints/best", device="cpu")
    main(["export", str(tmp_path / "run"), str(tmp_path / "out"), "--format", "lerobot"])
    assert_close(ours, lerobot_acts(tmp_path / "out", ours.contract.cameras, tmp_path), ours_acts(ours))


@needs_lerobot
@pytest.mark.parametrize("flags", ["", "--policy.temporal_ensemble_coeff=0.01 --policy.n_action_steps=1"])
def test_what_lerobot_trains_acts_the_same_here(flags: str, tmp_path: Path) -> None:
    train(tmp_path, flags or "--policy.n_action_steps=8")
    network = load(tmp_path / "run", joints=ALOHA)
    acts = lerobot_acts(find_checkpoint(tmp_path / "run"), network.contract.cameras, tmp_path)
    assert_close(network, ours_acts(network), acts)
    main(["export", str(tmp_path / "run"), str(tmp_path / "published"), "--cameras", "top", "left_wrist"])
    setup = AssumedSetup({"top": (64, 96), "left_wrist": (48, 64)})
    assert ours_acts(load_network(find_checkpoint(tmp_path / "published"), setup, "cpu"))["chunk"].shape == (5, 8, 14)


def train(work: Path, flags: str) -> None:
    """Two steps of LeRobot's own training on a data set of ours, into `run`."""
    write_dataset(work / "ours", (30, 41), {"top": (64, 96), "left_wrist": (48, 64)}, images="jpeg")
    convert([str(work / "ours"), str(work / "data"), "--format", "lerobot"])
    flags += f" --dataset.repo_id=local/data --dataset.root={work / 'data'} --output_dir={work / 'run'} "
    flags += "--policy.type=act --policy.device=cpu --policy.push_to_hub=false --policy.dim_model=32 "
    flags += "--policy.n_heads=2 --policy.dim_feedforward=64 --policy.chunk_size=8 --steps=2 --batch_size=2 "
    flags += "--policy.pretrained_backbone_weights=null --num_workers=0 --wandb.enable=false "
    run_lerobot("lerobot-train", *flags.split(), "--dataset.video_backend=pyav")


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("act", {}, "camera_embedding is True, not False"),
        ("act", {"camera_embedding": False, "use_vae": False}, "use_vae is False, not True"),
        ("act", {"camera_embedding": False, "share_backbone": False}, "share_backbone is False, not True"),
        ("act", {"camera_embedding": False, "image_size": (32, 48)}, r"image_size is \(32, 48\), not None"),
        ("act", {"camera_embedding": False, "decoder_input": "queries"}, "decoder_input is queries, not zeros"),
        ("act", {"camera_embedding": False, "ensemble_weight": 0.1, "n_action_steps": 3}, "n_action_steps is 3 beside"),
        ("cnnmlp", {"chunk_size": 1}, "it is cnnmlp, not act"),
    ],
)
def test_what_lerobot_cannot_express_is_refused(name: str, changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    small = {} if name == "act" else {"hidden_dim": 32}
    torch.manual_seed(1)
    config = load_policy(name, **{**(SMALL if name == "act" else small), **changes})
    network = build(config, TWO, stats_of(TWO), pretrained=False)
    checkpoint.save(tmp_path / "run/checkpoints/best", network, config, stats_of(TWO), TWO)
    with pytest.raises(SystemExit, match=f"error: LeRobot's ACT cannot hold this network: .*{words}"):
        main(["export", str(tmp_path / "run"), str(tmp_path / "out"), "--format", "lerobot"])
    assert not (tmp_path / "out").exists()


def test_nothing_is_replaced_and_lerobots_is_not_exported_to_itself(tmp_path: Path) -> None:
    source = run(tmp_path / "run", TWO, camera_embedding=False)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/config.json").touch()
    with pytest.raises(SystemExit, match="out is there already, and nothing is replaced"):
        main(["export", str(source), str(tmp_path / "out"), "--format", "lerobot"])
    with pytest.raises(SystemExit, match="LeRobot records the cameras by name"):
        main(["export", str(source), str(tmp_path / "new"), "--format", "lerobot", "--cameras", "top", "left_wrist"])
    folder = formula_folder(tmp_path / "act")
    with pytest.raises(SystemExit, match="act is a lerobot checkpoint already"):
        main(["export", str(folder), str(tmp_path / "new"), "--format", "lerobot"])


def write_golden(work: Path) -> None:
    """Make `GOLDEN` anew; needs LeRobot."""
    train(work, "--policy.n_action_steps=8")
    folder = work / "run/checkpoints/last/pretrained_model"
    content = {
        name: json.loads((folder / f"{name}.json").read_text())
        for name in ("config", "policy_preprocessor", "policy_postprocessor")
    }
    content["shapes"] = {name: list(value.shape) for name, value in load_file(folder / "model.safetensors").items()}
    GOLDEN.write_text(json.dumps(content))
    cameras = {"top": (64, 96), "left_wrist": (48, 64)}
    for name, changes in CHANGES.items():
        acts = lerobot_acts(formula_folder(work / name, **changes), cameras, work)
        content[name] = {key: np.round(values.astype(np.float64), 7).tolist() for key, values in acts.items()}
        content[name]["chunk"] = content[name]["chunk"] if name == "queued" else content["queued"]["chunk"]
    GOLDEN.write_text(json.dumps(content))


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as made:
        write_golden(Path(made))
