"""Constructor options as text: `key=value,key=value`, parsed by the annotations of the constructor."""

import contextlib
import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from waymax_sim.plugins.entry_points import PluginError, suggest

UNANNOTATED = inspect.Parameter.empty
BOOLEANS = {"true": True, "false": False}


def split_options(text: str) -> dict[str, str]:
    """The pairs of `key=value,key=value`; values hold no comma.

    Raises:
      PluginError: An item is no pair, or a key is repeated.
    """
    options: dict[str, str] = {}
    for item in text.split(","):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not key.isidentifier():
            raise PluginError(f"option {item!r} is not key=value")
        if key in options:
            raise PluginError(f"option {key!r} is given twice")
        options[key] = value
    return options


def parse_options(constructor: Callable[..., Any], options: Mapping[str, str], label: str) -> dict[str, Any]:
    """Keyword arguments of a constructor.

    Args:
      constructor: Class or function; its annotations determine the types of values.
      options: Values as text by parameter.
      label: Name of the constructor in error messages.

    Raises:
      PluginError: There is no such parameter, or a value is not of its type.
    """
    parameters = _parameters(constructor) if options else {}
    arguments = {}
    for key, value in options.items():
        if key not in parameters:
            known = _describe(parameters)
            raise PluginError(f"{label} has no option {key!r}{suggest(key, parameters)}; {known}")
        try:
            arguments[key] = parse_value(parameters[key].annotation, value)
        except ValueError as error:
            raise PluginError(f"{label}, option {key}={value}: {error}") from None
    return arguments


def parse_value(annotation: Any, text: str) -> Any:
    """Parses a text as int, float, bool, str, None, a `Literal`, or a union of these.

    Raises:
      ValueError: It is not of this type, or there is no text for values of this type.
    """
    parsers = _parsers(annotation)
    if not parsers:
        name = "a parameter without annotation" if annotation is UNANNOTATED else _type_name(annotation)
        raise ValueError(f"values of {name} cannot be given as text")
    for parse in parsers:
        try:
            return parse(text)
        except ValueError:
            continue
    raise ValueError(f"{text!r} is not of type {_type_name(annotation)}")


def _parsers(annotation: Any) -> list[Callable[[str], Any]]:
    """One parser per member of a union, the most specific first; none for types that have no text."""
    if typing.get_origin(annotation) is typing.Literal:
        return [functools.partial(_parse_member, {str(member): member for member in typing.get_args(annotation)})]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        members = [parser for member in typing.get_args(annotation) for parser in _parsers(member)]
        return sorted(members, key=lambda parser: parser is str)
    return [PARSERS[annotation]] if isinstance(annotation, type | None) and annotation in PARSERS else []


def _parse_member(members: Mapping[str, Any], text: str) -> Any:
    if text not in members:
        raise ValueError
    return members[text]


def _parse_none(text: str) -> None:
    if text.lower() != "none":
        raise ValueError


def _parse_bool(text: str) -> bool:
    return _parse_member(BOOLEANS, text.lower())


def _parse_float(text: str) -> float:
    value = float(text)
    if math.isnan(value):
        raise ValueError
    return value


PARSERS: Mapping[Any, Callable[[str], Any]] = {
    None: _parse_none,
    types.NoneType: _parse_none,
    bool: _parse_bool,
    int: int,
    float: _parse_float,
    str: str,
}


def _parameters(constructor: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Parameters that can be given by name; annotations are evaluated where that is possible."""
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    for eval_str in (True, False):
        # Annotations may refer to names that only type checkers import; some built-in functions have no signature.
        with contextlib.suppress(Exception):
            parameters = inspect.signature(constructor, eval_str=eval_str).parameters
            return {name: parameter for name, parameter in parameters.items() if parameter.kind in by_name}
    return {}


def _describe(parameters: Mapping[str, inspect.Parameter]) -> str:
    """The options that can be given as text, with type and default."""
    known = [str(item) for item in parameters.values() if _parsers(item.annotation)]
    return f"its options are {', '.join(known)}" if known else "it has no options"


def _type_name(annotation: Any) -> str:
    return inspect.formatannotation(annotation)
