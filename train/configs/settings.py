"""Settings of a command as a frozen dataclass: read from YAML and from flags, each mistake told with its place."""

import argparse
import dataclasses
import difflib
import types
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

C = TypeVar("C")


class ContradictingSettings(ValueError):
    """Settings that are right one by one and make no sense together."""


def setting(told: str, **default: Any) -> Any:
    """A field whose meaning travels with it, to `--help`."""
    return field(metadata={"help": told}, **default)


def read_settings(kind: type[C], file: Path | None, overrides: Mapping[str, Any] | None = None) -> C:
    """The dataclass `kind` with the values of a YAML file, if one is given, and `overrides` on top.

    Override values may be text, as the command line gives them.

    Raises:
        ValueError: unknown or doubled keys, values of another type or out of range; it names file and line, or flag.
    """
    values: dict[str, Any] = {}
    for key, value, line in yaml_items(file) if file else ():
        values[key] = typed(kind, key, value, f"{file}:{line}")
    for key, value in (overrides or {}).items():
        parsed = _parse_text(value) if isinstance(value, str) else value
        values[key] = typed(kind, key, parsed, f"--{key}")
    fields: Any = dataclasses.fields(kind)  # type: ignore[arg-type]
    missing = [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in values]
    if missing:
        told = f"{file}: no value for {', '.join(missing)}. Write it there or give" if file else "missing:"
        raise ValueError(f"{told} --{missing[0]} FOLDER.")
    return kind(**values)


def add_setting_flags(parser: argparse.ArgumentParser, kind: type, but: tuple[str, ...] = ()) -> None:
    """A flag for every setting of `kind` except `but`, whose help tells its type and default."""
    for told in dataclasses.fields(kind):
        if told.name in but:
            continue
        text = told.metadata["help"].replace("%", "%%")
        if told.default is not dataclasses.MISSING:
            text += f" ({told_type(told.type)}; default {'none' if told.default is None else told.default})"
        parser.add_argument(f"--{told.name}", default=argparse.SUPPRESS, metavar="X", help=text)


def given_settings(args: argparse.Namespace, kind: type) -> dict[str, Any]:
    """Those of `kind`'s settings that the command line gave."""
    names = {told.name for told in dataclasses.fields(kind)}
    return {name: value for name, value in vars(args).items() if name in names}


def yaml_items(file: Path) -> list[tuple[str, Any, int]]:
    """Key, value and line number of a flat YAML mapping."""
    try:
        root = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: expected YAML, found something else ({error}).") from None
    if root is None:
        return []
    if not isinstance(root, yaml.MappingNode):
        raise ValueError(f"{file}: expected lines of `key: value`, found a {type(content).__name__}.")
    lines: dict[str, int] = {}
    for key, _ in root.value:
        line = key.start_mark.line + 1
        if key.value in lines:  # YAML itself would keep the last one and say nothing
            raise ValueError(f"{file}:{line}: {key.value} is already set in line {lines[key.value]}. Remove one.")
        lines[key.value] = line
    return [(str(key), value, lines.get(str(key), 1)) for key, value in content.items()]


def _parse_text(text: str) -> Any:
    """A flag's text as YAML would read it; text that is no YAML (a path with a colon, say) stays text."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return text if isinstance(value, (dict, list)) else value


def typed(kind: type, key: str, value: Any, where: str) -> Any:
    """`value` as the type that setting `key` declares; no such key or another type is a `ValueError`."""
    kinds = get_type_hints(kind)
    if key not in kinds:
        near = difflib.get_close_matches(key.replace("-", "_"), kinds, n=1)
        hint = f"did you mean {near[0]}?" if near else f"settings: {', '.join(kinds)}."
        raise ValueError(f"{where}: there is no setting {key!r}; {hint}")
    wanted = kinds[key]
    try:
        return _coerce(value, wanted)
    except TypeError:
        raise ValueError(f"{where}: {key} should be {told_type(wanted)}, found {value!r}.") from None


def told_type(kind: Any) -> str:
    """A setting's type for people: `int | none`, `cls | mean | cls_mean`."""
    if get_origin(kind) is Literal:
        return " | ".join(map(str, get_args(kind)))
    if members := get_args(kind):
        return " | ".join(map(told_type, members))
    return {types.NoneType: "none", bool: "true | false", str: "text"}.get(kind, kind.__name__)


def _coerce(value: Any, kind: Any) -> Any:
    """`value` as `kind`, or `TypeError`; only losslessly: 3 is a float, 3.0 is no int."""
    if get_origin(kind) in (Union, types.UnionType):
        for member in sorted(get_args(kind), key=lambda member: member is not types.NoneType):  # none before any text
            try:
                return _coerce(value, member)
            except TypeError:
                continue
        raise TypeError
    if get_origin(kind) is Literal and value in get_args(kind):
        return value
    if kind is types.NoneType and value in (None, "none"):
        return None
    if kind is float and isinstance(value, str):
        return _float_from(value)  # YAML 1.1 reads 3e-4 as text: it wants 3.0e-4
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and type(value) is kind:  # `is`: True is an int to isinstance
        return value
    raise TypeError


def _float_from(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise TypeError from None
