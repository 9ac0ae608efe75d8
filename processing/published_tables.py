"""Tables in a data set on the Hub, or in a folder like one: an index has the file of each home and vision model."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import hf_hub_download

from .table_files import find_table

INDEX = "image_embeddings/index.json"  # a list of {file, home, name, vision_model, sha256, ...}
LARGEST_INDEX = 16_000_000  # bytes: a hundred thousand tables


def find_published(
    source: str | os.PathLike, home: str | None, vision_model: str | None, revision: str | None
) -> Path:
    """Find the file of a home's table by a vision model, fetched into the cache and checked by the index's hash.

    A repository without an index is a model's, with one table.

    Raises:
        FileNotFoundError: no such repository or folder. ValueError: no such table, or several; a file that is not the
            one in the index.
    """
    try:
        index = _fetch(source, INDEX, revision)
    except (OSError, ValueError) as error:  # absent, offline, no such revision, or no repository's name
        reason = " ".join(str(error).split())[:160].rstrip(" .")
        try:
            return find_table(source, revision)
        except FileNotFoundError as none:
            raise FileNotFoundError(
                f"{none} Nor a data set with {INDEX} ({type(error).__name__}: {reason})."
            ) from None
    entry = _choose(_entries(index), f"{source}", home, vision_model)
    # the index's own commit: a push in between must not pair it with another file
    commit = None if Path(source).is_dir() else index.parents[1].name
    path = _fetch(source, entry["file"], commit)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != entry["sha256"]:
        raise ValueError(
            f"{path}: SHA-256 is {digest}, the index of {source} has {entry['sha256']}: damaged or tampered with. "
            "Remove it from the cache and load it again."
        )
    return path


def _fetch(source: str | os.PathLike, name: str, revision: str | None) -> Path:
    if not Path(source).is_dir():
        return Path(hf_hub_download(str(source), name, repo_type="dataset", revision=revision))
    path = Path(source) / name
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    return path


def _entries(index: Path) -> list[Mapping[str, Any]]:
    """Read the index, of which nothing is believed unchecked."""
    if index.stat().st_size > LARGEST_INDEX:
        raise ValueError(f"{index}: {index.stat().st_size} bytes, expected at most {LARGEST_INDEX}.")
    try:
        entries = json.loads(index.read_text(encoding="utf-8"))
        for entry in entries:
            parts = PurePosixPath(entry["file"]).parts
            if not {"home", "name", "vision_model", "sha256"} <= entry.keys() or {"/", ".."} & set(parts):
                raise ValueError(f"entry {entry['file']!r} lacks something, or leads out of the data set")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index}: no index of embedding tables ({error}).") from None
    return entries


def _choose(
    entries: list[Mapping[str, Any]], source: str, home: str | None, vision_model: str | None
) -> Mapping[str, Any]:
    """Return the one entry of that home and that vision model, by its short name or its Hub id."""
    fitting = [
        entry
        for entry in entries
        if home in (None, entry["home"]) and vision_model in (None, entry["name"], entry["vision_model"])
    ]
    if len(fitting) == 1:
        return fitting[0]
    known = ", ".join(f"({entry['home']}, {entry['name']})" for entry in (fitting or entries)[:10])
    problem = "several tables fit; name one of" if fitting else "no such table; there are"
    raise ValueError(
        f"{source}: home={home!r}, vision_model={vision_model!r}: {problem} (home, vision model) {known}."
    )
