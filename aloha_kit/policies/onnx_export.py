"""Export of networks to ONNX: one file with normalisation inside, compared with eager fp32 before it gets its name."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aloha_kit.core import ConfigError
from aloha_kit.core.files import make_folder, replacing
from aloha_kit.data.batch import Batch
from aloha_kit.policies.engine import blank, compared, draws_of, of_std, probes, TOLERANCE
from aloha_kit.policies.flat import FlatNetwork
from aloha_kit.policies.generator import BatchGenerator
from aloha_kit.policies.network import ChunkNetwork, Predict

OUTPUT = "actions"
_OPSET = 18  # the first whose Resize can smooth
_ROWS = (3, 1)  # of the batches that are compared: their number is free


def export(network: ChunkNetwork, file: Path, cameras: Sequence[str] = ()) -> list[str]:
    """Write a model; returns lines about it.

    Its inputs have the names of the contract's features and raw units: vectors (B, D) float32, `images/<camera>`
    (B, H, W, 3) uint8 RGB of the recorded size, `images_depth/<camera>` (B, H, W) uint16 mm, with an axis of steps
    after B where several are read, and `instruction` (B, W) where the network reads one: the vector of the instruction
    in the model's metadata. A policy that samples has its random numbers as inputs `noise_0`, …, see the
    model's metadata. The output `actions` is (B, K, A), raw. B is free.

    Args:
        cameras: not given here: inputs have the cameras' names.

    Raises:
        ConfigError: ONNX is not installed, the file is there already, the network cannot be converted, or what was
            converted differs from eager fp32.
    """
    if cameras:
        raise ConfigError("--cameras is the order in the published scripts; the inputs of a model have their names")
    if file.exists():
        raise ConfigError("{file} is there already, and nothing is replaced; give another file", file=file)
    onnx, runtime = _libraries()
    network.eval()
    example = blank(network, _ROWS[0])
    flat = FlatNetwork(network, example, draws_of(network, example)).eval()
    model = _converted(flat, example)
    onnx.helper.set_model_props(model, {key: _text(value) for key, value in _metadata(flat).items()})
    make_folder(file.absolute().parent)
    try:
        with replacing(file) as part:
            onnx.save(model, part)
            onnx.checker.check_model(part)
            off = _require_same(network, _runs(runtime, flat, part))
    except (OSError, onnx.checker.ValidationError) as error:
        raise ConfigError("cannot write {file}: {error}", file=file, error=str(error).splitlines()[0]) from error
    return [str(file), *_described(model), f"differs from eager fp32 by at most {off:.2g} standard deviations"]


def _libraries() -> tuple[Any, Any]:
    try:
        importlib.import_module("onnxscript")  # which torch's exporter needs
        return importlib.import_module("onnx"), importlib.import_module("onnxruntime")
    except ImportError as error:
        raise ConfigError(
            "--format onnx needs onnx, onnxruntime and onnxscript ({error}). Install them with: pip install "
            "'aloha_kit[onnx]'",
            error=error,
        ) from error


def _converted(flat: FlatNetwork, example: Batch) -> Any:
    """ONNX's model of the network, the size of its batch free."""
    inputs = tuple(each.clone() for each in flat.arguments(example, None))  # not inference tensors
    free = (tuple({0: torch.export.Dim("batch", min=1)} for _ in inputs),)
    try:
        with _quiet(), torch.no_grad():
            program = torch.export.export(flat, inputs, dynamic_shapes=free, strict=False)
            converted = torch.onnx.export(
                program, input_names=flat.names, output_names=[OUTPUT], opset_version=_OPSET, verbose=False
            )
        assert converted is not None
        return _named(converted.model_proto)
    except Exception as error:  # torch and onnxscript each have their own
        reason = str(error).strip().splitlines()
        raise ConfigError(
            "this {kind} network cannot be converted to ONNX: {error}",
            kind=flat.network.config.kind,
            error=reason[0] if reason else type(error).__name__,
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Inside, the exporters do not write about the operations that they leave as they are, a line each."""
    levels = {logger: logger.level for logger in map(logging.getLogger, ("torch.onnx", "onnxscript"))}
    try:
        for logger in levels:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


def _named(model: Any) -> Any:
    """The model with its free size named: torch numbers it."""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim[:1]:
            if dim.dim_param and dim.dim_param.isidentifier():
                dim.dim_param = "batch"
    return model


def _metadata(flat: FlatNetwork) -> dict[str, Any]:
    network = flat.network
    config, language = network.config, network.language
    return {
        "kind": config.kind,
        "contract": network.contract.to_json(),
        "cameras": network.contract.cameras,
        "chunk_size": network.chunk_size,
        "n_action_steps": config.n_action_steps or network.chunk_size,
        "ensemble_weight": config.ensemble_weight,
        "n_obs_steps": config.n_obs_steps,
        "reads_goal": config.reads_goal,
        "instructions": None if language is None else language.instructions.to_json(),
        "noise": [{"distribution": draw.kind, "shape": draw.shape} for draw in flat.draws],
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _runs(runtime: Any, flat: FlatNetwork, file: Path) -> Predict:
    """The file's inference by onnxruntime."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def predict(batch: Batch, generator: BatchGenerator | None) -> Tensor:
        given = zip(flat.names, flat.arguments(batch, generator), strict=True)
        return torch.from_numpy(session.run([OUTPUT], {name: tensor.numpy() for name, tensor in given})[0])

    return predict


def _require_same(network: ChunkNetwork, predict: Predict) -> float:
    """Largest difference from eager fp32 in standard deviations of an action; ConfigError where it is too large."""
    batches = [batch for rows in _ROWS for batch in probes(network, blank(network, rows))]
    errors, _ = compared(predict, network, batches)
    shares, worst = of_std(network, errors)
    if not shares[worst] <= TOLERANCE["fp32"]:  # NaN is not
        raise ConfigError(
            "the ONNX model differs from eager fp32: {name} by {share:.3g} of its standard "
            "deviations; allowed are {tolerance:g}. Nothing is written",
            name=network.contract.action_names[worst],
            share=shares[worst],
            tolerance=TOLERANCE["fp32"],
        )
    return float(shares[worst])


def _described(model: Any) -> list[str]:
    """A line for each input and output: name, shape, type."""
    lines = []
    for word, values in (("input", model.graph.input), ("output", model.graph.output)):
        for value in values:
            tensor = value.type.tensor_type
            shape = "x".join(dim.dim_param or str(dim.dim_value) for dim in tensor.shape.dim)
            lines.append(f"{word} {value.name}: {shape} {_TYPES.get(tensor.elem_type, tensor.elem_type)}")
    return lines


_TYPES = {1: "float32", 2: "uint8", 4: "uint16"}
