"""What is written of an episode beside its arrays and images."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from aloha_kit.core import Contract
from aloha_kit.core.exporter import attributes_of, description_of
from aloha_kit.core.source import EpisodeData


def test_numbers_of_numpy_are_in_the_description() -> None:
    zeros = np.zeros((3, 1), np.float32)
    attrs = {"task": "push", "instruction": "", "grade": np.int64(4), "sim": np.bool_(True), "private": 1}
    contract = Contract.of(("a",), ("a",), {}, 10.0)
    episode = EpisodeData("e", contract, zeros, zeros, lambda *_: zeros, attrs=attrs, success=np.True_)  # type: ignore[arg-type,return-value]
    assert attributes_of(episode) == ["task", "sim", "success", "grade", "contract"]
    described = json.loads(json.dumps(description_of(episode)))
    assert described["attrs"] == {"task": "push", "sim": True, "grade": 4}
    assert described["success"] is True
    assert "contract" not in attributes_of(replace(episode, assumption="all of it"))
