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

from aloha_kit.core.errors import AlohaKitError, ConfigError, did_you_mean, reason, shown, without_addresses
from aloha_kit.core.lang import Message
from aloha_kit.core.own_code import own_code_error, register

_EXTRAS = Message(
    ". Install it with: pip install 'aloha_kit[all]' "
    "(on Python 3.13 then also: pip install --no-deps dm_control gym-aloha==0.1.3)"
)


def resolve(
    table: str, name: str, built_in: Mapping[str, str], *, base: type | None = None, instance: type | None = None
) -> Any:
    """The class, function or object that `name` stands for.

    Args:
        table: what the table is called, in the plural: `policies`, `environments`, `scenes`, `drivers`, …
        name: a key of `built_in`, an entry point of the group `aloha_kit.<table>`, or `module:Name`. Own modules are
            found where Python finds any, and in the current folder.
        built_in: {name: "module:Name"}; its names come before entry points of the same name.
        base: the class that the result has to derive from; any class or function where it is not given.
        instance: the class that the result has to be an object of, in place of a class or function.

    Raises:
        ConfigError: no such name, module or attribute, a module that fails to import, or something else than `base` or
            `instance`.
    """
    target = name if ":" in name else built_in.get(name) or _installed(table).get(name)
    if target is None:
        raise ConfigError(
            "no '{name}' among the {table}. {known} One of your own is given as my_package.module:Name",
            name=name[:100],
            table=table,
            known=did_you_mean(name, known(table, built_in)),
        )
    where = (
        Message("'{name}' of the {table}", name=name, table=table)
        if target == name
        else Message("'{name}' of the {table} ({target})", name=name, table=table, target=target)
    )

    def fits(value: Any) -> bool:
        if instance is not None:
            return isinstance(value, instance)
        return callable(value) and (base is None or (isinstance(value, type) and issubclass(value, base)))

    found = _load(target, where, fits)
    if base is not None and not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigError(
            "'{name}' of the {table} must be a class derived from {base}, found {found}",
            name=name,
            table=table,
            base=base.__name__,
            found=shown(found),
        )
    if instance is not None and not isinstance(found, instance):
        raise ConfigError(
            "'{name}' of the {table} must be an object of {instance}, found {found}",
            name=name,
            table=table,
            instance=instance.__name__,
            found=shown(found),
        )
    if instance is None and not callable(found):
        raise ConfigError(
            "'{name}' of the {table} must be a class or a function, found {found}",
            name=name,
            table=table,
            found=shown(found),
        )
    if name not in built_in:
        register(target.partition(":")[0])
    return found


def call(table: str, name: str, make: Callable[..., Any], arguments: Mapping[str, Any], **named: Any) -> Any:
    """Call `make`, which `resolve` found as `name` in `table`; its result.

    Args:
        arguments: {name for messages: a positional argument}.
        named: the keyword arguments.

    Raises:
        ConfigError: it takes other arguments; or the user's own code raised an exception, see `own_code_error`.
    """
    _require_signature(table, name, make, arguments, named)
    try:
        return make(*arguments.values(), **named)
    except AlohaKitError:
        raise
    except (Exception, SystemExit) as error:
        own = own_code_error(error, f"'{name}' of the {table}")
        if own is None:
            raise
        raise own from error


def _require_signature(
    table: str, name: str, make: Callable[..., Any], arguments: Mapping[str, Any], named: Mapping[str, Any]
) -> None:
    try:
        signature = inspect.signature(make)
        signature.bind(*arguments, **named)
    except ValueError:  # a callable of an extension module may have no signature
        return
    except TypeError as error:
        expected = ", ".join([*arguments, *(f"{key}=…" for key in named)])
        takes = without_addresses(str(signature))
        raise ConfigError(
            "'{name}' of the {table} is called with ({expected}), but takes {takes}: {error}",
            name=name,
            table=table,
            expected=expected,
            takes=takes,
            error=error,
        ) from error


def known(table: str, built_in: Mapping[str, str]) -> list[str]:
    """Every name that `resolve` finds without a module, sorted."""
    return sorted({*built_in, *_installed(table)})


def name_of(table: str, found: type, built_in: Mapping[str, str]) -> str:
    """The name that `resolve` finds a class by: of the table, of an entry point, else `module:Name`."""
    target = f"{found.__module__}:{found.__qualname__}"
    own = next((name for name, at in built_in.items() if at == target), None)
    return own or next((name for name, at in _installed(table).items() if at == target), target)


def _installed(table: str) -> dict[str, str]:
    """Entry points {name: "module:Name"} of the table; reads the metadata of every installed package."""
    return {point.name: point.value for point in entry_points(group=f"aloha_kit.{table}")}


def _load(target: str, where: str, fits: Callable[[Any], bool]) -> Any:
    module_name, _, attribute = target.partition(":")
    if not (all(part.isidentifier() for part in module_name.split(".")) and attribute.isidentifier()):
        raise ConfigError(
            "{where} must read my_package.module:Name, given '{target}'", where=where, target=target[:100]
        )
    top = module_name.partition(".")[0]
    if importlib.util.find_spec(top) is None and "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # an installed command does not look where it is started, `python -m` does
        importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name + ".").startswith(error.name + "."):
            raise ConfigError(
                "{where}: Python finds no module '{error}', neither in {folder} nor on PYTHONPATH nor installed",
                where=where,
                error=error.name,
                folder=os.getcwd(),
            ) from error
        hint = _EXTRAS if top == "aloha_kit" else ""
        raise ConfigError(
            "{where}: importing {module_name} failed: {error}{hint}",
            where=where,
            module_name=module_name,
            error=reason(error),
            hint=hint,
        ) from error
    except (Exception, SystemExit) as error:  # the user's own code: whatever it raises is about that file
        raise ConfigError(
            "{where}: importing {module_name} failed: {name}: {error}",
            where=where,
            module_name=module_name,
            name=type(error).__name__,
            error=reason(error),
        ) from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        own = [key for key, value in vars(module).items() if key[0] != "_" and fits(value) and _own(value, module_name)]
        raise ConfigError(
            "{where}: module {module_name} has no '{attribute}'. {known}",
            where=where,
            module_name=module_name,
            attribute=attribute,
            known=did_you_mean(attribute, own),
        ) from error


def _own(value: Any, module: str) -> bool:
    """Whether `value` is no class or function that `module` imports from elsewhere."""
    return not (isinstance(value, type) or inspect.isroutine(value)) or value.__module__ == module
