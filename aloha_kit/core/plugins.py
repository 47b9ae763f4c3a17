"""Plug-ins: from a name in a configuration to a class or function, of this package, an installed one or the user's.

A table is a dictionary {name: "module:Name"}; a module is imported only when its name is used. Wherever a
configuration names a line of a table, two more things are accepted: `my_package.module:Name` of the user's own
code, and the name of an entry point that an installed package declares in the group `aloha_kit.<table>`.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any

from aloha_kit.core.errors import ConfigError, did_you_mean, reason, shown

_EXTRAS = (
    ". Install it with: pip install 'aloha_kit[all]' "
    "(on Python 3.13 then also: pip install --no-deps dm_control gym-aloha==0.1.3)"
)


def resolve(
    table: str, name: str, built_in: Mapping[str, str], *, base: type | None = None, instance: type | None = None
) -> Any:
    """The class, function or object that `name` stands for.

    Args:
        table: what the table is called, in the plural: `families`, `environments`, `scenes`, `drivers`, …
        name: a key of `built_in`, an entry point of the group `aloha_kit.<table>`, or `module:Name`. Own modules are
            found where Python finds any, and in the current folder.
        built_in: {name: "module:Name"}; its names come before entry points of the same name.
        base: the class that the result has to derive from; any class or function where it is not given.
        instance: the class that the result has to be an object of, in place of a class or function.

    Raises:
        ConfigError: no such name, module or attribute, a module that fails to import, or something else than `base` or
            `instance`.
    """
    target = name if ":" in name else {**_installed(table), **built_in}.get(name)
    if target is None:
        raise ConfigError(
            f"no '{name[:100]}' among the {table}. {did_you_mean(name, known(table, built_in))} "
            "One of your own is given as my_package.module:Name"
        )
    found = _load(target, f"'{name}' of the {table}" if target == name else f"'{name}' of the {table} ({target})")
    if base is not None and not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigError(f"'{name}' of the {table} must be a class derived from {base.__name__}, found {shown(found)}")
    if instance is not None and not isinstance(found, instance):
        raise ConfigError(f"'{name}' of the {table} must be an object of {instance.__name__}, found {shown(found)}")
    if instance is None and not callable(found):
        raise ConfigError(f"'{name}' of the {table} must be a class or a function, found {shown(found)}")
    return found


def require_call(table: str, name: str, make: Callable[..., Any], *arguments: str, **named: Any) -> None:
    """Raise ConfigError where `make`, found as `name` in `table`, cannot be called with these arguments.

    Args:
        arguments: names of the positional arguments, for the message.
        named: the keyword arguments.
    """
    try:
        signature = inspect.signature(make)
        signature.bind(*arguments, **named)
    except ValueError:  # a callable of an extension module may have no signature
        return
    except TypeError as error:
        expected = ", ".join([*arguments, *(f"{key}=…" for key in named)])
        raise ConfigError(
            f"'{name}' of the {table} is called with ({expected}), but takes {signature}: {error}"
        ) from error


def known(table: str, built_in: Mapping[str, str]) -> list[str]:
    """Every name that `resolve` finds without a module, sorted."""
    return sorted({*built_in, *_installed(table)})


def name_of(table: str, found: type, built_in: Mapping[str, str]) -> str:
    """The name that `resolve` finds a class by: of the table, of an entry point, else `module:Name`."""
    target = f"{found.__module__}:{found.__qualname__}"
    return next((name for names in (built_in, _installed(table)) for name, at in names.items() if at == target), target)


def _installed(table: str) -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=f"aloha_kit.{table}")}


def _load(target: str, where: str) -> Any:
    module_name, _, attribute = target.partition(":")
    if not (all(part.isidentifier() for part in module_name.split(".")) and attribute.isidentifier()):
        raise ConfigError(f"{where} must read my_package.module:Name, given '{target[:100]}'")
    top = module_name.partition(".")[0]
    if importlib.util.find_spec(top) is None and "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # an installed command does not look where it is started, `python -m` does
        importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name + ".").startswith(error.name + "."):
            raise ConfigError(
                f"{where}: Python finds no module '{error.name}', neither in {os.getcwd()} nor on PYTHONPATH "
                "nor installed"
            ) from error
        hint = _EXTRAS if top == "aloha_kit" else ""
        raise ConfigError(f"{where}: importing {module_name} failed: {reason(error)}{hint}") from error
    except (Exception, SystemExit) as error:  # the user's own code: whatever it raises is about that file
        raise ConfigError(
            f"{where}: importing {module_name} failed: {type(error).__name__}: {reason(error)}"
        ) from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ConfigError(
            f"{where}: module {module_name} has no '{attribute}'. {did_you_mean(attribute, public)}"
        ) from error
