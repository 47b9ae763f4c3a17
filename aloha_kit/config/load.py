"""Loading of configurations by name or path into typed, frozen dataclasses.

A configuration is found by path, or by name in these folders, first hit wins: `$ALOHA_KIT_CONFIGS`,
`./configs`, the checkout the package runs from, and the folder that installation filled.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import dacite

from aloha_kit.config.yaml_file import parse
from aloha_kit.core import ConfigError, did_you_mean
from aloha_kit.core.errors import shown
from aloha_kit.core.lang import Message

T = TypeVar("T")


def folders(kind: str) -> list[Path]:
    """Existing folders that hold configurations of a kind (`tasks`, `policies`, `rigs`)."""
    roots = [
        os.environ.get("ALOHA_KIT_CONFIGS"),
        "configs",
        Path(__file__).resolve().parents[2] / "configs",
        Path(sys.prefix) / "share" / "aloha_kit" / "configs",
    ]
    candidates = [Path(root) / kind for root in roots if root]
    return [folder for folder in candidates if folder.is_dir()]


def names(kind: str) -> list[str]:
    """Every configuration name of a kind that can be found."""
    return sorted({file.stem for folder in folders(kind) for file in folder.glob("*.yaml")})


def find(kind: str, name: str | Path) -> Path:
    """The file of a configuration.

    Raises:
        ConfigError: neither a file nor a known name; lists the names that exist.
    """
    path = Path(name)
    if path.suffix in {".yaml", ".yml"} and path.is_file():
        return path
    for folder in folders(kind):
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    if path.suffix in {".yaml", ".yml"} or len(path.parts) > 1:
        raise ConfigError("no file '{name}'. {known}", name=name, known=did_you_mean(path.stem, names(kind)))
    raise ConfigError(
        "no configuration '{name}' in {kind}. {known}", name=name, kind=kind, known=did_you_mean(str(name), names(kind))
    )


def load(cls: type[T], kind: str, name: str | Path, **overrides: Any) -> T:
    """Read a YAML configuration into `cls`; `overrides` replace single top-level keys.

    Raises:
        ConfigError: not found, not YAML, an unknown key or a value of the wrong type.
    """
    path = find(kind, name)
    config = from_mapping(cls, {**read(path, empty={}), **overrides}, where=str(path))
    return dataclasses.replace(config, **dict.fromkeys(_not_keys(cls), str(path)))  # type: ignore[type-var]


def file_field() -> Any:
    """Field `file` of a configuration class: where `load` read it from, for `key_errors`; no key of the YAML file."""
    return dataclasses.field(default="", compare=False, repr=False, metadata={"key": False})


@contextlib.contextmanager
def key_errors(config: Any, key: str) -> Iterator[None]:
    """Context in which the message of a ConfigError begins with the file of `config` and the `key` that it is about."""
    try:
        yield
    except ConfigError as error:
        if not config.file:
            raise
        raise ConfigError("{file}: {key}: {error}", file=config.file, key=key, error=error) from error


def read(path: Path, *, empty: dict[str, Any] | None = None) -> dict[str, Any]:
    """The keys and values of a YAML file; ``empty`` stands for a file without content, refused where not given.

    Raises:
        ConfigError: not YAML, or something else than keys and values.
    """
    raw = parse(path)
    if raw is None:
        raw = empty
    if not isinstance(raw, dict):
        raise ConfigError("{path} must hold keys and values, given: {name}", path=path, name=type(raw).__name__)
    return raw


def from_mapping(cls: type[T], values: Mapping[str, Any], *, where: str = "configuration") -> T:
    """Build the dataclass `cls` from plain values, nested ones included.

    A field's older names are those of `metadata={"aliases": (…,)}`.

    Raises:
        ConfigError: an unknown key (with the nearest known one), a missing key, a key under two names or a wrong type.
    """
    values = _under_present_names(cls, values, where)
    _check_keys(cls, values, where)
    hints = typing.get_type_hints(cls)
    values = {key: _word(hints[key], value) for key, value in values.items()}
    try:
        return dacite.from_dict(cls, values, dacite.Config(cast=[tuple], type_hooks={float: _number}, check_types=True))
    except dacite.WrongTypeError as error:
        choices = typing.get_args(error.field_type) if typing.get_origin(error.field_type) is typing.Literal else ()
        hint = did_you_mean(str(error.value), map(str, choices)) if choices else f"({error})"
        raise ConfigError(
            "{where}: {key} cannot be {value}. {hint}",
            where=where,
            key=error.field_path,
            value=shown(error.value),
            hint=hint,
        ) from error
    except dacite.DaciteError as error:
        raise ConfigError("{where}: {error}", where=where, error=error) from error
    except (TypeError, ValueError) as error:
        raise ConfigError("{where}: {error}", where=where, error=error) from error


def to_mapping(config: Any) -> dict[str, Any]:
    """Plain values of a configuration, ready for YAML or JSON (tuples become lists)."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return value

    hidden = _not_keys(type(config))
    return {key: plain(value) for key, value in dataclasses.asdict(config).items() if key not in hidden}


def _not_keys(cls: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(cls) if not field.metadata.get("key", True)}


def _under_present_names(cls: Any, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values with older names of keys replaced, in nested dataclasses too."""
    hints, renamed = typing.get_type_hints(cls), dict(values)
    for field in dataclasses.fields(cls):
        given = [name for name in (*field.metadata.get("aliases", ()), field.name) if name in renamed]
        if len(given) > 1:
            raise ConfigError(
                "{where}: {names} are the same key; give one of them", where=where, names=" and ".join(given)
            )
        if not given:
            continue
        value, inner = renamed.pop(given[0]), _dataclass_in(hints[field.name])
        if isinstance(value, Mapping) and inner is not None and typing.get_origin(hints[field.name]) is not dict:
            value = _under_present_names(inner, value, f"{where}: {field.name}")
        renamed[field.name] = value
    return renamed


def _number(value: Any) -> Any:
    """Convert YAML's `50` where 50.0 is meant, and `1e-4`, which YAML reads as text."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return value  # the check of types names the key


def _word(hint: Any, value: Any) -> Any:
    """Convert YAML's `no`, which it reads as false, where that is one of the choices."""
    return "no" if value is False and "no" in typing.get_args(hint) else value


def _check_keys(cls: Any, values: Mapping[str, Any], where: str) -> None:
    hints = typing.get_type_hints(cls)
    known = {f.name for f in dataclasses.fields(cls)} - _not_keys(cls)
    for key, value in values.items():
        if key not in known:
            raise ConfigError(
                "{where}: unknown key {key}. {known}", where=where, key=shown(key), known=did_you_mean(str(key), known)
            )
        _check_list(hints[key], value, f"{where}: {key}")
        inner = _dataclass_in(hints[key])
        if inner is None or not isinstance(value, Mapping):
            continue
        if typing.get_origin(hints[key]) is dict:
            for name, item in value.items():
                if isinstance(item, Mapping):
                    _check_keys(inner, item, f"{where}: {key}: {name}")
        else:
            _check_keys(inner, value, f"{where}: {key}")


def _check_list(hint: Any, value: Any, where: str) -> None:
    """Refuse YAML's `top` in place of `[top]`, which would become a tuple of letters."""
    options = typing.get_args(hint) if typing.get_origin(hint) in {typing.Union, types.UnionType} else (hint,)
    items = next((typing.get_args(option) for option in options if typing.get_origin(option) is tuple), None)
    if items is None or (value is None and type(None) in options):
        return
    count = None if Ellipsis in items else len(items)
    if not isinstance(value, (list, tuple)) or count not in {None, len(value)}:
        if count:
            what = Message("{where} must be a list of {n} values", where=where, n=count)
        elif isinstance(value, (str, int)):
            what = Message("{where} must be a list, e.g. [{value}]", where=where, value=str(value)[:80])
        else:
            what = Message("{where} must be a list", where=where)
        raise ConfigError("{what}; given {value}", what=what, value=shown(value))


def _dataclass_in(hint: Any) -> Any:
    """The dataclass a type hint is made of (`X`, `X | None`, `dict[str, X]`), or None."""
    if dataclasses.is_dataclass(hint):
        return hint
    if typing.get_origin(hint) in {dict, typing.Union, types.UnionType}:
        return next((found for arg in typing.get_args(hint) if (found := _dataclass_in(arg))), None)
    return None
