"""Files of other tools train as what they hold: the same pixels stored otherwise give the same losses."""

from collections.abc import Callable
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import yaml

from aloha_kit.config import to_mapping
from aloha_kit.core.metrics_file import read_metrics
from aloha_kit.policies import checkpoint
from aloha_kit.train.__main__ import main
from tests.storage.foreign import aloha, mobile_aloha, rdt, robotwin, xpolicylab
from tests.storage.recording import Rig
from tests.tiny import ACT


def train(folder: Path, name: str, *flags: str) -> list[float]:
    """Two steps on the files in folder/name; the losses."""
    (folder / "tiny.yaml").write_text(yaml.safe_dump({"kind": "act", **to_mapping(ACT)}))
    given = {"policy": folder / "tiny.yaml", "dataset_dir": folder / name, "ckpt_dir": folder / f"{name}_run"}
    given |= {"num_steps": 2, "batch_size": 4, "val_every": 1, "threads": 1, "device": "cpu"}  # type: ignore[dict-item]
    main([*(word for key, value in given.items() for word in (f"--{key}", str(value))), "--no_preflight", *flags])
    rows = read_metrics(folder / f"{name}_run" / "metrics.csv")
    return [row[key] for row in rows for key in ("loss", "val_loss") if key in row]


def write(folder: Path, writer: Callable[[Path, Rig], None], change: Callable[[np.ndarray], np.ndarray] | None) -> None:
    folder.mkdir()
    for i in range(2):
        writer(folder / f"episode_{i}.hdf5", Rig())
        with h5py.File(folder / f"episode_{i}.hdf5", "r+") as file:
            images = file["observations/images"] if change else {}
            for camera in list(images):
                pixels = images[camera][()]
                del images[camera]
                images[camera] = change(pixels)  # type: ignore[misc]


def png_strings(pixels: np.ndarray) -> np.ndarray:
    codes = [cv2.imencode(".png", image)[1].tobytes() for image in pixels]
    return np.array(codes, f"S{max(map(len, codes))}")


@pytest.mark.parametrize("cache", ["disk", "none"])
def test_the_same_pixels_give_the_same_losses(tmp_path: Path, capsys: pytest.CaptureFixture[str], cache: str) -> None:
    write(tmp_path / "plain", aloha, None)
    expected = train(tmp_path, "plain", "--cache", cache)
    assert len(expected) >= 2
    assert "note: cam_high" not in capsys.readouterr().err
    kinds: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "floats": lambda p: (p / 255).astype(np.float32).transpose(0, 3, 1, 2),
        "rgba": lambda p: np.concatenate([p, p[..., :1]], axis=-1),
        "png": png_strings,
    }
    for name, change in kinds.items():
        write(tmp_path / name, aloha, change)
        # a file with encoded images counts as Mobile ALOHA's, which pairs observation and action the same way
        assert train(tmp_path, name, "--cache", cache) == expected, name
        printed = capsys.readouterr().err
        assert ("read as uint8 RGB" in printed) == (name != "png")
        assert ("--jpeg_order standard (in 2 of 2 episodes)" in printed) == (name == "png")


def test_grey_images_train_on_what_they_show(tmp_path: Path) -> None:
    """OpenCV wrote one plane of three, and the network saw whatever the memory held in the others."""
    write(tmp_path / "grey", aloha, lambda p: p[..., 1])
    write(tmp_path / "rgb", aloha, lambda p: np.stack([p[..., 1]] * 3, axis=-1))
    assert train(tmp_path, "grey") == train(tmp_path, "rgb")


def test_an_order_that_was_given_is_kept_and_changes_what_is_seen(tmp_path: Path) -> None:
    write(tmp_path / "data", mobile_aloha, None)
    guessed = train(tmp_path, "data")
    (tmp_path / "data_run").rename(tmp_path / "first")
    given = train(tmp_path, "data", "--jpeg_order", "standard")
    assert given != guessed, "the cache gave the frames of the other order"
    run = tmp_path / "data_run"
    assert yaml.safe_load((run / "config.yaml").read_text())["jpeg_order"] == "standard"
    assert checkpoint.notes(run / "checkpoints" / "last")["images"] == "jpeg_order standard"
    assert "images" not in checkpoint.notes(tmp_path / "first" / "checkpoints" / "last")
    main(["--resume", str(run), "--num_steps", "3"])
    assert checkpoint.notes(run / "checkpoints" / "last")["images"] == "jpeg_order standard"


@pytest.mark.parametrize("writer", [robotwin, xpolicylab, rdt])
def test_other_layouts_train(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], writer: Callable[[Path, Rig], None]
) -> None:
    write(tmp_path / "data", writer, None)
    assert np.isfinite(train(tmp_path, "data")).all()
    assert ("rad and 15 Hz are assumed" in capsys.readouterr().err) == (writer is robotwin)
    network = checkpoint.load(tmp_path / "data_run" / "checkpoints" / "last")
    assert network.contract.rate_hz == {robotwin: 15, xpolicylab: 20, rdt: 30}[writer]
