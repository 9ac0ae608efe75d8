"""Settings of a command as a frozen dataclass, read from YAML and from flags; an error names the mistake's place."""

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
Value = bool | int | float | str | None  # of a setting
FlatYaml = list[tuple[str, Any, int]]  # key, value and line number


class ContradictingSettings(ValueError):
    """Settings that are right one by one and make no sense together."""


def setting(description: str, **default: Any) -> Any:
    """Return a dataclass field whose description travels with it, to `--help`."""
    return field(metadata={"help": description}, **default)


def flag_of(name: str) -> str:
    """Return the flag that sets a setting: `--batch-size` for `batch_size`."""
    return "--" + name.replace("_", "-")


def read_settings(config_class: type[C], file: Path | None, overrides: Mapping[str, Any] | None = None) -> C:
    """Return a configuration with the values of a YAML file, if one is given, and `overrides` on top.

    Override values may be text, as the command line gives them.

    Raises:
        ValueError: unknown or doubled keys, values of another type or out of range; it names file and line, or flag.
    """
    overrides = overrides or {}
    values: dict[str, Any] = {}
    for key, value, line in read_flat_yaml(file) if file else ():
        values[key] = _convert_setting(config_class, key, value, f"{file}:{line}: ", key)
    for key, value in overrides.items():
        from_flag = isinstance(value, str)
        parsed = _parse_text(value) if from_flag else value
        values[key] = _convert_setting(config_class, key, parsed, "", flag_of(key) if from_flag else key)
    fields: Any = dataclasses.fields(config_class)  # type: ignore[arg-type]
    missing = [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in values]
    if missing:
        problem = f"{file}: no value for {', '.join(missing)}. Write it there or give" if file else "missing:"
        raise ValueError(f"{problem} {flag_of(missing[0])} FOLDER.")
    try:
        return config_class(**values)
    except ValueError as error:
        name = str(error).removeprefix("setting ").partition("=")[0]
        if not isinstance(overrides.get(name), str):
            raise
        raise type(error)(str(error).replace(f"setting {name}", flag_of(name), 1)) from None


def add_setting_flags(parser: argparse.ArgumentParser, config_class: type, skip: tuple[str, ...] = ()) -> None:
    """Give `parser` a flag for every setting except `skip`, its help with type and default."""
    for item in dataclasses.fields(config_class):
        if item.name in skip:
            continue
        text = item.metadata["help"].replace("%", "%%")
        if item.default is not dataclasses.MISSING:
            text += f" ({_type_name(item.type)}; default {'none' if item.default is None else item.default})"
        parser.add_argument(flag_of(item.name), default=argparse.SUPPRESS, metavar="X", help=text)


def given_settings(args: argparse.Namespace, config_class: type) -> dict[str, Any]:
    """Return those settings that the command line gave."""
    names = {item.name for item in dataclasses.fields(config_class)}
    return {name: value for name, value in vars(args).items() if name in names}


def read_flat_yaml(file: Path) -> FlatYaml:
    """Return key, value and line number of each item of a flat YAML mapping.

    Raises:
        ValueError: no YAML, no mapping, or a key that is there twice.
    """
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


def _parse_text(text: str) -> Value:
    """Read a flag's text as YAML would; text that is no YAML (a path with a colon, say) stays text."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return text if isinstance(value, (dict, list)) else value


def _convert_setting(config_class: type, key: str, value: Any, place: str, name: str) -> Value:
    """Return `value` as the type that setting `key` declares; errors begin with `place` and call it `name`."""
    declared = get_type_hints(config_class)
    if key not in declared:
        near = difflib.get_close_matches(key.replace("-", "_"), declared, n=1)
        hint = f"did you mean {near[0]}?" if near else f"settings: {', '.join(declared)}."
        raise ValueError(f"{place}there is no setting {key!r}; {hint}")
    try:
        return _convert(value, declared[key])
    except (TypeError, ValueError):
        raise ValueError(f"{place}{name} should be {_type_name(declared[key])}, found {value!r}.") from None


def _type_name(declared: Any) -> str:
    """Return a setting's type for people: `int | none`, `cls | mean | cls_mean`."""
    if get_origin(declared) is Literal:
        return " | ".join(map(str, get_args(declared)))
    if members := get_args(declared):
        return " | ".join(map(_type_name, members))
    return {types.NoneType: "none", bool: "true | false", str: "text"}.get(declared, declared.__name__)


def _convert(value: Any, declared: Any) -> Any:
    """Return `value` as a type, or raise `TypeError` or `ValueError`; losslessly: 3 is a float, 3.0 is no int."""
    if get_origin(declared) in (Union, types.UnionType):
        for member in sorted(get_args(declared), key=lambda member: member is not types.NoneType):  # none before text
            try:
                return _convert(value, member)
            except (TypeError, ValueError):
                continue
        raise TypeError
    if get_origin(declared) is Literal and value in get_args(declared):
        return value
    if declared is types.NoneType and value in (None, "none"):
        return None
    if declared is float and isinstance(value, str):
        return float(value)  # YAML 1.1 reads 3e-4 as text: it wants 3.0e-4
    if declared is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(declared, type) and type(value) is declared:  # `is`: True is an int to isinstance
        return value
    raise TypeError
