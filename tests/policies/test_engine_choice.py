"""Choice of the engine: the fastest of those that predict what eager fp32 predicts, and none where one is named."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from aloha_kit.config.inference import InferenceSettings, Precision
from aloha_kit.config.policies import ActConfig
from aloha_kit.core import ConfigError
from aloha_kit.data.batch import Batch
from aloha_kit.policies import engine_choice
from aloha_kit.policies.engine import blank
from aloha_kit.policies.engine_choice import choose, multiplies_bf16, soonest
from aloha_kit.policies.network import ChunkNetwork
from tests.policies.test_engine import made, off, seen

LINE = "; it differs from eager fp32 by at most "


class Bench:
    """A clock that only inferences move: 40 ms in eager, `ms` with OpenVINO, which is off by `error` deviations."""

    def __init__(self, ms: dict[Precision, float], error: dict[Precision, float], eager_ms: float = 40.0) -> None:
        self.now, self.ms, self.error, self.eager_ms = 0.0, ms, error, eager_ms
        self.tried: list[Precision] = []
        self.network = made()
        self._predict = self.network.predict
        self.network.predict = self._eager  # type: ignore[method-assign]

    def perf_counter(self) -> float:
        return self.now

    def _eager(self, batch: Batch, generator: Any = None) -> Tensor:
        self.now += self.eager_ms / 1e3
        return self._predict(batch, generator)

    def openvino(self, network: ChunkNetwork, *_: Any) -> Any:
        def compiled(precision: Precision) -> Any:
            self.tried.append(precision)

            def predict(batch: Batch, generator: Any = None) -> Tensor:
                self.now += self.ms[precision] / 1e3
                return self._predict(batch) + self.error[precision] * torch.from_numpy(network.stats["action"].std)

            return predict

        return SimpleNamespace(compiled=compiled)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Bench:
    bench = Bench(*request.param)
    monkeypatch.setattr(engine_choice, "time", bench)
    monkeypatch.setattr(engine_choice, "OpenVINOModel", bench.openvino)
    monkeypatch.setattr(engine_choice, "multiplies_bf16", lambda: True)
    monkeypatch.setattr(engine_choice, "in_bf16", lambda network: network.predict)
    return bench


@pytest.mark.parametrize(
    ("bench", "chosen", "printed"),
    [
        (({"fp32": 25, "bf16": 24}, {"fp32": 1e-3, "bf16": 0.015}), ("openvino", "fp32"), f"{LINE}0.001 "),
        (({"fp32": 25, "bf16": 15}, {"fp32": 2e-6, "bf16": 0.015}), ("openvino", "bf16"), f"{LINE}0.015 "),
        (({"fp32": 25, "bf16": 15}, {"fp32": 2e-6, "bf16": 0.05}), ("openvino", "fp32"), "allowed are 0.03"),
        (({"fp32": 1, "bf16": 1}, {"fp32": 0.4, "bf16": float("nan")}), ("eager", "fp32"), "of its standard dev"),
        (({"fp32": 39, "bf16": 38}, {"fp32": 0, "bf16": 0}), ("eager", "fp32"), "openvino fp32 39.0 ms"),
    ],
    indirect=["bench"],
)
def test_the_fastest_that_predicts_the_same(
    bench: Bench, chosen: tuple[str, str], printed: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "aloha_kit")
    engine = choose(bench.network, InferenceSettings(), blank(bench.network, 1))
    assert (engine.kind, engine.precision) == chosen
    assert engine.about()["measured"] is True
    before, line = caplog.messages
    assert re.fullmatch(r"preparing other engines: eager fp32 takes \d+ ms .*; --engine eager skips this", before)
    assert line.startswith(f"inference by --engine {chosen[0]} --precision {chosen[1]}: ")
    assert printed in line
    assert bench.tried == ["fp32", "bf16"]


@pytest.mark.parametrize("bench", [({"fp32": 1, "bf16": 1}, {"fp32": 0, "bf16": 0})], indirect=True)
def test_a_precision_that_is_given_is_kept(bench: Bench) -> None:
    for precision in ("fp32", "bf16"):
        bench.tried.clear()
        settings = InferenceSettings(precision=precision)  # type: ignore[arg-type]
        engine = choose(bench.network, settings, blank(bench.network, 1))
        assert (engine.kind, engine.precision) == ("openvino", precision)
        assert bench.tried == [precision]


@pytest.mark.parametrize("bench", [({"fp32": 0, "bf16": 0}, {"fp32": 0, "bf16": 0}, 2.0)], indirect=True)
def test_a_network_that_is_fast_enough_is_left_as_it_is(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "aloha_kit")
    engine = choose(bench.network, InferenceSettings(), blank(bench.network, 1))
    assert engine.predict == bench.network.predict
    assert bench.tried == []
    assert caplog.messages == ["inference by --engine eager --precision fp32: 2.0 ms"]


@pytest.mark.parametrize("bench", [({"fp32": 1, "bf16": 1}, {"fp32": 0, "bf16": 0})], indirect=True)
def test_a_named_engine_is_taken_whatever_is_faster(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "aloha_kit")
    engine = choose(bench.network, InferenceSettings(engine="eager"), blank(bench.network, 1))
    assert engine.predict == bench.network.predict
    assert engine.about() == {"kind": "eager", "precision": "fp32"}
    assert bench.tried == []
    assert not caplog.messages


class OwnConfig(ActConfig):
    """A family that is not in the table."""


@pytest.mark.parametrize("bench", [({"fp32": 1, "bf16": 1}, {"fp32": 0, "bf16": 0})], indirect=True)
def test_an_own_family_is_converted_only_with_a_flag(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "aloha_kit")
    bench.network.config = OwnConfig(**vars(bench.network.config))
    engine = choose(bench.network, InferenceSettings(), blank(bench.network, 1))
    assert engine.predict == bench.network.predict
    assert bench.tried == []
    assert caplog.messages[0].endswith(
        "Left out: other engines, which a family of your own gets only by name (--engine openvino)"
    )


def test_openvino_itself(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    network = made()
    caplog.set_level("INFO", "aloha_kit")
    monkeypatch.setattr(engine_choice, "FAST_MS", 0.0)
    monkeypatch.setattr(engine_choice, "soonest", lambda times: 1)  # which is faster depends on the machine
    engine = choose(network, InferenceSettings(precision="fp32"), blank(network, 1))
    assert (engine.kind, engine.precision) == ("openvino", "fp32")
    assert 0 < off(network, engine, seen(network, 1)) < 1e-4
    number = r"\d+\.\d ms"
    assert re.fullmatch(
        rf"inference by --engine openvino --precision fp32: {number} \(eager fp32 {number}; measured in [\d.]+ s\)"
        rf"{LINE}[\de.-]+ standard deviations \(\w+\); --engine eager for the network as trained",
        caplog.messages[-1],
    )


def test_without_openvino_eager_is_taken(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    network = made()
    caplog.set_level("INFO", "aloha_kit")
    monkeypatch.setattr(engine_choice, "FAST_MS", 0.0)
    monkeypatch.setitem(sys.modules, "openvino", None)
    engine = choose(network, InferenceSettings(precision="fp32"), blank(network, 1))
    assert engine.predict == network.predict
    assert ". Left out: --engine openvino needs OpenVINO (" in caplog.messages[-1]


def test_bf16_that_is_wanted_and_wrong_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    network = made()
    wrong = network.predict
    monkeypatch.setattr(engine_choice, "in_bf16", lambda network: lambda batch, generator: wrong(batch) + 1)
    with pytest.raises(ConfigError, match=r"--engine eager --precision bf16 differs .* use --precision fp32"):
        choose(network, InferenceSettings(precision="bf16"), blank(network, 1))


def test_the_choice_does_not_follow_small_differences() -> None:
    assert soonest([10.0]) == 0
    assert soonest([10.0, 9.0, 8.8]) == 0
    assert soonest([10.0, 7.0, 6.5]) == 1
    assert soonest([10.0, 7.0, 6.0, 8.0]) == 2


def test_bf16_of_the_processor(tmp_path: Path) -> None:
    for flags, expected in (("avx2 avx512_bf16 sse", True), ("asimd bf16 i8mm", True), ("avx2 avx512f", False)):
        (tmp_path / "cpuinfo").write_text(f"model name : X\nflags : {flags}\n")
        assert multiplies_bf16(tmp_path / "cpuinfo") is expected
    assert not multiplies_bf16(tmp_path / "none")
