"""The ResNet is torchvision's, cut where configured; its weights come from a file, or an error states why not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import resnet18, resnet34, resnet50
from torchvision.ops.misc import FrozenBatchNorm2d

from aloha_kit.config.policies import ActConfig
from aloha_kit.core import ConfigError
from aloha_kit.policies.backbone import center_crop, ImageEncoder, random_crop, ResNetTrunk


def config(**changes: Any) -> ActConfig:
    return ActConfig(**changes)


@pytest.mark.parametrize(
    ("name", "make", "stages", "dilation"),
    [
        *(("resnet18", resnet18, stages, False) for stages in (1, 3, 4)),
        ("resnet34", resnet34, 3, False),
        ("resnet50", resnet50, 4, False),
        ("resnet50", resnet50, 4, True),
    ],
)
def test_it_computes_what_torchvision_computes(name: str, make: Any, stages: int, dilation: bool) -> None:
    torch.manual_seed(0)
    dilated = {"replace_stride_with_dilation": [False, False, True]} if dilation else {}
    whole = make(norm_layer=FrozenBatchNorm2d, **dilated)
    for module in whole.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    trunk = ResNetTrunk(config(backbone=name, backbone_layers=stages, dilation=dilation))
    trunk.load_state_dict({k: v for k, v in whole.state_dict().items() if k in trunk.state_dict()})
    for network in (whole, trunk):
        network.double()  # passes are merged: in double nothing hides behind rounding
    image = torch.randn(2, 3, 37, 50, dtype=torch.float64)
    x = whole.maxpool(whole.relu(whole.bn1(whole.conv1(image))))
    for stage in range(stages):
        x = getattr(whole, f"layer{stage + 1}")(x)
    y = trunk(image)
    torch.testing.assert_close(y, x, rtol=1e-9, atol=1e-12)
    weights = torch.randn_like(x)
    (x * weights).sum().backward()
    (y * weights).sum().backward()
    theirs = dict(whole.named_parameters())
    for key, value in trunk.named_parameters():
        torch.testing.assert_close(value.grad, theirs[key].grad, rtol=1e-9, atol=1e-12)
    assert trunk.map_size(37, 50) == tuple(x.shape[-2:])
    assert trunk.channels == x.shape[1]


@pytest.mark.parametrize("size", [(480, 640), (97, 131), (32, 33), (1, 1)])
def test_map_sizes_are_those_of_the_maps(size: tuple[int, int]) -> None:
    cut = config(backbone_layers=2, backbone_width=16, backbone_norm="group", pretrained_backbone=False)
    trunk = ResNetTrunk(cut)
    with torch.inference_mode():
        assert tuple(trunk(torch.zeros(1, 3, *size)).shape) == (1, 32, *trunk.map_size(*size))


def test_crops_are_random_in_training_and_central_at_inference() -> None:
    rows, columns = torch.arange(10.0).view(1, 1, 10, 1), torch.arange(20.0).view(1, 1, 1, 20)
    images = (100 * rows + columns).expand(64, 3, 10, 20)
    torch.testing.assert_close(center_crop(images, 8, 16), images[:, :, 1:9, 2:18])
    torch.manual_seed(0)
    crops = random_crop(images, 8, 16)
    corners = {(int(corner // 100), int(corner % 100)) for corner in crops[:, 0, 0, 0].tolist()}
    assert {top for top, _ in corners} == {0, 1, 2}
    assert {left for _, left in corners} == {0, 1, 2, 3, 4}
    for crop in crops:
        top, left = int(crop[0, 0, 0] // 100), int(crop[0, 0, 0] % 100)
        torch.testing.assert_close(crop, images[0, :, top : top + 8, left : left + 16])
    values = {"backbone_layers": 1, "backbone_width": 16, "backbone_norm": "group", "pretrained_backbone": False}
    encoder = ImageEncoder(config(**values, image_crop=0.8), {"top": (10, 20)}).eval()
    whole = ImageEncoder(config(**values), {"top": (8, 16)}).eval()
    whole.load_state_dict(encoder.state_dict())
    image = torch.rand(2, 3, 10, 20)
    (cropped,), (expected,) = encoder({"top": image}), whole({"top": image[:, :, 1:9, 2:18]})
    torch.testing.assert_close(cropped, expected)
    assert encoder.map_sizes == [tuple(expected.shape[-2:])]
    assert not torch.equal(encoder.train()({"top": image})[0], encoder({"top": image})[0])


def test_equal_images_in_one_pass_give_what_each_gives_alone() -> None:
    torch.manual_seed(0)
    cameras = {"a": (32, 40), "b": (32, 40)}
    vision = ImageEncoder(config(backbone_layers=2), cameras)
    images = {name: torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8) for name, size in cameras.items()}
    with torch.inference_mode():
        together = vision(images)
        alone = [vision.backbones[0](vision.normalise(images[name])) for name in cameras]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_images_are_resized_inside_and_taken_as_they_are_when_it_is_done_already() -> None:
    vision = ImageEncoder(config(backbone_layers=1, image_size=(16, 20)), {"a": (32, 40)})
    flat = torch.full((1, 3, 32, 40), 77, dtype=torch.uint8)
    with torch.inference_mode():
        large, small = vision({"a": flat})[0], vision({"a": flat[..., :16, :20]})[0]
    assert large.shape == small.shape == (1, 64, 4, 5)
    torch.testing.assert_close(large, small)  # a plain colour looks the same at any size


def test_pretrained_weights_fill_every_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    published = resnet18().state_dict()
    monkeypatch.setattr("torchvision.models.WeightsEnum.get_state_dict", lambda *_, **__: published)
    for norm in ("frozen", "batch"):
        vision = ImageEncoder(config(backbone_norm=norm, share_backbone=False), {"a": (32, 32), "b": (32, 32)})
        vision.load_pretrained("resnet18")
        for backbone in vision.backbones:
            for key, value in backbone.state_dict().items():
                assert torch.equal(value, published[key]), key


def test_without_a_network_the_way_out_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    vision = ImageEncoder(config(), {"a": (32, 32)})
    expected = (
        r"cannot fetch the pretrained weights of resnet18 \(Name or service not known\)\. Put https://\S+resnet18\S+pth"
        rf" at {re.escape(str(tmp_path))}/hub/checkpoints/resnet18-\w+\.pth, or train from scratch:"
        " --no-pretrained-backbone --backbone-norm group"
    )
    with pytest.raises(ConfigError, match=expected):
        vision.load_pretrained("resnet18")
