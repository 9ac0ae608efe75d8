"""`build.md`: the commands that make a home folder again from its raw log, as `home.json` says it was made."""

import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from casita.datasets_scripts.schema import HomeFolder
from casita.files import slug
from casita.model_cards.homes import kept_stages, require_summary

# The record of a stage, and the folder's name of its home in a repository -> the arguments of its command.
Arguments = Callable[[Mapping[str, Any], str], list[str]]


def build_facts(home: HomeFolder) -> dict[str, Any]:
    """Return what `build.md` says of a home: raw files with their hashes, commands, the hashes of what they make.

    Raises:
        ValueError: the home was not read, or a file is not as a stage recorded it. FileNotFoundError: no events.
    """
    require_summary(home, "read")
    events = home.require(home.events, "read")
    stages = kept_stages(home)
    made = {name: sha256 for stage in stages.values() for name, sha256 in stage["outputs"].items()}
    return {
        "name": home.name,
        "slug": slug(home.name),
        "raw": {Path(name).name: sha256 for name, sha256 in stages["read"]["inputs"].items()},
        "commands": [" ".join(map(_quoted, command)) for command in build_commands(stages, slug(home.name))],
        "made": dict(sorted(made.items())),
        "written_by": pq.read_metadata(events).created_by,
        "from_language_model": "caption:llm" in stages,
    }


def _quoted(word: str) -> str:
    """Quote a word of a command for the shell, which is to put in `RAW`."""
    return f'"$RAW"/{shlex.quote(word[5:])}' if word.startswith("$RAW/") else shlex.quote(word)


def build_commands(stages: Mapping[str, Mapping[str, Any]], folder: str) -> Iterator[list[str]]:
    """Yield one command a stage, in the order in which they were first run; the raw log lies in `$RAW`.

    Args:
        stages: the records of the stages, from home.json.
        folder: of the home in the repository.
    """
    for stage, record in stages.items():
        name, _, _ = stage.partition(":")
        if name != "synthetic":  # no command of its own: `casita build --synthetic` invents the log, then reads it
            yield ["casita", name, f"built/{folder}", *_ARGUMENTS[name](record, folder)]


def _read(record: Mapping[str, Any], folder: str) -> list[str]:
    names = [Path(name).name for name in record["inputs"]]
    names = ["devices.csv"] if "devices.csv" in names else names  # of a CSV pair the command finds the other
    logs = [f"$RAW/{name}" for name in names]
    settings = record["settings"]
    columns = ["--columns", ",".join(settings["columns"])] if settings["columns"] else []
    unclosed = ["--unclosed", settings["unclosed"]] if settings.get("unclosed", "next") != "next" else []
    layout = ["--layout", f"homes/{folder}/layout.json"]
    return ["--log", *logs, *layout, "--home", settings["home"], *columns, *unclosed]


def _windows(record: Mapping[str, Any], folder: str) -> list[str]:
    arguments = []
    settings = record["settings"]
    for name, value in settings.items():
        if name == "layout" or (name == "length" and settings["strategy"] != "fixed_length"):
            continue
        if value is not None or name == "max_gap_min":
            values = value if isinstance(value, list) else ["none" if value is None else value]
            arguments += [f"--{name.replace('_', '-')}", *map(str, values)]
    return arguments


def _flags(**flag_of: str) -> Arguments:
    """Return the arguments of a stage whose settings are flags by another name: setting -> flag."""

    def arguments(record: Mapping[str, Any], folder: str) -> list[str]:
        given = {flag: record["settings"].get(name) for name, flag in flag_of.items()}
        return [part for flag, value in given.items() if value is not None for part in (f"--{flag}", str(value))]

    return arguments


_ARGUMENTS: dict[str, Arguments] = {
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
