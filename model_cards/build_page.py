"""`build.md`: the commands that make a home folder again from its raw log, as `home.json` says it was made."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from casita.model_cards.homes import ReleasedHome


def build_facts(home: ReleasedHome) -> dict[str, Any]:
    """What `build.md` tells of a home: raw files with their hashes, commands, and the hashes of what they make."""
    home.summary("read")
    stages = home.kept_stages()
    made = {name: told for stage in stages.values() for name, told in stage["outputs"].items()}
    return {
        "home": home.name,
        "slug": home.slug,
        "raw": {Path(name).name: told for name, told in stages["read"]["inputs"].items()},
        "commands": [" ".join(map(_quoted, command)) for command in build_commands(home)],
        "made": dict(sorted(made.items())),
        "written_by": pq.read_metadata(home.root / "events.parquet").created_by,
        "asked_a_model": any(name == "caption:llm" for name in stages),
    }


def _quoted(part: str) -> str:
    """A word of a command for the shell, which is to put in `RAW`."""
    return f'"$RAW"/{shlex.quote(part[5:])}' if part.startswith("$RAW/") else shlex.quote(part)


def build_commands(home: ReleasedHome) -> Iterator[list[str]]:
    """One command a recorded stage, in the order in which they were first run; the raw log lies in `$RAW`."""
    for stage, told in home.kept_stages().items():
        name, _, _ = stage.partition(":")
        if name == "synthetic":  # no command of its own: `casita build --synthetic` invents the log, then reads it
            continue
        arguments = _ARGUMENTS[name](home, told["settings"], told)
        yield ["casita", name, f"built/{home.slug}", *arguments]


def _read(home: ReleasedHome, settings: Mapping[str, Any], told: Mapping[str, Any]) -> list[str]:
    names = [Path(name).name for name in told["inputs"]]
    names = ["devices.csv"] if "devices.csv" in names else names  # of a CSV pair the command finds the other
    logs = [f"$RAW/{name}" for name in names]
    columns = ["--columns", ",".join(settings["columns"])] if settings["columns"] else []
    return ["--log", *logs, "--layout", f"homes/{home.slug}/layout.json", "--home", settings["home"], *columns]


def _windows(home: ReleasedHome, settings: Mapping[str, Any], told: Mapping[str, Any]) -> list[str]:
    arguments = []
    for name, value in settings.items():
        if name == "layout" or (name == "length" and settings["strategy"] != "fixed_length"):
            continue
        if value is not None or name == "max_gap_min":
            values = value if isinstance(value, list) else ["none" if value is None else value]
            arguments += [f"--{name.replace('_', '-')}", *map(str, values)]
    return arguments


def _flags(**flags: str) -> Any:
    """Arguments of a stage whose settings are flags by another name: setting -> flag."""

    def arguments(home: ReleasedHome, settings: Mapping[str, Any], told: Mapping[str, Any]) -> list[str]:
        given = {flag: settings[name] for name, flag in flags.items() if settings.get(name) is not None}
        return [part for flag, value in given.items() for part in (f"--{flag}", str(value))]

    return arguments


_ARGUMENTS = {
    "read": _read,
    "windows": _windows,
    "draw": _flags(size="size", radius="radius", palette="palette"),
    "embed-images": _flags(
        vision_model="vision-model", normalization="normalization", dtype="dtype", revision="revision"
    ),
    "caption": _flags(
        style="caption-style",
        captions="captions",
        seed="seed",
        backend="llm-backend",
        model="llm-model",
        temperature="llm-temperature",
        max_tokens="llm-max-tokens",
    ),
    "embed-text": _flags(text_model="text-model", style="caption-style"),
}
