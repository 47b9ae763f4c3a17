"""What of an observation travels, and what a server takes for one."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from aloha_kit.core import Contract, ContractError
from aloha_kit.core.features import object_poses
from aloha_kit.remote.messages import Jpeg, pack, RemoteError, unpack
from aloha_kit.remote.observations import incoming, largest_observation, outgoing

CONTRACT = Contract.of(("left_waist",), ("left_waist",), {"top": (24, 32), "wrist": (24, 32)}, 50.0)
# a gradient, so that JPEG keeps it well
IMAGE = np.stack([np.tile(np.arange(32) * 8, (24, 1)), *np.zeros((2, 24, 32))], axis=2).astype(np.uint8)


def observation(**changes: Any) -> Any:
    images = {"top": IMAGE, "wrist": 255 - IMAGE, "unseen": IMAGE}
    return {"qpos": np.float32([0.5]), "images": images, "stamps": {"qpos": 7}, **changes}


def there_and_back(sent: dict[str, Any]) -> Any:
    return incoming(unpack(pack({"kind": "predict", "observation": sent}))["observation"], CONTRACT)


def test_only_what_the_policy_reads_travels() -> None:
    back = there_and_back(outgoing(observation(), CONTRACT, None))
    assert set(back) == {"qpos", "images", "stamps"}
    assert list(back["images"]) == ["top", "wrist"]
    np.testing.assert_array_equal(back["images"]["wrist"], 255 - IMAGE)
    np.testing.assert_array_equal(back["qpos"], np.float32([0.5]))


def test_a_jpeg_that_a_camera_sent_travels_as_it_came() -> None:
    data = cv2.imencode(".jpg", IMAGE[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    sent = outgoing(observation(images_jpeg={"top": data}), CONTRACT, None)
    assert sent["images"]["top"] == data
    back = there_and_back(sent)
    red_first = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(back["images"]["top"], red_first)
    assert np.abs(back["images"]["top"].astype(int) - IMAGE).mean() < 6  # red is red
    np.testing.assert_array_equal(back["images"]["wrist"], 255 - IMAGE)


def test_other_images_become_jpeg_where_requested() -> None:
    sent = outgoing(observation(), CONTRACT, 90)
    assert len(sent["images"]["top"]) < IMAGE.nbytes / 2
    assert np.abs(there_and_back(sent)["images"]["top"].astype(int) - IMAGE).mean() < 6


def jpeg(height: int, width: int, kind: str = ".jpg") -> Jpeg:
    return Jpeg(cv2.imencode(kind, np.zeros((height, width, 3), np.uint8))[1].tobytes())


GOOD = {"qpos": np.float32([0.5]), "images": {"top": IMAGE, "wrist": IMAGE}}


def test_vectors_that_the_policy_does_not_read_do_not_travel() -> None:
    more = {"effort": np.float32([np.nan]), "qvel": np.zeros(0, np.float32), "base_vel": np.float32([1, 2])}
    assert set(outgoing(observation(**more), CONTRACT, None)) == {"qpos", "images"}
    # an older robot's side sends them; they are not looked at
    assert set(there_and_back({**GOOD, **more})) == {"qpos", "images", "stamps"}


def test_true_object_poses_travel_where_the_policy_reads_them() -> None:
    reads = Contract.of(("left_waist",), ("left_waist",), {}, 50.0, sensors=object_poses(("x", "y")))
    sent = outgoing(observation(environment_state=np.float64([1, 2])), reads, None)
    back = incoming(sent, reads)
    np.testing.assert_array_equal(back["environment_state"], [1, 2])
    with pytest.raises(ContractError, match="the observation has no 'environment_state'; it has: qpos, images, stamps"):
        outgoing(observation(), reads, None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": None}, "an observation must be a map with images"),
        ({"top": None, "wrist": None}, r"camera 'top' is missing; there are: \(none\)"),
        ({"wrist": None, "x" * 500: IMAGE}, "camera 'wrist' is missing; there are: top, x{94}…$"),
        ({"top": Jpeg(b"1234")}, "camera 'top': no JPEG: 4 bytes beginning 31 32 33 34"),
        ({"top": Jpeg(b"")}, "camera 'top': no JPEG: 0 bytes"),
        ({"top": jpeg(24, 32, ".png")}, "camera 'top': no JPEG"),
        ({"top": jpeg(32, 24)}, r"camera 'top' must be \(24, 32\) .*, given a JPEG of \(32, 24\)"),
        ({"top": Jpeg(jpeg(24, 32)[:-9])}, "camera 'top': a JPEG that was cut off"),
        ({"top": Jpeg(jpeg(24, 32)[:200] + b"\xff\xd9")}, "camera 'top'"),
        ({"top": np.zeros((2, 2))}, r"must be a JPEG or \(24, 32, 3\) uint8, given \(2, 2\) float64"),
        ({"top": np.zeros((24, 32, 4), np.uint8)}, r"given \(24, 32, 4\) uint8"),
        ({"top": np.zeros((3, 24, 32), np.uint8)}, r"given \(3, 24, 32\) uint8"),
        ({"top": "x"}, "given str"),
        ({"qpos": None}, "the observation has no 'qpos'"),
        ({"qpos": np.zeros(2, np.float32)}, r"qpos must have 1 entries .*, given shape \(2,\)"),
        ({"qpos": np.zeros(1, np.uint8)}, r"given \(1,\) uint8"),
        ({"qpos": [0.5]}, "given list"),
        ({"qpos": np.float32([np.nan])}, r"qpos\[0\] \(left_waist\) is nan"),
        ({"qpos": np.float64([-np.inf])}, r"qpos\[0\] \(left_waist\) is -inf"),
    ],
)
def test_what_is_no_observation_of_the_contract_is_refused_by_name(changes: dict[str, Any], words: str) -> None:
    vectors = {key: value for key, value in changes.items() if key == "qpos"}
    cameras = {"top": IMAGE, "wrist": IMAGE, **{k: v for k, v in changes.items() if k not in ("qpos", "images")}}
    images = {name: image for name, image in cameras.items() if image is not None}
    with pytest.raises(RemoteError, match=words):
        incoming({**GOOD, **vectors, "images": None if "images" in changes else images}, CONTRACT)


def test_an_observation_is_a_map() -> None:
    with pytest.raises(RemoteError, match="an observation must be a map with images"):
        incoming([1], CONTRACT)


def test_the_robot_refuses_to_send_what_is_not_of_the_contract() -> None:
    with pytest.raises(RemoteError, match="camera 'wrist' is missing; there are: top"):
        outgoing(observation(images={"top": IMAGE}), CONTRACT, None)
    with pytest.raises(RemoteError, match=r"camera 'top' must be .*, given \(4, 4, 3\) uint8"):
        outgoing(observation(images={"top": np.zeros((4, 4, 3), np.uint8)}), CONTRACT, None)
    with pytest.raises(RemoteError, match=r"camera 'top' must be .*, given a JPEG of \(32, 24\)"):
        outgoing(observation(images_jpeg={"top": jpeg(32, 24)}), CONTRACT, None)
    with pytest.raises(ContractError, match=r"qpos must have 1 entries .*, given shape \(2,\)"):
        outgoing(observation(qpos=np.zeros(2)), CONTRACT, None)


def test_every_observation_of_a_contract_is_within_its_bound() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, 24, 32, 3), np.uint8)
    seen = observation(images={"top": noise[0], "wrist": noise[1]})
    for quality in (None, 100):
        message = pack({"kind": "predict", "id": 2**62, "observation": outgoing(seen, CONTRACT, quality)})
        assert len(message) < largest_observation(CONTRACT) < 60_000
