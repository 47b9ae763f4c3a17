from __future__ import annotations

import math

import pytest
import torch
import torchvision.transforms.v2.functional as v2

from aloha_kit.data.augment import Augment
from aloha_kit.data.batch import Batch, split


def random_images(count: int = 4, height: int = 24, width: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, height // 4, width // 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    return (smooth * 255).to(torch.uint8)


def batch_of(images: torch.Tensor) -> Batch:
    return Batch(qpos=torch.zeros(len(images), 14), images={"top": images, "wrist": images.clone()})


OFF = {"crop": 1.0, "rotate_deg": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0}


def test_all_amounts_zero_is_the_identity() -> None:
    images = random_images()
    out = Augment(**OFF)(batch_of(images), 0)["images"]["top"]
    assert torch.equal(out, images.float() / 255)


def test_shape_range_and_the_rest_of_the_batch() -> None:
    batch = batch_of(random_images())
    out = Augment()(batch, 3)
    for images in out["images"].values():
        assert images.shape == (4, 3, 24, 32)
        assert images.dtype == torch.float32
        assert images.min() >= 0
        assert images.max() <= 1
    assert out["qpos"] is batch["qpos"]
    assert batch["images"]["top"].dtype == torch.uint8, "the batch that was given is left alone"


def test_every_sample_and_every_camera_is_drawn_separately() -> None:
    same = random_images(1).expand(4, -1, -1, -1)
    out = Augment()(batch_of(same), 0)["images"]
    distinct = [*out["top"], *out["wrist"]]
    for i, one in enumerate(distinct):
        for other in distinct[i + 1 :]:
            assert (one - other).abs().max() > 0.02


def test_draws_depend_on_seed_and_step_alone() -> None:
    batch = batch_of(random_images())
    torch.manual_seed(1)
    first = Augment(seed=5)(batch, 7)["images"]["top"]
    torch.manual_seed(2)
    torch.rand(10)
    assert torch.equal(first, Augment(seed=5)(batch, 7)["images"]["top"])
    assert not torch.equal(first, Augment(seed=5)(batch, 8)["images"]["top"])
    assert not torch.equal(first, Augment(seed=6)(batch, 7)["images"]["top"])


def test_parts_of_a_batch_get_the_draws_they_have_in_the_whole() -> None:
    whole = batch_of(random_images(6))
    expected = Augment(seed=5)(whole, 7)["images"]
    for part, piece in enumerate(split(whole, 3)):
        out = Augment(seed=5)(piece, 7, part=part, parts=3)["images"]
        for camera, images in out.items():
            assert torch.equal(images, expected[camera][2 * part : 2 * part + 2])


@pytest.mark.parametrize("amount", ["brightness", "contrast", "saturation"])
def test_colours_are_torchvisions(amount: str) -> None:
    images = random_images().float() / 255
    strength = {"brightness": 0.3, "contrast": 0.4, "saturation": 0.5}[amount]
    augment = Augment(**{**OFF, amount: strength})
    out = augment.images(images, torch.Generator().manual_seed(11))
    draws = torch.rand(4, 6, generator=torch.Generator().manual_seed(11)) * 2 - 1
    column = {"brightness": 3, "contrast": 4, "saturation": 5}[amount]
    adjust = getattr(v2, f"adjust_{amount}")
    for i in range(4):
        factor = 1 + strength * float(draws[i, column])
        assert 1 - strength <= factor <= 1 + strength
        torch.testing.assert_close(out[i], adjust(images[i], factor), rtol=0, atol=1e-5)


def test_rotation_is_torchvisions_about_the_centre() -> None:
    images = random_images(3, 48, 64).float() / 255
    out = Augment(**{**OFF, "rotate_deg": 5.0}).images(images, torch.Generator().manual_seed(4))
    draws = torch.rand(3, 6, generator=torch.Generator().manual_seed(4)) * 2 - 1
    for i in range(3):
        angle = 5.0 * float(draws[i, 0])
        expected = v2.rotate(images[i], angle, interpolation=v2.InterpolationMode.BILINEAR)
        # away from the rim, where torchvision fills with black
        torch.testing.assert_close(out[i, :, 6:-6, 6:-6], expected[:, 6:-6, 6:-6], rtol=0, atol=2e-3)
    assert out.min() > 0.5 * images.min(), "no black corners"


def test_shift_moves_without_zooming() -> None:
    """An image of 40x60 whose values are coordinates is moved by up to 10 % of each side; beyond, the rim repeats."""
    xs, ys = torch.meshgrid((torch.arange(60) + 0.5) / 60, (torch.arange(40) + 0.5) / 40, indexing="xy")
    ramp = torch.stack([ys, xs, torch.zeros(40, 60)]).expand(64, -1, -1, -1)
    out = Augment(**{**OFF, "shift": 0.1}).images(ramp, torch.Generator().manual_seed(3))
    draws = torch.rand(64, 6, generator=torch.Generator().manual_seed(3)) * 2 - 1
    inside = out[:, :2, 5:-5, 7:-7] - ramp[:, :2, 5:-5, 7:-7]
    wanted = 0.1 * draws[:, [2, 1], None, None]  # vertical, horizontal
    torch.testing.assert_close(inside, wanted.expand_as(inside), rtol=0, atol=1e-4)
    assert out.min() == 0
    assert out[:, 1].max() <= 59.5 / 60 + 1e-6


def test_crop_keeps_a_window_of_its_size_inside_the_image() -> None:
    """On an image whose values are coordinates, the output shows where each pixel came from."""
    height, width = 40, 60
    ys = (torch.arange(height) + 0.5) / height
    xs = (torch.arange(width) + 0.5) / width
    ramp = torch.stack([ys[:, None].expand(height, width), xs.expand(height, width), torch.zeros(height, width)])
    out = Augment(**{**OFF, "crop": 0.9}).images(ramp.expand(64, -1, -1, -1), torch.Generator().manual_seed(0))
    for channel, axis in ((0, 1), (1, 2)):
        line = out[:, channel].mean(dim=2 if axis == 1 else 1)  # (64, height or width)
        size = line.shape[1]
        step = (line[:, 5:-5][:, 1:] - line[:, 5:-5][:, :-1]).mean(dim=1)
        torch.testing.assert_close(step * size, torch.full((64,), 0.9), rtol=1e-3, atol=1e-3)
        middle = (line[:, size // 2 - 1] + line[:, size // 2]) / 2
        assert (middle - 0.5).abs().max() <= 0.05 + 1e-4
        assert (middle - 0.5).abs().max() > 0.03, "and it does move"
        assert math.isclose(float(middle.mean()), 0.5, abs_tol=0.02)


def test_the_steps_of_a_history_are_changed_alike() -> None:
    images = random_images()
    alone = Augment(seed=1)(batch_of(images), 5)["images"]["top"]
    history = Augment(seed=1)(batch_of(torch.stack([images, images], dim=1)), 5)["images"]["top"]
    assert history.shape == (4, 2, 3, 24, 32)
    torch.testing.assert_close(history[:, 0], alone)
    torch.testing.assert_close(history[:, 1], alone)
