"""YAML parser: errors name the line of the file, and size limits bound memory and time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml

from aloha_kit.core import ConfigError
from aloha_kit.core.files import special_file
from aloha_kit.core.lang import Message

_BYTES = 1 << 20
_DEPTH = 32
_VALUES = 100_000  # after aliases are expanded
_BITS = 63  # of an integer
_BYTE_ORDER_MARKS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


def parse(path: Path) -> Any:
    """The content of a YAML file as plain values; None where it is empty.

    Raises:
        ConfigError: it cannot be read, is not UTF-8 or not YAML, gives a key twice, or is too large or too deep.
    """
    text = _text(path)
    try:
        return _Loader(text).get_single_data()
    except _Refused as error:
        raise ConfigError("{path}, line {line}: {problem}", path=path, line=error.line, problem=error.problem) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line if mark else 0
        begin = text.splitlines()[line] if mark and line < len(text.splitlines()) else ""
        if "\t" in begin[: len(begin) - len(begin.lstrip())]:
            raise ConfigError(
                "{path}, line {line}: indented with a tab, and YAML takes spaces only", path=path, line=line + 1
            ) from None
        what = " ".join(str(part) for part in (error.context, error.problem) if part)
        raise ConfigError("{path} is not YAML: line {line}: {what}", path=path, line=line + 1, what=what) from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise ConfigError("{path} is not YAML: {names}", path=path, names=" ".join(str(error).split())) from None
    except (LookupError, AttributeError, TypeError):  # what yaml makes of `!!bool maybe`, `!!int ''`, `!!timestamp x`
        raise ConfigError("{path} is not YAML: a value does not fit its tag (!!int, !!bool, …)", path=path) from None


def _text(path: Path) -> str:
    try:
        if special := special_file(path):
            raise ConfigError("{path} is {special}", path=path, special=special)
        size = path.stat().st_size
        if size > _BYTES:
            raise ConfigError(
                "{path} has {size:.1f} MB, a configuration at most {bytes:.0f} MB",
                path=path,
                size=size / 1e6,
                bytes=_BYTES / 1e6,
            )
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError("{path} cannot be read: {reason}", path=path, reason=error.strerror) from error
    for mark, name in _BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            raise ConfigError("{path} is {name}; save it as UTF-8", path=path, name=name)
    if b"\0" in data[:200]:
        raise ConfigError("{path} is UTF-16 or no text; save it as UTF-8", path=path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        try:
            data.decode("gbk")
        except UnicodeDecodeError:
            raise ConfigError("{path}, line {line}: not UTF-8; save the file as UTF-8", path=path, line=line) from None
        raise ConfigError(
            "{path}, line {line}: not UTF-8 but probably GBK; save the file as UTF-8", path=path, line=line
        ) from None


class _Refused(yaml.MarkedYAMLError):
    """Valid YAML that is not a configuration."""

    def __init__(self, problem: str, mark: yaml.Mark) -> None:
        super().__init__(problem=problem, problem_mark=mark)
        self.line = mark.line + 1


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with bounds, and keys once only."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        if self._depth > _DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise _Refused(Message("nested deeper than {depth} levels", depth=_DEPTH), mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None:
            _require_bounded(node)
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in lines:
                problem = Message(
                    "the key '{key}' is given twice, first in line {line}", key=key.value, line=lines[key.value]
                )
                raise _Refused(problem, key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return node

    def construct_yaml_int(self, node: Any) -> int:
        value = super().construct_yaml_int(node) if len(node.value) <= 100 else 1 << _BITS
        if abs(value) >= 1 << _BITS:
            raise _Refused(
                Message("an integer beyond {bits} bits: {value}…", bits=_BITS, value=node.value[:20]), node.start_mark
            )
        return int(value)

    def construct_yaml_float(self, node: Any) -> float:
        value = float(super().construct_yaml_float(node))
        if math.isnan(value):
            raise _Refused(Message("{value} is no number", value=node.value), node.start_mark)
        return value


for _tag in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", getattr(_Loader, f"construct_yaml_{_tag}"))


def _require_bounded(root: Any) -> None:
    """Raise `MarkedYAMLError` where aliases expand to too many values, or a value holds itself."""
    counts: dict[int, int] = {}

    def count(node: Any, above: tuple[int, ...]) -> int:
        if id(node) in above:
            raise _Refused(Message("an alias of what it stands in"), node.start_mark)
        if id(node) not in counts:
            items = node.value if isinstance(node, yaml.CollectionNode) else []
            parts = [part for item in items for part in (item if isinstance(item, tuple) else (item,))]
            counts[id(node)] = 1 + sum(count(part, (*above, id(node))) for part in parts)
        if counts[id(node)] > _VALUES:
            raise _Refused(Message("aliases that stand for more than {n} values", n=_VALUES), node.start_mark)
        return counts[id(node)]

    count(root, ())
