"""Values held against their TypedDicts, for files that no type checker sees."""

from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict


def mismatches(value: Any, wanted: Any, path: str = "") -> Iterator[str]:
    """Yield where a value is not of its type: keys that are missing or unknown, and values of another kind."""
    origin = get_origin(wanted)
    arguments = get_args(wanted)
    if wanted is Any:
        return
    if is_typeddict(wanted):
        hints = get_type_hints(wanted)
        yield from (f"{path}/{key}: missing" for key in wanted.__required_keys__ - set(value))
        yield from (f"{path}/{key}: unknown" for key in set(value) - set(hints))
        for key in set(value) & set(hints):
            yield from mismatches(value[key], hints[key], f"{path}/{key}")
    elif origin is Literal:
        if value not in arguments:
            yield f"{path}: {value!r}, not one of {arguments}"
    elif origin in (Union, UnionType):
        if all(list(mismatches(value, option, path)) for option in arguments):
            yield f"{path}: {value!r}, not {wanted}"
    elif not isinstance(value, (int, float) if wanted is float else (origin or wanted)):
        yield f"{path}: {type(value).__name__}, not {(origin or wanted).__name__}"
    elif origin in (Mapping, dict):
        for key, item in value.items():
            yield from mismatches(key, arguments[0], f"{path}/{key}")
            yield from mismatches(item, arguments[1], f"{path}/{key}")
    elif origin is list:
        for i, item in enumerate(value):
            yield from mismatches(item, arguments[0], f"{path}/{i}")
