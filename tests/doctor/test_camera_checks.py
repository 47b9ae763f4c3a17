"""Images that show nothing, stand still, or are another camera's."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from aloha_kit.core import ConfigError
from aloha_kit.doctor.camera_checks import check_image, check_life
from aloha_kit.doctor.identity import check_identity, likeness, load_references, save_references
from aloha_kit.ros.rig_measurements import CameraMeasurement, RgbImage
from tests.doctor.made import topic, view

NAMES = ("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist")
VIEWS = {name: view(seed) for seed, name in enumerate(NAMES)}


def judged(image: RgbImage | None, error: str = "") -> list[tuple[str, str]]:
    return [(f.level, f.found) for f in check_image(CameraMeasurement("cam_high", image, error), (480, 640))]


def test_an_image_of_a_room_is_ok() -> None:
    assert judged(VIEWS["cam_high"]) == [("ok", "640x480, neither dark nor burnt")]


def test_an_image_that_cannot_be_read_states_why() -> None:
    assert judged(None, "unknown encoding 'bayer'") == [("error", "unknown encoding 'bayer'")]


def test_another_size_is_an_error() -> None:
    assert ("error", "320x240 pixels") in judged(view(0, height=240, width=320))


def test_black_white_and_grey_images_are_distinguished() -> None:
    noise = np.random.default_rng(0).integers(0, 6, (480, 640, 3), np.uint8)
    assert judged(noise) == [("error", "black")]
    assert judged(np.full((480, 640, 3), 128, np.uint8)) == [("error", "one even colour")]
    burnt = VIEWS["cam_high"].copy()
    burnt[:120] = 255
    assert judged(burnt) == [("warning", f"over-exposed: {0.25:.0%} white")]
    burnt[:360] = 255
    assert judged(burnt)[0][0] == "error"


def test_the_same_pixels_again_and_again_are_a_frozen_camera() -> None:
    still = topic(prints=np.full(150, 7))
    [finding] = check_life(still, moved=False, simulated=False)
    assert (finding.level, finding.found) == ("error", "frozen: 150 images with the same pixels")
    assert [f.level for f in check_life(still, moved=False, simulated=True)] == ["ok"]
    assert [f.level for f in check_life(still, moved=True, simulated=True)] == ["error"]
    assert check_life(topic(), moved=True, simulated=False) == []


def disturbed(image: RgbImage) -> RgbImage:
    """The same view an hour later: nudged, darker on one side, noisier, with an arm in front."""
    moved = np.roll(image, (9, -14), (0, 1)).astype(np.float64)
    moved *= np.linspace(0.6, 1.1, image.shape[1])[None, :, None]
    moved += np.random.default_rng(9).normal(0, 8, image.shape)
    changed = np.clip(moved, 0, 255).astype(np.uint8)
    cv2.line(changed, (320, 480), (380, 200), (30, 30, 30), 60)
    return changed


@pytest.mark.parametrize("name", NAMES)
def test_a_disturbed_view_is_still_likest_to_itself(name: str) -> None:
    scores = {other: likeness(disturbed(VIEWS[name]), VIEWS[other]) for other in NAMES}
    assert max(scores, key=scores.__getitem__) == name
    assert scores[name] > 0.5
    assert max(score for other, score in scores.items() if other != name) < scores[name] - 0.2


def test_swapped_cameras_are_named_with_whom() -> None:
    swapped = {**VIEWS, "cam_left_wrist": VIEWS["cam_right_wrist"], "cam_right_wrist": VIEWS["cam_left_wrist"]}
    found = {f.subject: f for f in check_identity({n: disturbed(p) for n, p in swapped.items()}, VIEWS)}
    assert [found[name].level for name in NAMES] == ["ok", "ok", "error", "error"]
    assert "shows the view of 'cam_right_wrist', and the other way round" in found["cam_left_wrist"].found
    assert found["cam_left_wrist"].expected == "the view of 'cam_left_wrist'"


def test_three_cameras_in_a_circle_are_each_named() -> None:
    a, b, c, d = NAMES
    found = {f.subject: f for f in check_identity({a: VIEWS[b], b: VIEWS[c], c: VIEWS[a], d: VIEWS[d]}, VIEWS)}
    assert [f"'{n}'" in found[m].found for m, n in ((a, b), (b, c), (c, a))] == [True, True, True]
    assert "other way round" not in found[a].found
    assert found[d].level == "ok"


def wrist(seed: int) -> RgbImage:
    """A gripper, the same on both arms, in front of a little of the table."""
    image = np.full((480, 640, 3), 190, np.uint8)
    cv2.rectangle(image, (60, 300), (580, 480), (40, 40, 45), -1)
    cv2.rectangle(image, (200, 200), (280, 300), (70, 70, 75), -1)
    cv2.rectangle(image, (360, 200), (440, 300), (70, 70, 75), -1)
    x, y = np.random.default_rng(seed).integers((40, 30), (560, 120))
    cv2.rectangle(image, (int(x), int(y)), (int(x) + 40, int(y) + 40), (200, 30, 30), -1)
    return image


def test_wrists_that_show_their_grippers_are_distinguished_by_the_little_that_differs() -> None:
    references = {"cam_left_wrist": wrist(1), "cam_right_wrist": wrist(2)}
    assert likeness(wrist(1), wrist(2)) > 0.7
    assert "error" not in [f.level for f in check_identity(references, references)]
    swapped = {"cam_left_wrist": wrist(2), "cam_right_wrist": wrist(1)}
    assert [f.level for f in check_identity(swapped, references)] == ["error", "error"]


def test_references_that_cannot_be_distinguished_are_a_warning() -> None:
    references = {"cam_left_wrist": wrist(1), "cam_right_wrist": wrist(1)}
    found = check_identity(references, references)
    assert [f.level for f in found] == ["warning", "warning"]
    assert found[0].found == "can hardly be distinguished from 'cam_right_wrist' (likeness 1.00 of their references)"


def test_a_changed_view_that_is_nobodys_is_a_warning() -> None:
    found = {f.subject: f for f in check_identity({**VIEWS, "cam_low": view(77)}, VIEWS)}
    assert found["cam_low"].level == "warning"
    assert "save it again" in found["cam_low"].remedy


def test_a_camera_without_a_reference_is_reported() -> None:
    [finding] = check_identity({"cam_low": VIEWS["cam_low"]}, {"cam_high": VIEWS["cam_high"]})
    assert (finding.level, finding.found) == ("warning", "there is no reference image")


def test_references_are_kept_bit_for_bit(tmp_path: Path) -> None:
    files = save_references(tmp_path / "views", VIEWS)
    assert [file.name for file in files] == [f"{name}.png" for name in NAMES]
    back = load_references(tmp_path / "views", [*NAMES, "cam_new"])
    assert list(back) == list(NAMES)
    for name in NAMES:
        np.testing.assert_array_equal(back[name], VIEWS[name])


def test_missing_references_are_reported_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no folder '.*nowhere' with reference images; make one with --save_ref"):
        load_references(tmp_path / "nowhere", NAMES)
    (tmp_path / "top.png").touch()
    with pytest.raises(ConfigError, match=r"no image of cam_high in '.*'; there is: top.png"):
        load_references(tmp_path, ["cam_high"])
