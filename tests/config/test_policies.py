"""Policy configurations: what ships loads, what makes no sense is answered."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aloha_kit.config import names, to_mapping
from aloha_kit.config.policies import ActConfig, CnnMlpConfig, load_policy, policy_from_mapping
from aloha_kit.core import ConfigError


def test_everything_that_ships_loads_as_its_kind() -> None:
    shipped = {name: load_policy(name) for name in names("policies")}
    kinds = {name: type(config) for name, config in shipped.items()}
    assert all(type(config) is type(load_policy(config.kind)) for config in shipped.values())
    assert (
        kinds.items()
        >= {
            "act": ActConfig,
            "act_cpu": ActConfig,
            "act_reference": ActConfig,
            "cnnmlp": CnnMlpConfig,
            "cnnmlp_reference": CnnMlpConfig,
        }.items()
    )
    assert shipped["act"] == ActConfig()
    assert shipped["cnnmlp"] == CnnMlpConfig()


def test_the_reference_is_the_published_one() -> None:
    config = load_policy("act_reference")
    assert isinstance(config, ActConfig)
    assert (config.dec_layers, config.decoder_output, config.loss_over) == (7, "first", "all")
    assert (config.hidden_dim, config.dim_feedforward, config.chunk_size, config.latent_dim) == (512, 3200, 100, 32)
    assert (config.share_backbone, config.camera_embedding, config.first_self_attention) == (True, False, True)
    plain = load_policy("cnnmlp_reference")
    assert isinstance(plain, CnnMlpConfig)
    assert (plain.features, plain.hidden_dim, plain.chunk_size, plain.share_backbone) == (
        "convolutions",
        1024,
        1,
        False,
    )


@pytest.mark.parametrize("name", ["act", "act_cpu", "act_reference", "cnnmlp", "cnnmlp_reference"])
def test_plain_values_and_back(name: str) -> None:
    config = load_policy(name, image_size=(48, 64))
    assert policy_from_mapping({"kind": config.kind, **to_mapping(config)}) == config


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"chunk_size": 0}, "chunk_size must be at least 1, given 0"),
        ({"hidden_dim": 30, "nheads": 3}, "hidden_dim must be a multiple of 4 and of nheads (3), given 30"),
        ({"hidden_dim": 36}, "hidden_dim must be a multiple of 4 and of nheads (8), given 36"),
        ({"dropout": 1.0}, "dropout must be in [0, 1), given 1.0"),
        ({"kl_weight": -1.0}, "kl_weight and is_pad_weight must not be negative, given -1.0 and 0.0"),
        ({"is_pad_weight": 1.0}, "is_pad_weight 1.0 needs is_pad_head true"),
        ({"dilation": True}, "dilation is of the fourth stage of resnet50, given resnet18 with backbone_layers 4"),
        ({"image_crop": 0.0}, "image_crop must be in (0, 1], given 0.0"),
        ({"backbone_layers": 5}, "backbone_layers: a ResNet has 4 stages, given 5"),
        ({"std_floor": 0.0}, "std_floor must be positive, given 0.0"),
        ({"image_size": (0, 3)}, "image_height must be at least 1, given 0"),
        ({"pretrained_backbone": False}, "backbone_norm frozen without pretrained weights normalises nothing"),
        ({"backbone_width": 32}, "pretrained weights exist for backbone_width 64"),
        ({"backbone_norm": "group"}, "set pretrained_backbone to false"),
        (
            {"backbone_norm": "group", "pretrained_backbone": False, "backbone_width": 24},
            "backbone_width must be a multiple of 16 with group norm, given 24",
        ),
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"act.yaml: {text}") + "|" + re.escape(text)):
        load_policy("act", **changes)


def test_backbone_settings_do_not_matter_without_images() -> None:
    assert ActConfig(use_images=False, pretrained_backbone=False).backbone_norm == "frozen"


def test_unknown_things_are_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'chunk_sise'\. Did you mean 'chunk_size'"):
        load_policy("act", chunk_sise=3)
    with pytest.raises(ConfigError, match=r"no configuration 'atc' in policies\. Did you mean 'act'"):
        load_policy("atc")
    file = tmp_path / "mine.yaml"
    for text, message in (
        (
            "kind: cnnmpl",
            "mine.yaml: kind: no 'cnnmpl' among the policies. Did you mean 'cnnmlp'? Known: act, bc, cnnmlp",
        ),
        ("chunk_size: 3", "mine.yaml has no kind. Known: act, bc, cnnmlp"),
        (
            "kind: nowhere.module:Config",
            "kind: 'nowhere.module:Config' of the policies: Python finds no module 'nowhere'",
        ),
        ("kind: pathlib:Path", "kind: 'pathlib:Path' of the policies must be a class derived from PolicyConfig"),
        ("kind: [act]", "kind: no '['act']' among the policies"),
        ("- a", "must hold keys and values, given: list"),
        ("{", "is not YAML"),
        ("kind: act\nbackbone: vgg", "backbone"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=re.escape(message)):
            load_policy(file)


OWN = """
from dataclasses import dataclass
from aloha_kit.config.policies import PolicyConfig

@dataclass(frozen=True)
class Own(PolicyConfig):
    network = "nowhere:Network"
    gain: float = 2.0

@dataclass(frozen=True)
class NoNetwork(PolicyConfig):
    gain: float = 2.0
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "own_family.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("own_family", None)


def test_a_family_outside_the_checkout(own: Path) -> None:
    (own / "mine.yaml").write_text("kind: own_family:Own\ngain: 3\nchunk_size: 7\nuse_images: false\n")
    config = load_policy(own / "mine.yaml")
    assert (config.kind, config.chunk_size, config.share_backbone) == ("own_family:Own", 7, True)
    assert to_mapping(config)["gain"] == 3.0
    assert policy_from_mapping({"kind": config.kind, **to_mapping(config)}) == config
    with pytest.raises(ConfigError, match="chunk_size must be at least 1, given 0"):
        load_policy(own / "mine.yaml", chunk_size=0)
    with pytest.raises(ConfigError, match="NoNetwork names no network: it needs network"):
        load_policy(own / "mine.yaml", kind="own_family:NoNetwork")


def test_an_installed_family(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = own / "own_family-1.dist-info"
    there.mkdir()
    (there / "METADATA").write_text("Name: own_family\nVersion: 1\n")
    (there / "entry_points.txt").write_text("[aloha_kit.policies]\nown = own_family:Own\n")
    config = policy_from_mapping({"kind": "own", "use_images": False})
    assert (type(config).__name__, config.kind) == ("Own", "own")
    with pytest.raises(ConfigError, match=r"Known: act, bc, .*own"):
        policy_from_mapping({"kind": "owm"})
